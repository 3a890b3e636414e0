"""LICENCES.md: a row for every package, all data and every bundled model; nothing unknown, nothing that nobody has judged."""

import re
from types import SimpleNamespace

import pytest

from experiments.data import registry
from tools import licences

LOCK = licences.pins((licences.ROOT / "requirements.txt").read_text(encoding="utf-8"))
TEXT = licences.TABLE.read_text(encoding="utf-8")


def test_every_locked_package_has_a_row_of_its_version():
    rows = {
        tuple(cell.strip() for cell in line.split("|")[1:3])
        for line in TEXT.splitlines()
        if line.count("|") == 6
    }
    missing = [name for name, versions in LOCK.items() if (name, " / ".join(versions)) not in rows]
    assert len(LOCK) > 150 and missing == [], "run make licences"


def test_every_entry_of_the_registry_has_a_row():
    assert [
        name for name in registry() if f"\n| {name} | {registry()[name]['title']} | " not in TEXT
    ] == [], "run make licences"


def test_the_table_is_what_the_tool_makes_of_the_packages_installed_here():
    assert licences.text() == TEXT, "run make licences"


def test_nothing_is_unknown():
    assert not re.search(r"(?i)unknown|\| *\| *[a-z]+ *\|$", TEXT)


@pytest.mark.parametrize(
    "licence, kind",
    [
        ("MIT", ""),
        ("Apache-2.0 WITH LLVM-exception AND MIT", ""),
        ("MPL-2.0 AND MIT", "weak copyleft"),
        ("LicenseRef-NVIDIA-Proprietary", "proprietary"),
    ],
)
def test_kinds(licence, kind):
    assert licences.kind("toy", licence) == kind


@pytest.mark.parametrize(
    "licence",
    ["GPL-3.0-only", "AGPL-3.0-or-later", "MIT AND LGPL-2.1-only", "CC-BY-NC-4.0", "Other", ""],
)
def test_a_licence_that_nobody_has_judged_stops_the_tool(licence):
    with pytest.raises(ValueError, match=r"toy has the licence .*drop the package"):
        licences.kind("toy", licence)


def test_a_package_or_data_without_a_licence_stops_the_tool():
    with pytest.raises(ValueError, match="licence of left-pad 1.0 is unknown"):
        list(licences.packages(LOCK | {"left-pad": ["1.0"]}))
    with pytest.raises(ValueError, match="judged the licence of films, 'CC BY-NC 4.0'"):
        list(licences.data_rows({"films": {"title": "", "licence": "CC BY-NC 4.0"}}))


def said(licence=None, classifier=None, expression=None, text=None):
    """A package that says so."""
    given = {"License": licence, "License-Expression": expression}
    classes = [f"License :: OSI Approved :: {classifier}"] if classifier else []
    metadata = SimpleNamespace(get=given.get, get_all=lambda *_: classes)
    return SimpleNamespace(metadata=metadata, files=[])


@pytest.mark.parametrize(
    "package, licence",
    [
        (said(expression="MIT-CMU"), "MIT-CMU"),
        (said("Apache License, Version 2.0"), "Apache-2.0"),
        (said("BSD 3-Clause"), "BSD"),
        (said("Copyright (c) 2015", "MIT License"), "MIT"),
        (said("UNKNOWN", "ISC License (ISCL)"), "ISC"),
        (said(classifier="Python Software Foundation License"), "PSF-2.0"),
        (said("ask me"), ""),
        (said(), ""),
    ],
)
def test_words_become_spdx(package, licence):
    assert licences.licence(package) == licence
