"""Pins, licences, a clone on Windows, and a wheel that no folder called lib can hide."""

import ast
import hashlib
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
REGISTRY = tomllib.loads((ROOT / "data/registry.toml").read_text(encoding="utf-8"))
LOCK = re.sub(r"\\\n", "", (ROOT / "requirements.txt").read_text(encoding="utf-8"))


def tracked(*patterns: str) -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    listing = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / line for line in listing.stdout.splitlines() if (ROOT / line).exists()]


def test_the_lock_holds_every_pin_and_every_pin_its_hashes():
    lines = [line for line in LOCK.splitlines() if line and not line.startswith("#")]
    locked = {line.split()[0] for line in lines}
    pins = PYPROJECT["dependency-groups"]["repository"]
    assert [pin for pin in pins if pin not in locked] == [], "run make lock"
    assert [line for line in lines if "--hash=sha256:" not in line] == [], "run make lock"


def test_every_package_and_all_data_have_a_licence():
    table = (ROOT / "LICENCES.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")] for line in table.splitlines()]
    packages = {row[1].lower().replace("_", "-"): row[3] for row in rows if len(row) == 5}
    pins = [pin.split("==")[0] for pin in PYPROJECT["dependency-groups"]["repository"]]
    assert [pin for pin in pins if pin not in packages] == [], "run make licences"
    copyleft = [name for name, licence in packages.items() if "GPL" in licence]
    known = ["docutils", "pi-heif"]
    assert copyleft == known, "read its licence, then say in LICENCES.md why it may stay"
    assert [name for name in REGISTRY if f"\n| {name} | " not in table] == []


def test_a_clone_with_the_line_ends_of_windows_keeps_its_checksums(tmp_path):
    tracked()
    clone = tmp_path / "clone"
    subprocess.run(
        ["git", "clone", "-q", "-c", "core.autocrlf=true", str(ROOT), str(clone)], check=True
    )
    checked = 0
    for entry in REGISTRY.values():
        if "bundled" not in entry:
            continue
        for file in entry["files"]:
            content = (clone / "data" / entry["bundled"] / file["name"]).read_bytes()
            assert hashlib.sha256(content).hexdigest() == file["sha256"], file["name"]
            checked += 1
    assert checked > 10
    scripts = [clone / ".ci/run", clone / "Makefile"]
    assert [path.name for path in scripts if b"\r" in path.read_bytes()] == []


def test_the_wheel_is_imported_beside_a_folder_called_lib(tmp_path):
    """In a user's project with a `lib` of its own, and without this repository on the path."""
    source = tmp_path / "source"
    shutil.copytree(ROOT / "lib", source / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, source], check=True
    )
    (wheel,) = tmp_path.glob("score_geodesics-*.whl")
    site = tmp_path / "site"
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--target", site, wheel], check=True
    )
    assert sorted(path.name for path in site.iterdir() if "dist-info" not in path.name) == [
        "score_geodesics"
    ]
    project = tmp_path / "project"
    (project / "lib").mkdir(parents=True)
    (project / "lib" / "__init__.py").write_text("raise ImportError('the lib of the user')\n")
    program = f"""
import sys
sys.path = [{str(project)!r}, {str(site)!r}] + [p for p in sys.path if p and p != {str(ROOT)!r}]
import torch
from score_geodesics import SphereScore, SteinMetric, geodesic
start, end = torch.eye(3, dtype=torch.float64)[:2]
path = geodesic(SteinMetric(SphereScore(), lam=10.0), start, end)
assert path.converged.all()
print(sys.modules["score_geodesics"].__file__, "lib" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=project, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(site / "score_geodesics" / "__init__.py"), "False"]


UNPICKLING = re.compile(r"^(pickle|dill|cloudpickle)\.|^joblib\.load$|read_pickle$|^torch\.load$")
LOADING = ("from_pretrained", "from_single_file", "from_ckpt")


def calls() -> list[tuple[str, str, dict[str, str]]]:
    """Every call in the sources that a user runs: place, function, keyword arguments."""
    found = []
    for path in tracked("lib/*.py", "experiments/*.py", "workflow/*.py", "benchmarks/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                place = f"{path.relative_to(ROOT).as_posix()}:{node.lineno}"
                given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                found.append((place, ast.unparse(node.func), given))
    return found


def test_nothing_is_unpickled():
    # Published networks of evaluation exist as .pth only; they are read after their checksum.
    unpickling = [call for call in calls() if UNPICKLING.search(call[1])]
    assert {call[1] for call in unpickling} == {"torch.load"}
    for place, _, given in unpickling:
        assert place.startswith("experiments/evaluation/"), place
        assert given.get("weights_only") == "True", place
    for place, function, given in calls():
        assert given.get("allow_pickle", "False") == "False", place
        assert given.get("trust_remote_code", "False") == "False", place
        reads_weights = function.rpartition(".")[2] in LOADING
        if reads_weights and not re.search("(?i)scheduler|tokenizer", function):
            assert given.get("use_safetensors") == "True", f"{place}: {function}"
