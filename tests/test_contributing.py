"""CONTRIBUTING.md: its code blocks are run as they stand there, and what they add works."""

import doctest
import importlib
import math
import re
import sys
import types
from pathlib import Path

import books
import nbformat
import pytest
import torch
import yaml
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
)
from families import autoencoder, letters, t5
from notebook_rules import HEADINGS, complaints
from typer.testing import CliRunner

from lib import (
    METHODS,
    SOLVERS,
    ConvergenceWarning,
    DensityMetric,
    SphereScore,
    SteinMetric,
    flow,
    geodesic,
    interpolate,
    latents,
)
from lib.exact import sphere_geodesic
from lib.methods.presets import Preset
from lib.scores import families as known_families
from lib.scores import from_pipeline
from lib.solvers import Relaxation
from workflow.__main__ import app
from workflow.execute import execute
from workflow.parameters import smoke
from workflow.refresh import refresh
from workflow.runs import Run

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def block(title, language="python"):
    """The code block under a heading."""
    section = TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    (code,) = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    return code


def added(title, monkeypatch):
    """The class of a block, executed as the file of lib that its first line names."""
    source = block(title)
    place = re.match(r"# (lib/[\w/]+)\.py\n", source)[1].replace("/", ".")
    assert importlib.util.find_spec(place) is None, f"{place} exists by now: take another example"
    module = types.ModuleType(place)
    module.__package__ = place.rpartition(".")[0]
    monkeypatch.setitem(sys.modules, place, module)
    exec(compile(source, place, "exec"), vars(module))
    (cls,) = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == place
    ]
    for example in doctest.DocTestFinder().find(cls, module=False, globs=vars(module)):
        assert doctest.DocTestRunner().run(example).failed == 0
    return cls


def test_the_added_metric_has_its_closed_form(monkeypatch):
    metric = added("Add a metric", monkeypatch)
    a = torch.tensor([[0.0, 1.0], [0.3, 0.5]]).double()
    b = torch.tensor([[1.0, 1.5], [-0.4, 2.0]]).double()
    path = geodesic(metric(), a, b, points=33, solver=Relaxation(optimizer="lbfgs", tol=1e-9))
    exact = torch.acosh(1 + (a - b).square().sum(1) / (2 * a[:, 1] * b[:, 1]))
    assert path.converged.all() and torch.allclose(path.length, exact, rtol=1e-3)
    back = geodesic(metric(), b, a, points=33, solver=Relaxation(optimizer="lbfgs", tol=1e-9))
    assert torch.allclose(back.length, path.length, rtol=1e-5)

    monkeypatch.setitem(METHODS, "half-plane", None)
    names = {
        "METHODS": METHODS,
        "Preset": Preset,
        "HalfPlaneMetric": metric,
        "Relaxation": Relaxation,
    }
    exec(block("Add a metric", "py"), names)
    frames = interpolate(lambda x: -x, a, b, method="half-plane", frames=33)
    assert torch.allclose(frames.path.length, exact, rtol=1e-3) and frames.evaluations == 0


def test_the_added_solver_finds_the_geodesic_of_the_sphere(monkeypatch):
    descent = added("Add a solver", monkeypatch)
    metric = SteinMetric(SphereScore(sigma=0.7), lam=1.0)
    a, b = (
        torch.tensor([[math.cos(t), math.sin(t), 0.0]], dtype=torch.float64) for t in (0.0, 1.5)
    )
    path = geodesic(metric, a, b, points=17, solver=descent(max_iter=1500))
    exact = sphere_geodesic(1.5, lam=1.0, sigma=0.7)
    dip = 1 - float(path.points[0].norm(dim=1).min())
    assert path.converged.all() and abs(dip - exact.dip) < 5e-3
    assert abs(float(path.length) / exact.length - 1) < 1e-3
    monkeypatch.setitem(SOLVERS, descent.name, descent)
    with pytest.warns(ConvergenceWarning, match="max_iter="):
        short = geodesic(
            metric, a, b, points=17, solver="descent", max_iter=3, noise_levels=[1.4, 0.7]
        )
    assert (
        torch.equal(short.points[:, 0], a)
        and torch.equal(short.points[:, -1], b)
        and short.settings["max_iter"] == 3
    )


def test_the_added_score_is_a_gradient_and_interpolates(generator, monkeypatch):
    score = added("Add a score", monkeypatch)()
    x = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    exact = torch.func.grad(lambda y: score.log_density(y).sum())(x)
    assert torch.allclose(score(x), exact) and score.counter.evaluations == 5
    a, b = torch.tensor([[2.0, 1.0]]).double(), torch.tensor([[-1.5, 2.0]]).double()
    frames = interpolate(score, a, b, method="density", alpha=0.5, frames=9)
    straight = interpolate(score, a, b, method="lerp", frames=9).frames
    assert frames.path.converged.all() and torch.equal(
        frames.frames[:, [0, -1]], torch.stack([a, b], 1)
    )
    assert score.log_density(frames.frames[0]).mean() > score.log_density(straight[0]).mean() + 0.1
    flat = geodesic(DensityMetric(score, alpha=0.5), a, b, init=straight, points=9)
    assert flat.energy <= geodesic(DensityMetric(score, alpha=0.5), a, b, points=9).energy * (
        1 + 1e-5
    )


@pytest.fixture
def shelf(tmp_path):
    """A folder with the notebook of CONTRIBUTING.md, prose between its cells, and smoke.yml."""
    cells = re.findall(r"# %%([^\n]*)\n(.*?)(?=# %%|\Z)", block("Add a notebook"), re.DOTALL)
    code = [books.code(source.strip(), *tags.split()) for tags, source in cells]
    prose = "\n".join(
        ["# Radius", *(f"## {heading.capitalize()}" for heading in HEADINGS), "word " * 400]
    )
    book = [books.markdown(prose), code[0]]
    for cell in code[1:]:
        book += [books.markdown("then"), cell]
    nbformat.write(books.book(*book), tmp_path / "10_radius.ipynb")
    (tmp_path / "smoke.yml").write_text(yaml.safe_dump({"10_radius": {"lam": 5.0}}))
    return tmp_path


def test_the_added_notebook_passes_the_lint_and_runs(shelf):
    run = Run(shelf / "10_radius.ipynb", {}, shelf / "runs")
    figures = execute(run) / "figures"
    refresh(run)
    assert complaints(run.notebook) == []
    assert {path.suffix for path in figures.glob("10_radius.*")} == {".png", ".pdf", ".npz"}
    assert smoke(run.notebook) == {"lam": 5.0}


def test_files_and_commands_that_it_names_are_there():
    named = set(
        re.findall(
            r"`((?:lib|tests|notebooks|data)/[\w/.]+)`|\b((?:tests|data)/[\w/]+\.(?:py|toml))", TEXT
        )
    )
    missing = [
        name
        for pair in named
        for name in pair
        if name and "NN" not in name and not (ROOT / name).exists()
    ]
    assert named and missing == []
    targets = re.findall(
        r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert set(re.findall(r"\bmake (test|figures|lock|licences|notebooks|bench)\b", TEXT)) <= set(
        targets
    )
    for word in re.findall(r"-m workflow ([a-z]+)", TEXT):
        assert CliRunner().invoke(app, [word, "--help"]).exit_code == 0, word


def test_the_added_family_samples_as_its_pipeline_does(monkeypatch):
    monkeypatch.setattr(
        known_families, "FAMILIES", [added("Add a family of pipelines", monkeypatch)]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = AuraFlowPipeline(
            tokenizer=letters(),
            text_encoder=t5(),
            vae=autoencoder(4, scaling_factor=0.13),
            transformer=AuraFlowTransformer2DModel(
                sample_size=8,
                num_mmdit_layers=1,
                num_single_dit_layers=1,
                attention_head_dim=8,
                num_attention_heads=4,
                joint_attention_dim=32,
                caption_projection_dim=32,
                pos_embed_max_size=64,
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=1.7),
        ).to(torch.float64)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    asked = {"sigmas": [0.9, 0.5, 0.2], "num_inference_steps": 3, "guidance_scale": 3.0}
    size = {"height": 16, "width": 16, "output_type": "latent"}
    made = pipe("a cat", "blur", latents=noise, **asked, **size).images
    score = from_pipeline(pipe, prompt="a cat", negative="blur", guidance=3.0)
    levels = [t / (1 - t) for t in pipe.scheduler.sigmas[:-1].tolist()]
    ours = flow.follow(score, noise * (1 + levels[0]), [*levels, 0.0])
    torch.testing.assert_close(ours, made, rtol=1e-4, atol=1e-4)
    assert latents.decode(score, ours).shape == (1, 3, 16, 16)
