"""Data, downloads, figures, results and saved geodesics: missing, damaged, of another kind, or impossible to write."""

import hashlib
import http.server
import os
import threading
from contextlib import contextmanager

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from experiments import data, figures
from experiments.evaluation import load_lpips
from experiments.hands import photographs
from lib import Geodesic, SphereScore, SteinMetric, geodesic
from lib.files import replacing

from . import fault, read_only


def registered(world, raw=b"seven digits", **more):
    """A registry with one entry, "toy", whose file is in GEODESICS_DATA."""
    entry = {
        "title": "",
        "licence": "",
        "origin": "",
        "folder": "toy",
        **more,
        "files": [
            {"name": "toy.gz", "size": 12, "sha256": hashlib.sha256(b"seven digits").hexdigest()}
        ],
    }
    world.monkeypatch.setattr(data, "registry", lambda: {"toy": entry})
    world.monkeypatch.setenv("GEODESICS_DATA", str(world.folder))
    world.monkeypatch.setenv("GEODESICS_CACHE", str(world.folder / "cache"))
    (world.tree() / "toy").mkdir()
    if raw:
        (world.folder / "toy/toy.gz").write_bytes(raw)


def damaged_data(what, raw, says):
    @fault(
        "experiments.data",
        what,
        ValueError,
        says,
        left="the file, for whoever wants to look at it; no fallback in its place",
    )
    def bad_data(world):
        registered(world, raw)
        yield lambda: data.locate("toy")
        assert data.availability()["toy"] not in ("here", "missing")


damaged_data(
    "a file cut short", b"seven", "has 5 bytes instead of 12: cut short or another file; replace it"
)
damaged_data("a wrong checksum", b"eight digits", "does not have the sha256.*delete or replace it")


@contextmanager
def mirror(world, answer):
    """A web server on this machine that answers so."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "12")
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        registered(world, None, mirrors=[f"http://127.0.0.1:{server.server_port}/"])
        yield
        server.shutdown()


def bad_mirror(what, answer):
    @fault(
        "experiments.data",
        what,
        ConnectionError,
        "could not download toy.gz.*put it into the folder toy/ of GEODESICS_DATA",
        left="an empty cache: no half of a file that a next run could take for a whole one",
    )
    def bad_download(world):
        with mirror(world, answer):
            yield lambda: data.locate("toy", download=True)


bad_mirror("a download with another checksum", b"eight digits")
bad_mirror("a download that is cut off", b"seven")


@fault(
    "experiments.data",
    "no mirror answers",
    ConnectionError,
    "put it into the folder toy/ of GEODESICS_DATA",
    left="an empty cache",
)
def no_mirror(world):
    registered(world, None, mirrors=["http://127.0.0.1:9/"])
    yield lambda: data.locate("toy", download=True)


def without(area, what, act, error, says):
    @fault(area, what, error, says, left="the data folder, as it was")
    def missing_data(world):
        world.monkeypatch.setenv("GEODESICS_DATA", str(world.tree()))
        world.monkeypatch.setattr(torch.hub, "get_dir", lambda: str(world.folder))
        yield lambda: act(world.folder)


without(
    "experiments.data",
    "MNIST is not here",
    lambda f: data.digits("mnist"),
    FileNotFoundError,
    "or use source='sklearn'",
)
without(
    "experiments.data",
    "an unknown source",
    lambda f: data.digits("minst"),
    ValueError,
    "choose from sklearn, mnist, auto",
)
without(
    "experiments.data",
    "no digit left",
    lambda f: data.digits(labels=[]),
    ValueError,
    "labels must be digits from 0 to 9",
)
without(
    "experiments.data",
    "an unknown entry",
    lambda f: data.locate("mnist"),
    KeyError,
    "known: sklearn-digits, mnist-test",
)
without(
    "experiments.hands",
    "the photographs are not here",
    lambda f: photographs(),
    FileNotFoundError,
    "set GEODESICS_DATA",
)
without(
    "experiments.evaluation",
    "LPIPS is not here",
    lambda f: load_lpips(),
    FileNotFoundError,
    "pass download=True",
)


@fault(
    "experiments.data",
    "GEODESICS_DATA names no folder",
    FileNotFoundError,
    "correct or unset it",
    left="everything, nothing was made",
)
def no_data_folder(world):
    world.monkeypatch.setenv("GEODESICS_DATA", str(world.tree() / "typo"))
    yield lambda: data.locate("mnist-test")


# figures, results, saved geodesics

ALL_THREE = "the older figure in all its three files, byte for byte; no draft"


def drawn(world, value=1.0, name="f"):
    figure, axes = plt.subplots()
    axes.plot([0, value])
    try:
        return figures.save(figure, name, folder=world.folder / "figures", arrays={"y": [value]})
    finally:
        plt.close(figure)


def figure_fault(what, error, says, left=ALL_THREE):
    """An older figure stands there when the fault happens."""

    def put(prepare):
        @fault("experiments.figures", what, error, says, left=left)
        def bad_figure(world):
            files = drawn(world)
            act = prepare(world, files) or (lambda: drawn(world, 2.0))
            world.tree(world.folder / "figures")
            yield act
            with np.load(files["npz"]) as arrays:
                assert arrays["y"].shape == (1,)

        return bad_figure

    return put


for stage in ("png", "pdf", "npz"):
    figure_fault(
        f"the disk is full at a figure's {stage}",
        OSError,
        "cannot write f.png to .*No space left.*free space there",
    )(lambda world, files, stage=stage: world.full(files[stage]))
figure_fault("a bad name", ValueError, "use lower-case letters, digits")(
    lambda world, _: lambda: drawn(world, name="../F 1")
)
figure_fault("arrays that are none", ValueError, "ragged or holds objects")(
    lambda world, _: (
        lambda: figures.save(
            plt.gcf(),
            "f",
            folder=world.folder / "figures",
            arrays={"y": [[1], [1, 2]]},
        )
    )
)


@figure_fault(
    "a folder by the name of a file",
    OSError,
    "a folder is called g.pdf.*choose another folder",
    "the folder in the way and all others; no draft",
)
def folder_in_the_way(world, files):
    (world.folder / "figures/g.pdf").mkdir()
    (world.folder / "figures/g.pdf/kept").write_text("kept")
    return lambda: drawn(world, name="g")


@fault(
    "experiments.figures",
    "a folder that may not be written to",
    OSError,
    "cannot write r.json .*Permission denied.*make it writable",
    left="what the folder holds; no draft",
)
def locked_folder(world):
    with read_only() as (folder, unprivileged):
        world.tree(folder)
        yield lambda: unprivileged(lambda: figures.save_results("r", {"x": 1}, folder=folder))
        assert os.listdir(folder) == ["kept.txt"]


@fault(
    "experiments.figures",
    "the disk is full at a table",
    OSError,
    "cannot write t.csv .*No space left",
    left="the older table and its record",
)
def full_table(world):
    folder = world.tree()

    def save(rows):
        return figures.save_results("t", pd.DataFrame({"x": range(rows)}), folder=folder)

    world.full(*save(3).values())
    yield lambda: save(50_000)
    assert len(pd.read_csv(folder / "t.csv")) == 3


@fault(
    "lib.files",
    "Ctrl-C between the renames of files that belong together",
    KeyboardInterrupt,
    "",
    left="the new content in all of them: never a mixture; no draft",
)
def interrupted_renames(world):
    targets, rename, calls = [world.folder / name for name in "abc"], os.replace, []

    def interrupted(*paths):
        calls.append(paths)
        if len(calls) == 2:
            raise KeyboardInterrupt
        rename(*paths)

    def write(text):
        with replacing(*targets) as drafts:
            [draft.write_text(text) for draft in drafts]

    write("old")
    world.monkeypatch.setattr(os, "replace", interrupted)
    yield lambda: write("new")
    assert [path.read_text() for path in targets] == ["new"] * 3


def path_of_the_sphere():
    return geodesic(
        SteinMetric(SphereScore(sigma=0.5), lam=2.0),
        torch.tensor([1.0, 0.0]),
        torch.tensor([0.0, 1.0]),
        points=9,
    )


def saved_geodesic(what, error, says, left):
    def put(prepare):
        @fault("lib.solvers", what, error, says, left=left)
        def bad_geodesic(world):
            path = world.folder / "path.safetensors"
            path_of_the_sphere().save(path)
            act = prepare(world, path) or (lambda: Geodesic.load(path))
            world.tree()
            yield act

    return put


saved_geodesic(
    "a saved geodesic that is not there",
    FileNotFoundError,
    "write one with Geodesic.save",
    "the others",
)(lambda world, path: lambda: Geodesic.load(path.with_name("other")))
saved_geodesic("a saved geodesic cut short", ValueError, "compute it again", "the file")(
    lambda world, path: path.write_bytes(path.read_bytes()[:-9]) and None
)
saved_geodesic(
    "weights instead of a geodesic",
    ValueError,
    "is not a saved geodesic.*compute it again",
    "the file",
)(lambda world, path: save_file({"w": torch.zeros(2)}, path))


@fault(
    "lib.solvers",
    "the disk is full at a geodesic",
    OSError,
    "cannot write p.safetensors .*No space left.*free space",
    left="the older geodesic, which loads",
)
def full_geodesic(world):
    path = path_of_the_sphere().save(world.tree() / "p.safetensors")
    world.full(path)
    yield lambda: path_of_the_sphere().save(path)
    assert Geodesic.load(path).converged.all()
