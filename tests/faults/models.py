"""Models by name: weights, configurations and statistics that are missing, damaged, pickled or of another network; no hub."""

import functools
import os
import pickle
import shutil
import tempfile
from pathlib import Path

import huggingface_hub
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from safetensors.torch import load_file, save_file
from test_loading import WEIGHTS, network

from experiments import data
from experiments.classifiers import load_classifier, load_reference
from lib.scores import load

from . import contents, fault

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
        (folder / "unet" / f"diffusion_pytorch_model.{ending}").write_bytes(
            pickle.dumps({"conv_in.bias": Bomb()})
        )

    return harm


def not_finite(folder):
    weights = load_file(folder / WEIGHTS)
    save_file(weights | {"conv_in.bias": weights["conv_in.bias"] * float("nan")}, folder / WEIGHTS)


harmed(
    "weights cut short", cut, ValueError, "damaged or belong to another network.*copy both again"
)
harmed(
    "a pickle by the name of safetensors",
    lambda f: (f / WEIGHTS).write_bytes(pickle.dumps(Bomb())),
    ValueError,
    "damaged or belong to another network.*copy both again",
)
for kind in ("bin", "ckpt"):
    harmed(
        f"pickled weights alone (.{kind})",
        pickled(kind),
        FileNotFoundError,
        r"pickled weights are never opened here: convert them.*safe_serialization=True",
    )
harmed(
    "weights that are NaN",
    not_finite,
    ValueError,
    r"not all finite \(conv_in.bias\).*copy them again",
)
harmed(
    "weights of another network",
    lambda f: save_file({"bias": torch.zeros(3)}, f / WEIGHTS),
    ValueError,
    "do not fit its config.json.*copy both from one source",
)
harmed(
    "a config.json cut short",
    lambda f: (f / "unet/config.json").write_text('{"_class'),
    ValueError,
    "is no JSON.*copy it again",
)
harmed(
    "no scheduler",
    lambda f: shutil.rmtree(f / "scheduler"),
    FileNotFoundError,
    "scheduler.save_pretrained",
)


def asked(what, act, error, says):
    @fault("lib.scores", what, error, says, left=AS_IT_WAS)
    def bad_request(world):
        folder = model(world)
        yield lambda: act(folder)


asked(
    "a folder that is not there",
    lambda f: load(f / "typo"),
    FileNotFoundError,
    "name the folder that holds",
)
asked(
    "a name that is nothing",
    lambda f: load("rotated-mnits"),
    ValueError,
    "no bundled model .*rotated-mnist, hands",
)
asked(
    "a device that is not here", lambda f: load(f, device="abacus"), ValueError, "use device='cpu'"
)
asked(
    "a setting that no model has",
    lambda f: load(f, micro_bach=2),
    ValueError,
    "did you mean 'micro_batch'",
)
asked(
    "a revision of a folder", lambda f: load(f, revision="main"), ValueError, "leave revision=None"
)


@fault(
    "lib.scores",
    "a hub that cannot be reached",
    ConnectionError,
    "check name, revision and network, or download it elsewhere",
    left="the hub's cache, as empty as it was",
)
def offline_hub(world):
    world.monkeypatch.setattr(
        huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9"
    )  # nobody listens there
    world.monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(world.tree()))
    yield lambda: load("someone/digits")


@fault(
    "lib.scores",
    "a model that loads well",
    None,
    "",
    left="the global generator: weights drawn before those of the file are put in",
)
def drawn_weights(world):
    folder = model(world)
    yield lambda: load(folder)


# bundled networks


def classifier(what, harm, says, open_it=load_classifier):
    @fault(
        "experiments.classifiers",
        what,
        ValueError,
        says,
        left="the folder, byte for byte; nothing unpickled",
    )
    def bad_classifier(world):
        folder = world.folder / "classifier"
        shutil.copytree(data.REGISTRY.parent / "models/digit-classifier", folder)
        harm(world.tree(folder))
        yield lambda: open_it(folder)
        assert not os.path.exists("unpickled")


classifier(
    "its weights cut short",
    lambda f: (f / "model.safetensors").write_bytes(b"short"),
    "damaged or cut short; restore it",
)
classifier(
    "its statistics a pickle",
    lambda f: (f / "reference.safetensors").write_bytes(pickle.dumps(Bomb())),
    "holds no reference statistics.*restore it",
    load_reference,
)
