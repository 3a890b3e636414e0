"""make, before anything runs: a Python that does not do, a broken installation, no notebook."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(
    os.name != "posix" or shutil.which("make") is None, reason="needs make and a POSIX shell"
)


def make(*words):
    done = subprocess.run(["make", *words], cwd=ROOT, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def executable(path, script):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_help_lists_the_commands():
    status, output = make("help")
    assert status == 0
    for name in ("figures", "test", "check", "sweep", "list", "report", "site", "bench", "lab"):
        assert f"make {name} " in output


def test_a_python_that_is_too_old_is_refused(tmp_path):
    old = executable(tmp_path / "python", "exit 1")
    status, output = make("figures", f"PYTHON={old}", f"VENV={tmp_path}/venv")
    assert status and "Python 3.11 or later" in output and not (tmp_path / "venv").exists()


def test_an_installation_that_breaks_off_is_made_again(tmp_path):
    script = (
        'case "$*" in *pip*) echo no such package >&2; exit 1;; '
        '*venv*) mkdir -p "$4/bin"; cp "$0" "$4/bin/python";; esac'
    )
    broken = executable(tmp_path / "python", script)
    status, output = make("figures", f"PYTHON={broken}", f"VENV={tmp_path}/venv")
    assert status and "no such package" in output
    assert (tmp_path / "venv/bin/python").exists() and not (tmp_path / "venv/.ready").exists()


def test_a_notebook_that_does_not_exist_is_one_line(tmp_path):
    executable(tmp_path / "venv/bin/python", f'exec "{sys.executable}" "$@"')
    (tmp_path / "venv/.ready").touch()
    status, output = make("figures", f"VENV={tmp_path}/venv", "ARGS=77")
    assert status and "error: no notebook '77'" in output and "Traceback" not in output
