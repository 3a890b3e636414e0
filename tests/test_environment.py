"""Versions are chosen in pyproject.toml; whatever repeats them must agree."""

import importlib.metadata
import re
import sys
import tomllib

import pytest
import yaml

from lib.figures import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = dict(pin.split("==") for pin in PROJECT["dependencies"])
LOCK = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("package", PINS)
def test_lock_holds_the_pin(package):
    assert [line for line in LOCK if line.split(";")[0].strip() == f"{package}=={PINS[package]}"], (
        f"requirements.txt does not lock {package}=={PINS[package]}: run make lock")


def test_lock_is_exact_and_names_no_index():
    bad = [line for line in LOCK if not re.match(r"#|[a-z0-9.-]+==[^\s@]+( ; .+)?$", line)]
    assert bad == []


def test_conda_installs_the_lock_and_nothing_else():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, by_pip = environment["dependencies"]
    assert (pip, by_pip) == ("pip", {"pip": ["-r requirements.txt", "-e ."]})
    version = tuple(int(part) for part in python.removeprefix("python=").split("."))
    assert version >= (3, 11) and PROJECT["requires-python"] == ">=3.11"


@pytest.mark.parametrize("package", PINS)
def test_installed_version_is_the_pin(package):
    if not sys.prefix.startswith(str(ROOT)):
        pytest.skip("this Python is not the project's .venv, so its versions are its own affair")
    assert importlib.metadata.version(package).split("+")[0] == PINS[package]
