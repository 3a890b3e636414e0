"""Many pairs and make: interrupted, out of memory or disk, and asked for what makes no sense."""

import functools
import sys

import torch

from experiments.pairs import Pairs, read_pairs
from experiments.pairs import run as pairs_run
from lib.methods.interpolate import interpolate

from . import ROOT, command, contents, fault
from .images import half, picture


@functools.cache
def of():
    """Three pairs of smooth pictures and the runner on a small random model, as tests/test_pairs.py has them."""
    import test_pairs

    return test_pairs


def made(folder, **more):
    return of().made(
        folder,
        **{
            "methods": ("lerp",),
            "of": of().pairs(3, prompt="cat", end_prompt=None, about={}),
            "batch": 1,
        }
        | more,
    )


def refused_pairs(what, error, says, make):
    @fault(
        "experiments.pairs",
        what,
        error,
        says,
        left="nothing was made: it is refused before any work",
    )
    def bad_pairs(world):
        world.tree()
        yield lambda: make(world.folder / "out")


refused_pairs("no pairs", ValueError, "there are no pairs", lambda out: made(out, of=Pairs([], [])))
refused_pairs(
    "an unknown method",
    ValueError,
    "did you mean 'slerp'",
    lambda out: made(out, methods=("slrp",)),
)
refused_pairs(
    "a setting that a method has not",
    ValueError,
    "did you mean 'points'",
    lambda out: made(out, methods=("stein",), settings={"stein": {"pionts": 3}}),
)
refused_pairs(
    "the same image twice",
    ValueError,
    "leave it out",
    lambda out: made(out, of=Pairs(of().images(), of().images())),
)
refused_pairs(
    "images in 0..255",
    ValueError,
    "divide those in 0..255",
    lambda out: made(out, of=Pairs(255 * of().images(), of().images(4, 1))),
)
refused_pairs(
    "a score without a latent model",
    TypeError,
    "lib.scores.load",
    lambda out: made(out, score=lambda x: -x),
)


@fault(
    "experiments.pairs",
    "a folder that holds something else",
    ValueError,
    "thesis.tex, which no pairs run wrote; choose another folder",
    left="what lies there",
)
def foreign_folder(world):
    (world.tree() / "thesis.tex").write_text("mine")
    yield lambda: made(world.folder)


def folder_of_pairs(what, error, says, prepare):
    @fault("experiments.pairs", what, error, says, left="the folder of images, byte for byte")
    def bad_folder(world):
        prepare(world.tree())
        yield lambda: read_pairs(world.folder).images(0, (16, 16))


folder_of_pairs(
    "a folder without pairs", ValueError, "are looked for", lambda f: picture(f / "1.png")
)
folder_of_pairs(
    "an image without its partner",
    FileNotFoundError,
    "add or remove one",
    lambda f: picture(f / "cat_0.png"),
)
folder_of_pairs(
    "a table without a start",
    ValueError,
    "names no start image; its columns: begin",
    lambda f: (f / "pairs.csv").write_text("begin,end\n1.png,2.png\n"),
)
folder_of_pairs(
    "a table that names no file",
    FileNotFoundError,
    "images are missing: .*relative to it",
    lambda f: (f / "pairs.csv").write_text("start,end\n1.png,2.png\n"),
)
folder_of_pairs(
    "a table that cannot be read",
    ValueError,
    "cannot be read as a table.*mend it",
    lambda f: (f / "pairs.json").write_text("[{"),
)
folder_of_pairs(
    "an image cut short",
    ValueError,
    "pair '000': cannot read 2.png.*replace or remove it",
    lambda f: (half(f), (f / "pairs.csv").write_text("start,end\n1.png,2.png\n")),
)

WHOLE = [
    f"frames/lerp/00{i}/{name}"
    for i in (0, 1)
    for name in ("00.png", "01.png", "02.png", "03.png", "04.png", "record.json")
]


def cut_pairs(
    what,
    error,
    says,
    at_third,
    left="the finished pairs, byte for byte; the next run makes the rest only",
):
    """Something happens while the third of three pairs is made."""

    @fault("experiments.pairs", what, error, says, left=left)
    def bad_run(world):
        calls, out = [], world.folder / "out"

        def disturbed(model, *arguments, **settings):
            calls.append(settings)
            result = interpolate(model, *arguments, **settings)
            return at_third(world, result) if len(calls) == 3 else result

        world.monkeypatch.setattr(pairs_run, "interpolate", disturbed)
        yield lambda: made(out)
        done = contents(out)
        assert sorted(done) == WHOLE
        made(out)
        assert (
            len(calls) == 4
            and len(contents(out)) > len(done)
            and contents(out).items() >= done.items()
        )


def raising(error):
    raise error


def nan(_, result):
    result.frames[0, 2] = torch.nan
    return result


def full(world, result):
    place = world.folder / "out/frames/lerp/002"
    place.mkdir()
    world.full(place / "record.json")
    return result


cut_pairs(
    "Ctrl-C in a run of pairs", KeyboardInterrupt, "", lambda *_: raising(KeyboardInterrupt())
)
cut_pairs(
    "a method that runs into NaN", ValueError, "between the images of 002: change its settings", nan
)
cut_pairs(
    "too little memory for one pair",
    MemoryError,
    "lerp, pair '002' alone",
    lambda *_: raising(MemoryError("full")),
)
cut_pairs(
    "the disk is full at the last file of a pair",
    OSError,
    "cannot write 00.png.*No space left.*free space",
    full,
)


@fault(
    "experiments.pairs",
    "too little memory for a batch",
    UserWarning,
    "not enough memory for 3 pairs at once; it goes on with 1",
    left="the frames of all pairs",
)
def crowded(world):
    world.monkeypatch.setattr(
        pairs_run, "interpolate", of().crowded(1, torch.OutOfMemoryError("full"))
    )
    yield lambda: made(world.folder / "out", batch=3)
    assert len(contents(world.folder / "out/frames")) == 18


@fault(
    "experiments.pairs",
    "a frame that was damaged since",
    None,
    "",
    left="that pair made anew, the others byte for byte as they were",
)
def damaged_frame(world):
    made(out := world.folder / "out")
    before = contents(out / "frames")
    (out / "frames/lerp/001/03.png").write_bytes(b"half")
    yield lambda: made(out)
    now = contents(out / "frames")
    assert {name for name in now if now[name] != before[name]} <= {
        "lerp/001/record.json"
    }  # it holds the seconds


# make

MAKE = ("make", "--no-print-directory")


def python(world, script):
    """An executable that stands for a Python."""
    path = world.folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@fault(
    "make",
    "an unknown target",
    2,
    "No rule to make target 'figuers'",
    left="no environment was begun",
)
def unknown_target(world):
    world.tree()
    yield lambda: command("figuers", f"VENV={world.folder}/venv", python=MAKE)


@fault(
    "make",
    "a Python that is too old",
    2,
    r"Python 3.11 or later is needed.*make PYTHON=",
    left="no environment was begun",
)
def old_python(world):
    old = python(world, "exit 1")
    world.tree()
    yield lambda: command("figures", f"PYTHON={old}", f"VENV={world.folder}/venv", python=MAKE)


@fault(
    "make",
    "an installation that breaks off",
    2,
    "no such package",
    left="no stamp: the next make installs anew",
)
def broken_installation(world):
    broken = python(
        world,
        'case "$*" in *pip*) echo no such package >&2; exit 1;; *venv*) mkdir -p "$4/bin"; '
        'cp "$0" "$4/bin/python";; esac',
    )
    yield lambda: command("figures", f"PYTHON={broken}", f"VENV={world.folder}/venv", python=MAKE)
    assert (world.folder / "venv/bin/python").exists() and not (
        world.folder / "venv/.ready"
    ).exists()


@fault(
    "make",
    "a notebook that does not exist",
    2,
    "error: no notebook '77'",
    left="figures/, byte for byte",
)
def make_unknown_notebook(world):
    venv = world.folder / "venv"
    (venv / "bin").mkdir(parents=True)
    python(world, f'exec "{sys.executable}" "$@"').rename(venv / "bin/python")
    (venv / ".ready").touch()
    world.tree(ROOT / "figures")
    yield lambda: command("figures", f"VENV={venv}", "ARGS=--only 77", python=MAKE)
