"""Images and latents, and text inversion: small random pipelines, closed forms."""

import signal

import pytest
import torch
from pipelines import TOKENS, VERSIONS, WIDTH, pipeline

from lib.latents import decode, encode, text_inversion
from lib.scores import PipelineScore

SCORE = PipelineScore(pipeline(), "a cat", micro_batch=2)
SHORT = {"steps": 6, "rate": 0.05, "seed": 1}


def images(n=3, height=64, width=64, seed=0):
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


def test_encoding_and_decoding_are_the_pipelines():
    """Scaled mean of the posterior; images in [0, 1]; micro-batches change nothing."""
    vae, x = SCORE.pipe.vae, images()
    with torch.no_grad():
        posterior = vae.encode(2 * x - 1).latent_dist
        z = posterior.mean * vae.config.scaling_factor
        shown = SCORE.pipe.image_processor.postprocess(
            vae.decode(z / vae.config.scaling_factor).sample, output_type="pt"
        )
    torch.testing.assert_close(encode(SCORE, x), z, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(decode(SCORE, z), shown, rtol=1e-4, atol=1e-5)
    paths = z[None].expand(2, 3, -1, -1, -1)
    assert decode(SCORE, paths).shape == (2, 3, 3, 64, 64)
    torch.testing.assert_close(decode(SCORE, paths)[1, 2], shown[2], rtol=1e-4, atol=1e-5)
    assert encode(SCORE, images(1, 72, 104)).shape == (1, 4, 9, 13)
    assert encode(SCORE, x.double()).dtype == torch.float64 and not encode(SCORE, x).requires_grad


@pytest.mark.parametrize(
    "bad, error, message",
    [
        (lambda: images(1, 60, 64), ValueError, "resize"),
        (
            lambda: images()[:, :1],
            ValueError,
            "grey",
        ),
        (lambda: images()[0], ValueError, r"one image: images\[None\]"),
        (lambda: images() * 255, ValueError, "divide images in 0..255 by 255"),
        (lambda: (images() * 255).byte(), TypeError, "floating"),
        (lambda: images() * torch.nan, ValueError, "NaN"),
        (lambda: images()[:0], ValueError, "must have shape"),
    ],
)
def test_images_that_do_not_fit_say_so(bad, error, message):
    with pytest.raises(error, match=message):
        encode(SCORE, bad())


@pytest.mark.parametrize(
    "bad, message",
    [(torch.zeros(1, 3, 8, 8), r"\(…, 4, h, w\)"), (torch.full((1, 4, 8, 8), torch.nan), "NaN")],
)
def test_latents_that_do_not_fit_say_so(bad, message):
    with pytest.raises(ValueError, match=message):
        decode(SCORE, bad)


def test_half_precision_vae_goes_on_in_single():
    pipe = pipeline()
    with torch.no_grad():
        pipe.vae.decoder.conv_out.weight.mul_(1e7).clamp_(-6e4, 6e4)
        pipe.vae.decoder.conv_out.bias.fill_(6e4)
    pipe.vae.half()
    score = PipelineScore(pipe)
    with pytest.warns(UserWarning, match="AutoencoderKL answered with NaN or infinity"):
        shown = decode(score, torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert bool(torch.isfinite(shown).all()) and pipe.vae.dtype == torch.float16


def error_of(score, latent, text, n=64):
    """The inversion's loss on draws of its own, (n,) times and noises."""
    g = torch.Generator().manual_seed(99)
    sigma = score.schedule.log_sigmas.exp()[torch.randint(1000, (n,), generator=g)]
    noise = torch.randn(n, *latent.shape[1:], generator=g)
    x = latent.expand(n, -1, -1, -1)
    clean = score.posterior_means(
        x + sigma.float().reshape(-1, 1, 1, 1) * noise, sigma, [score.read(text)]
    )[0]
    return ((x - clean) / sigma.float().reshape(-1, 1, 1, 1)).square().mean().item()


@pytest.mark.parametrize("version", VERSIONS)
def test_text_inversion_lowers_the_denoising_error(version, tmp_path):
    score = PipelineScore(pipeline(version), "a cat", micro_batch=64)
    latent = encode(score, images(1))
    before = score.embed("a cat").clone()
    text = text_inversion(
        score,
        latent,
        tmp_path,
        prompt="a cat",
        steps=60,
        batch=4,
        rate=0.03,
    )
    assert text.shape == (1, TOKENS, WIDTH) and not text.requires_grad
    assert error_of(score, latent, text) < 0.995 * error_of(score, latent, before)
    assert torch.equal(score.embed("a cat"), before) and all(
        p.grad is None for p in score.model.parameters()
    )
    assert score.counter.evaluations == score.counter.derivatives == 60 * 4
    assert bool(torch.isfinite(score.prompted(text)(latent)).all())


def test_one_step_of_the_released_code(tmp_path):
    """AdamW of torch's defaults at 5e-3 on the error of the predicted noise: one step by hand."""
    pipe, latent = SCORE.pipe, encode(SCORE, images(1))
    ours = text_inversion(SCORE, latent, tmp_path, prompt="a cat", steps=1)
    g = torch.Generator().manual_seed(0)
    t = torch.randint(1000, (2,), generator=g)
    torch.randint(1, (2,), generator=g)
    noise = torch.randn(2, *latent.shape[1:], generator=g, dtype=torch.float64).float()
    text = torch.nn.Parameter(SCORE.embed("a cat").clone())
    optimizer = torch.optim.AdamW([text], lr=5e-3)
    noised = pipe.scheduler.add_noise(latent.expand(2, -1, -1, -1), noise, t)
    torch.nn.functional.mse_loss(
        pipe.unet(noised, t, encoder_hidden_states=text.expand(2, -1, -1)).sample, noise
    ).backward()
    optimizer.step()
    assert (
        (ours - text).abs() < 1e-3
    ).float().mean() > 0.98  # the first step is ±rate; a tiny gradient's sign is noise
    assert (text - SCORE.embed("a cat")).abs().max() > 4e-3


def test_text_inversion_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    latent = encode(SCORE, images(1))
    whole = text_inversion(SCORE, latent, tmp_path / "whole", **SHORT)
    posterior_means = SCORE.posterior_means
    calls = []

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGINT)
        return posterior_means(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PipelineScore, "posterior_means", interrupted)
        text_inversion(SCORE, latent, tmp_path / "cut", **SHORT)
    assert [path.name for path in (tmp_path / "cut").iterdir()] == ["checkpoint.safetensors"]
    before = SCORE.counter.evaluations
    assert torch.equal(text_inversion(SCORE, latent, tmp_path / "cut", **SHORT), whole)
    assert SCORE.counter.evaluations == before + 3 * 2
    # Only the interrupted step was made again; a run that is done is only read.
    before = SCORE.counter.evaluations
    assert torch.equal(text_inversion(SCORE, latent, tmp_path / "cut", **SHORT), whole)
    assert SCORE.counter.evaluations == before


@pytest.mark.parametrize(
    "culprit, changed",
    [
        ("latent", {"latent": 2.0}),
        ("prompt", {"prompt": "dog"}),
        ("settings", {"rate": 0.01}),
        ("model", {"origin": {"id": "another"}}),
        ("checkpoint", {"cut": 1000}),
    ],
)
def test_text_inversion_goes_on_from_no_other_checkpoint(culprit, changed, tmp_path):
    latent = encode(SCORE, images(1))
    text_inversion(SCORE, latent, tmp_path, **SHORT)
    path = tmp_path / "checkpoint.safetensors"
    content = path.read_bytes()[: changed.get("cut")]
    path.write_bytes(content)
    score = SCORE.prompted("")
    score.origin = changed.get("origin")
    with pytest.raises(ValueError, match=f"cannot continue.*{culprit}.*another folder"):
        text_inversion(
            score,
            changed.get("latent", 1.0) * latent,
            tmp_path,
            prompt=changed.get("prompt", ""),
            **{**SHORT, "rate": changed.get("rate", 0.05)},
        )
    assert path.read_bytes() == content


def test_text_inversion_refuses_what_it_cannot_do(tmp_path):
    latent = encode(SCORE, images(1))
    with pytest.raises(ValueError, match="steps"):
        text_inversion(SCORE, latent, tmp_path, steps=0)
    with pytest.raises(ValueError, match="one prompt is inverted at a time"):
        text_inversion(SCORE, latent, tmp_path, prompt=SCORE.embed(["a", "b"]))
    with pytest.raises(ValueError, match=r"the score takes \(4, 8, 8\)"):
        text_inversion(SCORE, latent[..., :6], tmp_path)
    assert not list(tmp_path.iterdir())
