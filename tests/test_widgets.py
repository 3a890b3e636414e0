"""The explorer without a browser: picture and words follow its sliders. Many weights in a batch."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from experiments import figures
from experiments.explore import explore
from experiments.family import stein_family
from lib import FunctionScore, SphereScore, SteinMetric, geodesic, interpolate

WEIGHTS = (1e-4, 0.01, 1.0, 100.0)
ENDS = torch.tensor([[1.0, 0.0], [-0.4, 0.9]], dtype=torch.float64)


@pytest.fixture
def family():
    return stein_family(
        SphereScore(sigma=0.1), ENDS[0], ENDS[1] / ENDS[1].norm(), WEIGHTS, points=21
    )


def picture(explorer):
    return np.asarray(Image.open(io.BytesIO(explorer.picture.value)))


def test_a_family_is_what_its_weights_give_one_by_one(family):
    score = SphereScore(sigma=0.1)
    single = [
        geodesic(SteinMetric(score, lam), ENDS[0], ENDS[1] / ENDS[1].norm(), points=21)
        for lam in WEIGHTS
    ]
    assert family.converged.all() and family.settings["lam"] == list(WEIGHTS)
    assert family.score_batches == max(path.score_batches for path in single)
    assert family.score_evaluations == sum(path.score_evaluations for path in single)
    for name in ("points", "energy", "length", "log_density"):
        together = torch.cat([getattr(path, name) for path in single])
        assert torch.allclose(getattr(family, name), together, rtol=1e-6, atol=1e-8), name


# two steps of relaxation are not enough
@pytest.mark.filterwarnings("ignore::lib.ConvergenceWarning")
@pytest.mark.parametrize(
    "how", [{"noise_levels": (0.4, 0.2, 0.1)}, {"solver": "relaxation", "max_iter": 2}], ids=str
)
def test_a_family_anneals_and_takes_a_solver_that_differentiates(how):
    score = SphereScore(sigma=0.1)
    ends = ENDS[0], ENDS[1] / ENDS[1].norm()
    family = stein_family(score, *ends, (0.01, 0.1), points=13, **how)
    single = [geodesic(SteinMetric(score, lam), *ends, points=13, **how) for lam in (0.01, 0.1)]
    assert torch.allclose(family.points, torch.cat([path.points for path in single]), atol=1e-6)


@pytest.mark.parametrize(
    "weights, solver, culprit",
    [
        ([1.0, 0.0], "gauss_newton", "weights"),
        ([], "gauss_newton", "empty batch"),
        ([1.0], "shooting", "shooting"),
    ],
)
def test_a_family_refuses_weights_and_solvers_that_are_none(weights, solver, culprit):
    with pytest.raises(ValueError, match=culprit):
        stein_family(SphereScore(), *ENDS, weights, solver=solver)


def test_sliders_move_the_picture_and_the_words(family):
    figures.use_style()
    explorer = explore(
        family,
        WEIGHTS,
        name="lam",
        readouts={"log p": family.log_density},
        start=(2, 0.25),
        backdrop=lambda axes: axes.set_title("the circle"),
    )
    assert explorer.text.value.startswith("lam = 1 · place 0.25 · log p = -")
    assert [slider.description for slider in explorer.children[:2]] == ["lam", "place on path"]
    seen = {explorer.picture.value}
    for slider, index in (
        (explorer.setting, 0),
        (explorer.place, 10),
        (explorer.setting, 3),
        (explorer.place, 0),
    ):
        slider.value = index
        seen.add(explorer.picture.value)
    assert len(seen) == 5
    assert explorer.text.value == "lam = 100 · place 0.00 · log p = 0"
    explorer.setting.value, explorer.place.value = 2, 5
    # nothing is left behind from where the hand has been
    assert explorer.picture.value in seen


def test_the_place_is_marked_where_the_point_is(family):
    explorer = explore(family, WEIGHTS, backdrop=lambda axes: axes.set_axis_off())
    centres = []
    for place in (0, 20):
        explorer.place.value = place
        centres.append(np.argwhere(picture(explorer).max(2) < 60).mean(0))
    down, across = centres[0] - centres[1]
    # from (1, 0) to the upper left
    assert down > 50 and across > 100


def test_frames_are_shown_as_they_are():
    frames = torch.zeros(2, 3, 3, 4, 4)
    frames[0, :, 0] = 1.0
    frames[1, :, 2] = 1.0
    explorer = explore(frames, ["red", "blue"], name="method")
    assert (picture(explorer) == [255, 0, 0]).all(2).mean() > 0.5
    explorer.setting.value = 1
    assert (picture(explorer) == [0, 0, 255]).all(2).mean() > 0.5
    assert explorer.text.value == "method = blue · place 0.50"


def test_methods_of_interpolate_are_dragged_through_by_name():
    score = FunctionScore(lambda x: -x, event_shape=(1, 6, 6))
    ends = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    found = {
        method: interpolate(score, *ends, method=method, frames=5)
        for method in ("lerp", "slerp", "stein")
    }
    explorer = explore(found, name="method")
    assert explorer.setting.options == (("lerp", 0), ("slerp", 1), ("stein", 2))
    seen = set()
    for explorer.setting.value in range(3):
        for explorer.place.value in range(5):
            seen.add(explorer.picture.value)
    # all share their ends
    assert len(seen) == 2 + 3 * 3


def test_one_path_needs_no_slider_for_the_setting():
    explorer = explore(torch.rand(1, 9, 2), ["a < b"])
    assert explorer.setting not in explorer.children and len(explorer.children) == 3
    assert explorer.text.value == "path = a &lt; b · place 0.50"


def test_a_redraw_does_not_solve_anything(family, monkeypatch):
    explorer = explore(family, WEIGHTS, readouts={"log p": family.log_density})
    monkeypatch.setattr(SphereScore, "evaluate", None)
    before = explorer.picture.value
    explorer.place.value = 3
    assert explorer.picture.value != before


@pytest.mark.parametrize(
    ("paths", "given", "words"),
    [
        (torch.zeros(2, 5), {}, "project="),
        (torch.zeros(2, 5, 1), {}, "project="),
        (torch.zeros(1, 5, 2, 4, 4), {}, "neither images"),
        (torch.zeros(2, 5, 2), {"labels": ["one"]}, "labels"),
        (torch.zeros(2, 5, 2), {"readouts": {"log p": torch.zeros(2, 4)}}, r"log p.*\(2, 5\)"),
        (torch.zeros(2, 5, 2), {"readouts": {"log p": torch.full((2, 5), torch.inf)}}, "log p"),
        (torch.full((1, 5, 2), torch.nan), {}, "NaN"),
        ({}, {}, "no path"),
        ({"a": torch.zeros(1, 5, 2), "b": torch.zeros(1, 6, 2)}, {}, r"'b': \(1, 6, 2\)"),
        ({"a": torch.zeros(2, 5, 2)}, {}, r"'a': \(2, 5, 2\)"),
        (torch.zeros(2, 5, 2), {"start": (2, 0.5)}, "start"),
        (torch.zeros(2, 5, 2), {"start": (0, 2.0)}, "start"),
    ],
)
def test_what_does_not_fit_is_refused(paths, given, words):
    with pytest.raises(ValueError, match=words):
        explore(paths, **given)


def test_only_tensors_are_paths():
    with pytest.raises(TypeError, match="list"):
        explore([[0.0, 1.0]])
