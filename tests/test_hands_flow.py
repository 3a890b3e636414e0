"""The flow-matching model of hands: its loss, its training, the layout it is saved in."""

import functools
from types import SimpleNamespace

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusion3Pipeline
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

from experiments import data, hands
from experiments.classifiers import HandClassifier
from experiments.training import hands as hands_training
from experiments.training import hands_flow as training
from experiments.training import networks
from experiments.training.__main__ import app
from experiments.training.loop import Settings

SHORT = Settings(steps=3, batch=2, rate=1e-3, warmup=1, every=2)


@pytest.fixture
def small(drawn, monkeypatch):
    """Two blocks of one head, and a sampler of one step."""
    network = functools.partial(networks.flow_transformer, heads=1, layers=2)
    monkeypatch.setattr(networks, "flow_transformer", network)
    monkeypatch.setattr(hands_training, "STEPS", 1)


class ExactVelocity(nn.Module):
    """E[noise − latent | x_t] where all latents are one: (x_t − latent) / t."""

    def __init__(self, latent):
        super().__init__()
        self.latent = nn.Parameter(latent)
        self.calls = []

    def forward(self, hidden_states, timestep, encoder_hidden_states, pooled_projections):
        self.calls.append((encoder_hidden_states, pooled_projections))
        share = timestep[:, None, None, None] / 1000
        return SimpleNamespace(sample=(hidden_states - self.latent) / share)


def test_the_exact_velocity_has_no_loss_and_captions_go_with_their_latents(generator):
    latent = torch.randn(4, 16, 16, generator=generator)
    model = ExactVelocity(latent)
    captions = torch.arange(81.0)
    text = training.Text(captions[:, None, None].expand(-1, 16, 2), captions[:, None])
    loss = training.flow_loss(latent.expand(5, -1, -1, -1), torch.full((5,), 7), text, batch=8)
    for _ in range(320):
        assert loss(model, generator).item() < 1e-6
    with_zeros = 0
    without_caption = 0
    for tokens, pooled in model.calls:
        long = tokens.shape[1] == 16 + training.ZEROS
        with_zeros += long
        without_caption += (pooled == 0).sum().item()
        assert len(tokens) == len(pooled) == (2 if long else 8)
        assert torch.equal(tokens[:, :16, 0], pooled.expand(-1, 16))
        assert not tokens[:, 16:].any()
        # Caption 0 is none; the eight wordings of a digit follow one another.
        assert ((pooled == 0) | ((pooled - 1) // len(hands.CAPTIONS) == 7)).all()
    # Four standard deviations.
    assert with_zeros / 320 == pytest.approx(1 / 16, abs=0.055)
    assert without_caption / (8 * 320 - 6 * with_zeros) == pytest.approx(0.1, abs=0.025)


def test_the_training_goes_on_bit_for_bit(small, tmp_path):
    def train(name, until=None):
        return training.train_transformer(
            tmp_path / name,
            training.untrained_pipeline(),
            SHORT,
            until=until,
            copies=1,
            progress=False,
        )

    train("cut", until=1)
    again = train("cut")
    whole = train("whole")
    assert training.fingerprint(again.average) == training.fingerprint(whole.average)
    assert whole.losses == again.losses


def test_the_command_saves_what_loads_and_samples(small, tmp_path, monkeypatch):
    reader = HandClassifier().eval().requires_grad_(False)
    short = functools.partial(training.train_hands_flow, copies=1, rated=1, classifier=reader)
    monkeypatch.setattr(training, "SETTINGS", SHORT)
    monkeypatch.setattr(training, "train_hands_flow", short)
    folder = tmp_path / "hands-flow"
    arguments = ["hands-flow", "--out", folder, "--work", tmp_path / "work", "--steps", 3]
    arguments += ["--until", 2, "--samples", 1, "--seed", 4, "--machine", "a machine"]
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == training.WRITTEN
    text = (folder / "README.md").read_text()
    assert "| steps made | 2 of 3 |" in text
    assert "seed 4" in text
    assert "a machine" in text
    assert " of 10, 1 of each digit" in text
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    assert {value.dtype for value in load_file(weights).values()} == {torch.float16}
    # No configuration says where a part was read from.
    configurations = [path.read_text() for path in folder.glob("*/config.json")]
    assert not any("_name_or_path" in text for text in configurations)
    # The autoencoder is that of "hands", byte for byte.
    name = "vae/diffusion_pytorch_model.safetensors"
    assert (folder / name).read_bytes() == data.locate("hands")[name].read_bytes()

    pipe = DiffusionPipeline.from_pretrained(
        folder, text_encoder_3=None, tokenizer_3=None, low_cpu_mem_usage=False
    )
    assert isinstance(pipe, StableDiffusion3Pipeline)
    for part in ("vae", "transformer", "text_encoder", "text_encoder_2"):
        assert getattr(pipe, part).dtype == torch.float32
    captions = training.encode_captions(pipe)
    expected = training.encode_captions(training.untrained_pipeline())
    assert captions.tokens.shape == (81, 16, 256)
    torch.testing.assert_close(captions.tokens, expected.tokens)
    torch.testing.assert_close(captions.pooled, expected.pooled)
    first = training.sample_digits(pipe, 1, max_sequence_length=0)
    assert first.shape == (10, 3, 64, 64)
    (image,) = pipe("three", num_inference_steps=1).images
    assert image.size == (64, 64)


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "locate", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"experiments\.training hands"):
        training.untrained_pipeline()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"notes\.txt"):
        training.train_hands_flow(tmp_path, tmp_path / "work")
