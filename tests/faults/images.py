"""Images, videos, latents and what measures them: wrong shapes and ranges, too few of them, files that are no pictures."""

import functools
import math

import matplotlib.pyplot as plt
import torch
from PIL import Image

from experiments import evaluation, gallery, hands
from experiments.classifiers import load_classifier
from experiments.explore import explore
from experiments.family import stein_family
from lib import exact, latents, video
from lib.scores import SphereScore, StableDiffusionScore

from . import fault

NAN = float("nan")
UNLIT = "the caller's images, bit for bit"


@functools.cache
def latent_model():
    from pipelines import pipeline

    return StableDiffusionScore(pipeline(), micro_batch=4, sigma=1.0)


def film(world, n=4):
    """Frames (1, n, 3, 16, 16) in [0, 1] of the caller."""
    return world.keep(torch.rand(1, n, 3, 16, 16, generator=torch.Generator().manual_seed(1)))


# area, what goes wrong, what provokes it with a film x (1, 4, 3, 16, 16), error, what is said
TABLE = [
    (
        "lib.latents",
        "images in 0..255",
        lambda x: latents.encode(latent_model(), x[0] * 255),
        ValueError,
        "divide images in 0..255",
    ),
    (
        "lib.latents",
        "grey images for colour",
        lambda x: latents.encode(latent_model(), x[0, :, :1]),
        ValueError,
        r"expand\(-1, 3",
    ),
    (
        "lib.latents",
        "sides that do not divide",
        lambda x: latents.encode(latent_model(), x[0, ..., :15]),
        ValueError,
        "resize them",
    ),
    (
        "lib.latents",
        "images of NaN",
        lambda x: latents.encode(latent_model(), x[0] * NAN),
        ValueError,
        "clean the input first",
    ),
    (
        "lib.latents",
        "images in place of latents",
        lambda x: latents.decode(latent_model(), x),
        ValueError,
        "latents must have shape",
    ),
    (
        "lib.latents",
        "an unknown schedule of text inversion",
        lambda x: latents.text_inversion(
            latent_model(), torch.zeros(1, 4, 8, 8), "nowhere", schedule="yu2052"
        ),
        ValueError,
        "did you mean 'yu2025'",
    ),
    (
        "lib.latents",
        "a prompt that is too long",
        lambda x: latent_model().prompted("much more than sixteen tokens"),
        ValueError,
        "truncate=True",
    ),
    (
        "lib.video",
        "a film of two frames",
        lambda x: video.deviation(x, x[:, :2]),
        ValueError,
        "frames ≥ 3",
    ),
    (
        "lib.video",
        "a film that ends where it began",
        lambda x: video.deviation(x, x[:, [0, 1, 0]]),
        ValueError,
        "cut it",
    ),
    (
        "experiments.gallery",
        "no row of frames",
        lambda x: gallery.frame_rows({}),
        ValueError,
        "at least one row",
    ),
    (
        "experiments.gallery",
        "frames of two channels",
        lambda x: gallery.frame_rows({"x": x[0, :, :2]}),
        ValueError,
        "1 or 3, height, width",
    ),
    (
        "experiments.evaluation",
        "no method",
        lambda x: evaluation.evaluate({}),
        ValueError,
        "at least one method",
    ),
    (
        "experiments.evaluation",
        "frames of NaN",
        lambda x: evaluation.evaluate({"lerp": x * NAN}),
        ValueError,
        "lerp has .* clean the input",
    ),
    (
        "experiments.evaluation",
        "two frames",
        lambda x: evaluation.evaluate({"lerp": x[:, :2]}),
        ValueError,
        "N ≥ 3",
    ),
    (
        "experiments.evaluation",
        "a truth of another shape",
        lambda x: evaluation.evaluate({"lerp": x}, x[:, :3]),
        ValueError,
        "truth the same",
    ),
    (
        "experiments.evaluation",
        "an unknown column",
        lambda x: evaluation.summary(evaluation.evaluate({"a": x}, distances={}), by="mehtod"),
        ValueError,
        "did you mean 'method'",
    ),
    (
        "experiments.evaluation",
        "images too small for ssim",
        lambda x: evaluation.ssim(x[0, ..., :8], x[0, ..., :8]),
        ValueError,
        "11×11",
    ),
    (
        "experiments.evaluation",
        "images on different devices",
        lambda x: evaluation.mse(x[0], x[0].to("meta")),
        ValueError,
        r"different devices: cpu and meta; move one of them with \.to\(",
    ),
    (
        "experiments.evaluation",
        "the FID of one image",
        lambda x: evaluation.fid(x[0, :1, 0, 0], x[0, :, 0, 0]),
        ValueError,
        "rows ≥ 2",
    ),
    (
        "experiments.classifiers",
        "images of another size",
        lambda x: load_classifier().features(x[0]),
        ValueError,
        r"\(n, 1, 28, 28\)",
    ),
    (
        "experiments.hands",
        "an unknown split",
        lambda x: hands.photographs("tset"),
        ValueError,
        "'train', 'test' or 'all'",
    ),
    (
        "lib.exact",
        "a half circle",
        lambda x: exact.sphere_geodesic(math.pi, lam=1.0),
        ValueError,
        "angle must be below pi",
    ),
    (
        "experiments.explore",
        "labels for other settings",
        lambda x: explore(x, ["a", "b"]),
        ValueError,
        r"labels must have shape \(1,\)",
    ),
    (
        "experiments.explore",
        "a place beyond the path",
        lambda x: explore(x, start=(0, 2.0)),
        ValueError,
        r"a place in \[0, 1\]",
    ),
    (
        "experiments.explore",
        "frames of NaN",
        lambda x: explore(x * NAN),
        ValueError,
        "clean the input first",
    ),
    (
        "experiments.family",
        "a solver that knows no rows",
        lambda x: stein_family(SphereScore(), *x[0, :2, 0, 0], [1.0], solver="georce"),
        ValueError,
        "known: gauss_newton, relaxation",
    ),
    (
        "experiments.family",
        "a weight of zero",
        lambda x: stein_family(SphereScore(), *x[0, :2, 0, 0], [1.0, 0.0]),
        ValueError,
        "weights must be a finite number > 0",
    ),
    (
        "experiments.family",
        "no weight",
        lambda x: stein_family(SphereScore(), *x[0, :2, 0, 0], []),
        ValueError,
        "empty batch",
    ),
]


def simple(area, what, act, error, says):
    @fault(area, what, error, says, left=UNLIT)
    def bad_images(world):
        x = film(world)
        yield lambda: act(x)
        assert not plt.get_fignums()


for entry in TABLE:
    simple(*entry)


def picture(path, side=16):
    Image.new("RGB", (side, side), "red").save(path)


def half(folder):
    """Two pictures, the second one cut short."""
    [picture(folder / name) for name in ("1.png", "2.png")]
    (folder / "2.png").write_bytes((folder / "1.png").read_bytes()[:-30])
