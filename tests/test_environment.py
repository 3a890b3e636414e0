"""Versions are chosen in pyproject.toml; whatever repeats them must agree."""

import importlib.metadata
import re
import sys
import tomllib

import pytest
import yaml

from experiments.figures import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = dict(pin.split("==") for pin in PROJECT["dependencies"])
TEXT = (ROOT / "requirements.txt").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
# "name==version ; marker" → its hashes; a line that ends in a backslash goes on in the next one
LINES = [line for line in re.sub(r"\\\n", "", TEXT).splitlines() if not line.startswith("#")]
LOCK = {
    pin.strip(): [one.strip() for one in hashes]
    for pin, *hashes in (line.split("--hash=") for line in LINES)
}


@pytest.mark.parametrize("package", PINS)
def test_lock_holds_the_pin(package):
    assert [pin for pin in LOCK if pin.split(";")[0].strip() == f"{package}=={PINS[package]}"], (
        f"requirements.txt does not lock {package}=={PINS[package]}: run make lock"
    )


def test_lock_is_exact_and_names_no_index():
    assert len(LOCK) > len(PINS)
    bad = [pin for pin in LOCK if not re.fullmatch(r"[a-z0-9.-]+==[^\s@]+( ; .+)?", pin)]
    assert bad == []


def test_every_pin_has_its_hashes():
    """pip then refuses a file that is not the one that was locked, and any package that is not in the lock."""
    bad = [
        pin
        for pin, hashes in LOCK.items()
        if not hashes or not all(re.fullmatch("sha256:[0-9a-f]{64}", one) for one in hashes)
    ]
    assert bad == [], "run make lock"


def test_conda_installs_the_lock_and_nothing_else():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    python, pip, by_pip = yaml.safe_load(text)["dependencies"]
    assert (pip, by_pip) == (
        "pip",
        {"pip": ["-r requirements.txt"]},
    )  # "-e ." has no hash and would be refused beside it
    own = "pip install --no-deps --no-build-isolation -e ."
    assert (
        f"#   {own}" in text
        and own.removeprefix("pip ").replace("install", "install -q --progress-bar off") in MAKEFILE
    )
    version = tuple(int(part) for part in python.removeprefix("python=").split("."))
    assert version >= (3, 11) and PROJECT["requires-python"] == ">=3.11"


@pytest.mark.parametrize("package", PINS)
def test_installed_version_is_the_pin(package):
    if not sys.prefix.startswith(str(ROOT)):
        pytest.skip("this Python is not the project's .venv, so its versions are its own affair")
    assert importlib.metadata.version(package).split("+")[0] == PINS[package]
