"""Files: models, data, downloads, figures, results and saved geodesics that are missing, damaged, of another kind, or cannot be written."""

import functools
import hashlib
import http.server
import json
import os
import pickle
import shutil
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
import matplotlib.pyplot as plt
import pandas as pd
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from safetensors.torch import load_file, save_file
from test_loading import WEIGHTS, network

from lib import Geodesic, SphereScore, SteinMetric, data, figures, geodesic
from lib.classifier import load_classifier, load_reference
from lib.evaluation import load_lpips
from lib.files import replacing
from lib.hands import photographs
from lib.scores import load

from . import contents, fault, read_only

AS_IT_WAS = "the model's folder, byte for byte; nothing unpickled, no network built"


class Bomb:
    """Unpickled, it would leave a file."""

    def __reduce__(self):
        return open, ("unpickled", "w")


@functools.cache
def saved_model():
    """A small model of pixels as files: name → bytes."""
    with tempfile.TemporaryDirectory() as folder:
        DDPMPipeline(network(), DDPMScheduler(clip_sample=False)).save_pretrained(folder)
        return contents(Path(folder))


def model(world):
    for name, raw in saved_model().items():
        path = world.folder / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
    return world.tree(world.folder / "model")


def harmed(what, harm, error, says):
    @fault("lib.scores", what, error, says, left=AS_IT_WAS)
    def bad_model(world):
        harm(folder := model(world))
        yield lambda: load(folder)
        assert not os.path.exists("unpickled")


def cut(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def pickled(ending):
    def harm(folder):
        (folder / WEIGHTS).unlink()
        (folder / "unet" / f"diffusion_pytorch_model.{ending}").write_bytes(pickle.dumps({"conv_in.bias": Bomb()}))
    return harm


def not_finite(folder):
    weights = load_file(folder / WEIGHTS)
    save_file(weights | {"conv_in.bias": weights["conv_in.bias"] * float("nan")}, folder / WEIGHTS)


harmed("weights cut short", cut, ValueError, "damaged or belong to another network.*copy both again")
harmed("a pickle by the name of safetensors", lambda f: (f / WEIGHTS).write_bytes(pickle.dumps(Bomb())), ValueError,
       "damaged or belong to another network.*copy both again")
for kind in ("bin", "ckpt"):
    harmed(f"pickled weights alone (.{kind})", pickled(kind), FileNotFoundError,
           r"pickled weights are never opened here: convert them.*safe_serialization=True")
harmed("weights that are NaN", not_finite, ValueError, r"not all finite \(conv_in.bias\).*copy them again")
harmed("weights of another network", lambda f: save_file({"bias": torch.zeros(3)}, f / WEIGHTS), ValueError,
       "do not fit its config.json.*copy both from one source")
harmed("a config.json cut short", lambda f: (f / "unet/config.json").write_text('{"_class'), ValueError, "is no JSON.*copy it again")
harmed("no scheduler", lambda f: shutil.rmtree(f / "scheduler"), FileNotFoundError, "scheduler.save_pretrained")


def asked(what, act, error, says):
    @fault("lib.scores", what, error, says, left=AS_IT_WAS)
    def bad_request(world):
        folder = model(world)
        yield lambda: act(folder)


asked("a folder that is not there", lambda f: load(f / "typo"), FileNotFoundError, "name the folder that holds")
asked("a name that is nothing", lambda f: load("rotated-mnits"), ValueError, "no bundled model .*rotated-mnist, hands")
asked("a device that is not here", lambda f: load(f, device="abacus"), ValueError, "use device='cpu'")
asked("a setting that no model has", lambda f: load(f, micro_bach=2), ValueError, "did you mean 'micro_batch'")
asked("a revision of a folder", lambda f: load(f, revision="main"), ValueError, "leave revision=None")


@fault("lib.scores", "a hub that cannot be reached", ConnectionError, "check name, revision and network, or download it elsewhere",
       left="the hub's cache, as empty as it was")
def offline_hub(world):
    world.monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")      # nobody listens there
    world.monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(world.tree()))
    yield lambda: load("someone/digits")


@fault("lib.scores", "a model that loads well", None, "", left="the global generator: weights drawn before those of the file are put in")
def drawn_weights(world):
    folder = model(world)
    yield lambda: load(folder)


# bundled networks and data


def classifier(what, harm, says, open_it=load_classifier):
    @fault("lib.classifier", what, ValueError, says, left="the folder, byte for byte; nothing unpickled")
    def bad_classifier(world):
        folder = world.folder / "classifier"
        shutil.copytree(data.REGISTRY.parent / "models/digit-classifier", folder)
        harm(world.tree(folder))
        yield lambda: open_it(folder)
        assert not os.path.exists("unpickled")


classifier("its weights cut short", lambda f: (f / "model.safetensors").write_bytes(b"short"), "damaged or cut short; restore it")
classifier("its statistics a pickle", lambda f: (f / "reference.safetensors").write_bytes(pickle.dumps(Bomb())),
           "holds no reference statistics.*restore it", load_reference)


def registered(world, raw=b"seven digits", **more):
    """A registry with one entry, "toy", whose file is in GEODESICS_DATA."""
    entry = {"title": "", "licence": "", "origin": "", "folder": "toy", **more,
             "files": [{"name": "toy.gz", "size": 12, "sha256": hashlib.sha256(b"seven digits").hexdigest()}]}
    world.monkeypatch.setattr(data, "registry", lambda: {"toy": entry})
    world.monkeypatch.setenv("GEODESICS_DATA", str(world.folder))
    world.monkeypatch.setenv("GEODESICS_CACHE", str(world.folder / "cache"))
    (world.tree() / "toy").mkdir()
    if raw:
        (world.folder / "toy/toy.gz").write_bytes(raw)


def damaged_data(what, raw, says):
    @fault("lib.data", what, ValueError, says, left="the file, for whoever wants to look at it; no fallback in its place")
    def bad_data(world):
        registered(world, raw)
        yield lambda: data.locate("toy")
        assert data.availability()["toy"] not in ("here", "missing")


damaged_data("a file cut short", b"seven", "has 5 bytes instead of 12: cut short or another file; replace it")
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
    @fault("lib.data", what, ConnectionError, "could not download toy.gz.*put it into the folder toy/ of GEODESICS_DATA",
           left="an empty cache: no half of a file that a next run could take for a whole one")
    def bad_download(world):
        with mirror(world, answer):
            yield lambda: data.locate("toy", download=True)


bad_mirror("a download with another checksum", b"eight digits")
bad_mirror("a download that is cut off", b"seven")


@fault("lib.data", "no mirror answers", ConnectionError, "put it into the folder toy/ of GEODESICS_DATA", left="an empty cache")
def no_mirror(world):
    registered(world, None, mirrors=["http://127.0.0.1:9/"])
    yield lambda: data.locate("toy", download=True)


def without(area, what, act, error, says):
    @fault(area, what, error, says, left="the data folder, as it was")
    def missing_data(world):
        world.monkeypatch.setenv("GEODESICS_DATA", str(world.tree()))
        world.monkeypatch.setattr(torch.hub, "get_dir", lambda: str(world.folder))
        yield lambda: act(world.folder)


without("lib.data", "MNIST is not here", lambda f: data.digits("mnist"), FileNotFoundError, "or use source='sklearn'")
without("lib.data", "an unknown source", lambda f: data.digits("minst"), ValueError, "choose from sklearn, mnist, auto")
without("lib.data", "no digit left", lambda f: data.digits(labels=[]), ValueError, "labels must be digits from 0 to 9")
without("lib.data", "an unknown entry", lambda f: data.locate("mnist"), KeyError, "known: sklearn-digits, mnist-test")
without("lib.hands", "the photographs are not here", lambda f: photographs(), FileNotFoundError, "set GEODESICS_DATA")
without("lib.evaluation", "LPIPS is not here", lambda f: load_lpips(), FileNotFoundError, "pass download=True")


@fault("lib.data", "GEODESICS_DATA names no folder", FileNotFoundError, "correct or unset it", left="everything, nothing was made")
def no_data_folder(world):
    world.monkeypatch.setenv("GEODESICS_DATA", str(world.tree() / "typo"))
    yield lambda: data.locate("mnist-test")


# figures, results, saved geodesics

ALL_FOUR = "the older figure in all its four files, byte for byte; no draft"


def drawn(world, value=1.0, name="f"):
    figure, axes = plt.subplots()
    axes.plot([0, value])
    try:
        return figures.save(figure, name, folder=world.folder / "figures", arrays={"y": [value]}, parameters={})
    finally:
        plt.close(figure)


def figure_fault(what, error, says, left=ALL_FOUR):
    """An older figure stands there when the fault happens."""
    def put(prepare):
        @fault("lib.figures", what, error, says, left=left)
        def bad_figure(world):
            files = drawn(world)
            act = prepare(world, files) or (lambda: drawn(world, 2.0))
            world.tree(world.folder / "figures")
            yield act
            assert json.loads(files["json"].read_text())["arrays"]["y"]["shape"] == [1]
        return bad_figure
    return put


for stage in ("png", "pdf", "npz", "json"):
    figure_fault(f"the disk is full at a figure's {stage}", OSError, "cannot write f.png to .*No space left.*free space there")(
        lambda world, files, stage=stage: world.full(files[stage]))
figure_fault("a bad name", ValueError, "use lower-case letters, digits")(lambda world, _: lambda: drawn(world, name="../F 1"))
figure_fault("arrays that are none", ValueError, "ragged or holds objects")(lambda world, _: lambda: figures.save(
    plt.gcf(), "f", folder=world.folder / "figures", arrays={"y": [[1], [1, 2]]}, parameters={}))
figure_fault("a results file of another kind in the way", ValueError, "choose another name or delete it",
             "the figure's record, byte for byte")(lambda world, _: lambda: figures.save_results(
                 "f", {"x": 1}, folder=world.folder / "figures", parameters={}))


@figure_fault("a folder by the name of a file", OSError, "a folder is called g.pdf.*choose another folder",
              "the folder in the way and all others; no draft")
def folder_in_the_way(world, files):
    (world.folder / "figures/g.pdf").mkdir()
    (world.folder / "figures/g.pdf/kept").write_text("kept")
    return lambda: drawn(world, name="g")


@fault("lib.figures", "a folder that may not be written to", OSError, "cannot write r.json .*Permission denied.*make it writable",
       left="what the folder holds; no draft")
def locked_folder(world):
    with read_only() as (folder, unprivileged):
        world.tree(folder)
        yield lambda: unprivileged(lambda: figures.save_results("r", {"x": 1}, folder=folder, parameters={}))
        assert os.listdir(folder) == ["kept.txt"]


@fault("lib.figures", "the disk is full at a table", OSError, "cannot write t.csv .*No space left", left="the older table and its record")
def full_table(world):
    folder = world.tree()

    def save(rows):
        return figures.save_results("t", pd.DataFrame({"x": range(rows)}), folder=folder, parameters={})

    world.full(*save(3).values())
    yield lambda: save(50_000)
    assert len(pd.read_csv(folder / "t.csv")) == 3


@fault("lib.files", "Ctrl-C between the renames of files that belong together", KeyboardInterrupt, "",
       left="the new content in all of them: never a mixture; no draft")
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
    return geodesic(SteinMetric(SphereScore(sigma=0.5), lam=2.0), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), points=9)


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


saved_geodesic("a saved geodesic that is not there", FileNotFoundError, "write one with Geodesic.save", "the others")(
    lambda world, path: lambda: Geodesic.load(path.with_name("other")))
saved_geodesic("a saved geodesic cut short", ValueError, "compute it again", "the file")(
    lambda world, path: path.write_bytes(path.read_bytes()[:-9]) and None)
saved_geodesic("weights instead of a geodesic", ValueError, "is not a saved geodesic.*compute it again", "the file")(
    lambda world, path: save_file({"w": torch.zeros(2)}, path))


@fault("lib.solvers", "the disk is full at a geodesic", OSError, "cannot write p.safetensors .*No space left.*free space",
       left="the older geodesic, which loads")
def full_geodesic(world):
    path = path_of_the_sphere().save(world.tree() / "p.safetensors")
    world.full(path)
    yield lambda: path_of_the_sphere().save(path)
    assert Geodesic.load(path).converged.all()
