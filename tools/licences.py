"""LICENCES.md: the licence of every locked package, of all data and of the bundled models, and what follows for a user.

    make licences        after `make lock`, or when data/registry.toml changes

A package says its licence in its own metadata. One that is not installed here (for another system) keeps the row it has at the
same version, or is looked up in READ. A licence that nobody has judged yet (JUDGED, DATA) stops the tool, and a test with it.
"""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "LICENCES.md"
FREE, WEAK, OWNED = "", "weak copyleft", "proprietary"
# Terms of SPDX expressions that may stand beside our own code, and their kind.
JUDGED = dict.fromkeys(
    (
        "0BSD",
        "Apache-2.0",
        "BSD",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "CC0-1.0",
        "CNRI-Python",
        "ISC",
        "LLVM-exception",
        "MIT",
        "MIT-0",
        "MIT-CMU",
        "PSF-2.0",
        "Public-Domain",
        "Zlib",
    ),
    FREE,
) | {"MPL-2.0": WEAK, "LicenseRef-NVIDIA-Proprietary": OWNED}
WORDS = {
    "apache": "Apache-2.0",
    "mit": "MIT",
    "mpl": "MPL-2.0",
    "psf": "PSF-2.0",
    "python software": "PSF-2.0",
    "isc": "ISC",
    "nvidia": "LicenseRef-NVIDIA-Proprietary",
    "bsd": "BSD",
}
# name → version, licence: read by hand in the package's own files, because its metadata says nothing, too much, or is not here.
READ = {
    "aiohappyeyeballs": ("2.7.1", "PSF-2.0"),
    "aiohttp": ("3.14.5", "Apache-2.0 AND MIT"),
    "aiosignal": ("1.4.0", "Apache-2.0"),
    "appnope": ("1.0.0", "BSD-2-Clause"),
    "colorama": ("0.4.6", "BSD-3-Clause"),
    "frozenlist": ("1.8.0", "Apache-2.0"),
    "httpx2-jsfetch": ("1.0", "BSD-3-Clause"),
    "multidict": ("7.2.1", "Apache-2.0"),
    "propcache": ("0.5.4", "Apache-2.0"),
    "pywinpty": ("3.1.2", "MIT"),
    "yarl": ("1.25.1", "Apache-2.0"),
    "cuda-toolkit": (
        "13.2.2",
        "LicenseRef-NVIDIA-Proprietary",
    ),  # an empty package that asks for the others
    "docutils": (
        "0.22.4",
        "Public-Domain AND BSD-2-Clause AND PSF-2.0",
    ),  # its GPL part, an Emacs mode, is not in the wheel
    "sphinx-mathjax-offline": (
        "0.0.2",
        "MIT AND Apache-2.0",
    ),  # its own few lines, and MathJax 3.2.2
}
# licence as data/registry.toml has it → what follows for a user
DATA = {
    "CC BY 4.0 (UCI); BSD-3 (scikit-learn)": "name the source (README, Sources)",
    "LeCun, Cortes, Burges; none stated": "see MNIST below",
    "that of its training data: LeCun, Cortes, Burges; none stated": "learned from MNIST, see below",
    "made by this project": "learned from MNIST, see below",
    "BSD-3 (torchvision)": "see ImageNet below",
    "Apache-2.0": "keep the notice",
    "Apache-2.0, as its photographs": "keep the notice: Sign Language Digits Dataset, A. Mavi and others, Apache-2.0",
}
HEAD = """# Licences

Made by `make licences` (tools/licences.py) from the packages' own metadata and data/registry.toml; a test compares. No legal
advice: it repeats what packages and data say of themselves.

## This project

{own}

## Data and models

| name | what | licence | in this repository | what follows |
|---|---|---|---|---|
{data}
| Stable Diffusion 1.x, 2.x | any by hub id or folder | CreativeML Open RAIL-M, RAIL++-M | no | forbids some uses, also \
of what is made from the weights; read it before the first download |

* **MNIST**: its makers' page states no licence; Keras' documentation names CC BY-SA 3.0 and LeCun and Cortes as owners of the
  copyright. Whether numbers that were learned from images are a work derived from these is not settled: who holds that they are
  names the makers and passes the weights on under the same licence.
* **ImageNet**: BSD-3 is torchvision's code. torchvision says that weights may have terms of their own from their data set, and
  ImageNet's images are for non-commercial research and education. Only LPIPS wants these weights, where a user has them.

## Packages

Nothing of these is in this repository: pip installs them, each file checked against its sha256 in requirements.txt.

* **weak copyleft** (MPL-2.0) holds for the package's own files: who changes these and passes them on shows the changes. Code that
  uses them is free.
* **proprietary**: NVIDIA's CUDA libraries, which PyTorch asks for on Linux. Free of charge; NVIDIA's licence agreement restricts
  passing them on, for instance inside a container image. A PyTorch built for CPUs does without them.
* No package asks anything of this project's own code, and none excludes commercial use.
* Compiled packages bring libraries along (OpenBLAS; GCC's runtime under the GPL with its exception for programs that use it; and
  others): their licence files, installed beside them, list these.

| package | version | licence | | used for |
|---|---|---|---|---|
{packages}
"""


@dataclass(frozen=True)
class Package:
    """A locked package. use: the group of pyproject.toml that it stands in, or which packages ask for it."""

    name: str
    version: str
    licence: str
    use: str

    def row(self) -> str:
        return f"| {self.name} | {self.version} | {self.licence} | {kind(self.name, self.licence)} | {self.use} |"


def kind(name: str, licence: str) -> str:
    """What the terms of an expression amount to: "", weak copyleft or proprietary. ValueError for one that is not judged."""
    terms = set(re.findall(r"[\w.-]+", licence)) - {"AND", "OR", "WITH"}
    if unknown := sorted(terms - JUDGED.keys()) or ([] if terms else ["none"]):
        raise ValueError(
            f"{name} has the licence {licence!r}, and nobody has judged {', '.join(unknown)}: read it, then add it "
            "to JUDGED in tools/licences.py, or drop the package"
        )
    found = {JUDGED[term] for term in terms}
    return OWNED if OWNED in found else WEAK if WEAK in found else FREE


def licence(dist: importlib.metadata.Distribution) -> str:
    """What an installed package says: its SPDX expression, else its words in SPDX; "" if it says nothing that is understood."""
    said = dist.metadata
    if expression := said.get("License-Expression"):
        return expression
    classes = [text for text in said.get_all("Classifier", []) if text.startswith("License")]
    for text in [*(said.get("License") or "").strip().splitlines()[:1], *classes]:
        if text in JUDGED or " AND " in text:
            return text
        for word, spdx in WORDS.items():
            if re.search(rf"\b{word}", text.lower().replace("license ::", "")):
                return _bsd(dist) if spdx == "BSD" else spdx
    return ""


def _bsd(dist: importlib.metadata.Distribution) -> str:
    """Which BSD licence: the text of the one with three clauses forbids to advertise with the makers' names."""
    files = [
        file
        for file in dist.files or []
        if ".dist-info" in str(file) and re.match("(?i)licen|copying", file.name)
    ]
    texts = [
        path.read_text(encoding="utf-8", errors="replace")
        for file in files
        if (path := Path(file.locate())).is_file()
    ]
    if not any(texts):
        return "BSD"
    return (
        "BSD-3-Clause"
        if any("either the name" in text or "names of its" in text for text in texts)
        else "BSD-2-Clause"
    )


def pins(text: str) -> dict[str, list[str]]:
    """Locked packages: name → versions (more than one where they differ between Pythons)."""
    found: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([a-z0-9.-]+)==(\S+)", text, re.MULTILINE):
        found.setdefault(name, []).append(version)
    return found


def packages(lock: dict[str, list[str]]) -> Iterator[Package]:
    """A row a locked package; ValueError for one whose licence is not known."""
    installed = {_plain(dist.metadata["Name"]): dist for dist in importlib.metadata.distributions()}
    groups, askers, before = _groups(), _askers(lock, installed), _before()
    for name, versions in lock.items():
        version, dist = " / ".join(versions), installed.get(name)
        here = dist is not None and dist.version.split("+")[0] in versions
        read = READ[name][1] if READ.get(name, ("",))[0] in versions else ""
        found = read or (licence(dist) if here else before.get((name, version), ""))
        if not found:
            raise ValueError(
                f"the licence of {name} {version} is unknown: run this where it is installed, or read it in the "
                "package's files and add it to READ in tools/licences.py"
            )
        asked = ", ".join(askers.get(name, [])[:3])
        use = groups.get(name) or (
            f"for {asked}" if asked else before.get((name, version, "use"), "for other packages")
        )
        yield Package(name, version, found, use)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _groups() -> dict[str, str]:
    """Direct dependencies: name → the comment above it in pyproject.toml."""
    found, group = {}, ""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for line in text.partition("dependencies = [")[2].partition("\n]")[0].splitlines():
        if pin := re.match(r'\s*"([^=\[]+)', line):
            found[pin[1]] = f"**{group}**"
        elif line.strip().startswith("#"):
            group = line.strip("# ")
    return found


def _askers(
    lock: dict[str, list[str]], installed: dict[str, importlib.metadata.Distribution]
) -> dict[str, list[str]]:
    """Which locked packages ask for a package: name → names."""
    found: dict[str, list[str]] = {}
    for name, dist in sorted(installed.items()):
        for asked in dist.requires or [] if name in lock else []:
            if "extra ==" not in asked:
                found.setdefault(_plain(re.match(r"[\w.-]+", asked)[0]), []).append(name)
    return {name: sorted(set(who)) for name, who in found.items()}


def _before() -> dict[tuple[str, ...], str]:
    """The rows that stand in LICENCES.md: (name, version) → licence, (name, version, "use") → what for."""
    found: dict[tuple[str, ...], str] = {}
    for line in TABLE.read_text(encoding="utf-8").splitlines() if TABLE.exists() else []:
        if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 5:
            found |= {(cells[0], cells[1]): cells[2], (cells[0], cells[1], "use"): cells[4]}
    return found


def data_rows(registry: dict[str, dict]) -> Iterator[str]:
    """A row a registry entry; ValueError for a licence that nobody has judged."""
    for name, entry in registry.items():
        if entry.get("licence") not in DATA:
            raise ValueError(
                f"nobody has judged the licence of {name}, {entry.get('licence')!r}: add what follows from it to "
                "DATA in tools/licences.py"
            )
        here = "yes" if "bundled" in entry else "no"
        yield f"| {name} | {entry['title']} | {entry['licence']} | {here} | {DATA[entry['licence']]} |"


def text() -> str:
    """LICENCES.md as it should be."""
    lock = pins((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    registry = tomllib.loads((ROOT / "data/registry.toml").read_text(encoding="utf-8"))
    own = next((path.name for path in sorted(ROOT.glob("LICEN[CS]E*")) if path != TABLE), None)
    said = (
        f"See [{own}]({own})."
        if own
        else (
            "**None has been chosen yet.** Until the maintainers add a LICENSE file, the law of most countries reserves all rights: "
            "others may read, but not copy, change or pass on."
        )
    )
    return HEAD.format(
        own=said,
        data="\n".join(data_rows(registry)),
        packages="\n".join(p.row() for p in packages(lock)),
    )


if __name__ == "__main__":
    TABLE.write_text(text(), encoding="utf-8")
    print(f"{TABLE.name}: {TABLE.read_text(encoding='utf-8').count(chr(10) + '| ')} rows")
