"""Runs of both commands that are killed, or find the disk full: what is there, and what goes on."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import test_pairs
import test_video_runs
from PIL import Image

from experiments.stored_frames import stored


def pairs(out):
    return test_pairs.made_three(out)


def videos(out):
    folder = out.parent / "Füße und Hände"
    folder.mkdir(exist_ok=True)
    return test_video_runs.made(
        out, test_video_runs.write_film(folder), methods=("lerp",), settings={}
    )


def finished(out):
    """The files of all folders that hold whole frames."""
    records = [path for path in out.rglob("record.json") if stored(path.parent) is not None]
    return {path: path.read_bytes() for record in records for path in record.parent.iterdir()}


def goes_on(run, out):
    """Run it again: finished frames stay as they are, the others are made, no draft is left."""
    before = finished(out)
    assert before
    assert len(run(out)) >= 2
    after = finished(out)
    assert after.items() >= before.items()
    frames = {path for path in out.rglob("*") if path.is_file() and path.parent != out}
    assert frames == after.keys()
    assert len(after) > len(before)


KILLED = """
import os, signal, sys
from pathlib import Path
from experiments import stored_frames
import test_interrupted_runs
make = stored_frames.to_pil_image
def until_the_eighth_frame(image, frames=[]):
    frames.append(image)
    if len(frames) == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return make(image)
stored_frames.to_pil_image = until_the_eighth_frame
getattr(test_interrupted_runs, sys.argv[1])(Path(sys.argv[2]))
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize("run", [pairs, videos])
def test_a_run_that_was_killed_goes_on(tmp_path, run):
    """kill -9 while the eighth frame is written."""
    tests = Path(__file__).parent
    search = os.pathsep.join([str(tests.parent), str(tests)])
    died = subprocess.run(
        [sys.executable, "-c", KILLED, run.__name__, tmp_path / "out"],
        env=os.environ | {"PYTHONPATH": search},
    )
    assert died.returncode == -signal.SIGKILL
    assert list(tmp_path.rglob(".draft*"))
    goes_on(run, tmp_path / "out")


@pytest.mark.parametrize("run", [pairs, videos])
def test_a_full_disk_leaves_whole_frames_only(tmp_path, monkeypatch, run):
    save, count = Image.Image.save, []

    def full(image, path, *arguments, **settings):
        if "out" in Path(path).parts:
            count.append(path)
        if len(count) == 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(image, path, *arguments, **settings)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="free space"):
        patch.setattr(Image.Image, "save", full)
        run(tmp_path / "out")
    assert not list(tmp_path.rglob(".draft*"))
    goes_on(run, tmp_path / "out")
