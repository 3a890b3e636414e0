"""Diffusion models as scores, against networks whose perfect answer is known: of a Gaussian."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    IPNDMScheduler,
    LCMScheduler,
    ScoreSdeVeScheduler,
    TCDScheduler,
    UNet1DModel,
    UNet2DModel,
    UniPCMultistepScheduler,
)
from networks import EVENT, gaussian_denoiser
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lib import interpolate
from lib.metrics import SpaceTimeMetric
from lib.scores import DenoiserScore, NoiseSchedule
from lib.scores.gaussian import GaussianScore

SHAPE, SCALE, SHIFT = (1, 2, 2), 2.0, -1.0
SCHEDULES = {
    "linear": {},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "zero terminal SNR": {"rescale_betas_zero_snr": True},
    "100 steps": {"num_train_timesteps": 100, "beta_end": 0.2},
}
CASES = [
    (
        f"{name}, {prediction}",
        DDPMScheduler(prediction_type=prediction, clip_sample=False, **settings),
    )
    for name, settings in SCHEDULES.items()
    for prediction in ("epsilon", "v_prediction", "sample")
]
CASES += [
    (
        f"{kind.__name__}, {prediction}",
        kind(prediction_type=prediction, sigma_data=0.6, sigma_min=0.002),
    )
    for kind in (
        EDMEulerScheduler,
        EDMDPMSolverMultistepScheduler,
    )
    for prediction in ("epsilon", "v_prediction")
]
# Of one flow: shift and grids choose levels to sample at, and no score needs them.
CASES += [
    (f"flow, {type(scheduler).__name__}", scheduler)
    for scheduler in (
        FlowMatchEulerDiscreteScheduler(),
        FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        FlowMatchHeunDiscreteScheduler(shift=3.0),
        DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
    )
]
CASES += [("VE", ScoreSdeVeScheduler())]
every_case = pytest.mark.parametrize(
    "scheduler", [case[1] for case in CASES], ids=[case[0] for case in CASES]
)


class PerfectNetwork(torch.nn.Module):
    """What a network that has learned N(mean, covariance) perfectly answers."""

    def __init__(self, mean, covariance, scheduler, learned_variance=False):
        super().__init__()
        self.mean, self.covariance, self.scheduler = mean, covariance, scheduler
        self.learned_variance, self.asked = learned_variance, []
        self.weight = torch.nn.Parameter(torch.zeros(1, dtype=mean.dtype))

    def forward(self, sample, timestep, class_labels=None):
        self.asked.append((len(sample), timestep.clone(), class_labels))
        out = self.answer(sample.flatten(1), timestep.double().to(sample)[:, None])
        out = out.reshape(sample.shape) + 0 * self.weight
        return SimpleNamespace(
            sample=torch.cat([out, torch.full_like(out, 7.0)], 1) if self.learned_variance else out
        )

    def answer(self, z, time):
        """In the words of each kind's own paper; none of it is taken from `NoiseSchedule`."""
        config = self.scheduler.config
        if isinstance(self.scheduler, ScoreSdeVeScheduler):
            # z = y_0 + time·noise, and the answer is the score.
            return (self.posterior_mean(z, time) - z) / time**2
        if "Flow" in type(self.scheduler).__name__ or config.prediction_type == "flow_prediction":
            # z = (1−t) y_0 + t·noise, and the answer is E[noise − y_0 | z].
            t = time / 1000
            clean = self.posterior_mean(z / (1 - t), t / (1 - t))
            return (z - (1 - t) * clean) / t - clean
        if hasattr(self.scheduler, "precondition_inputs"):
            # F from D = c_skip y + c_out F, with the coefficients that diffusers itself uses.
            sigma = (4 * time).exp()
            y = z / self.scheduler.precondition_inputs(torch.ones_like(z), sigma)
            none = torch.zeros_like(y)
            rest = self.scheduler.precondition_outputs(y, none, sigma)
            factor = self.scheduler.precondition_outputs(none, torch.ones_like(y), sigma)
            return (self.posterior_mean(y, sigma) - rest) / factor
        kept = self.scheduler.alphas_cumprod.double().clamp(1e-12, 1 - 1e-12)
        levels, low = (1 / kept - 1).sqrt().log(), time.floor().long().clamp(max=len(kept) - 2)
        sigma = torch.lerp(levels[low], levels[low + 1], time.double() - low).exp().to(z)
        kept = 1 / (1 + sigma**2)
        y = z / kept.sqrt()
        clean = self.posterior_mean(y, sigma)
        noise = (y - clean) / sigma
        return {
            "epsilon": noise,
            "sample": clean,
            "v_prediction": kept.sqrt() * noise - (1 - kept).sqrt() * clean,
        }[config.prediction_type]

    def posterior_mean(self, y, sigma):
        mean, covariance = self.mean.to(y), self.covariance.to(y)
        total = covariance + sigma[..., None] ** 2 * torch.eye(len(mean)).to(y)
        gain = torch.linalg.solve(total, covariance.expand(len(y), -1, -1))
        return mean + ((y - mean)[:, None] @ gain)[:, 0]


def gaussian(dtype=torch.float64):
    """Mean (4,) and covariance (4, 4) in the model's units."""
    root = torch.tensor(
        [[0.5, 0, 0, 0], [0.2, 0.3, 0, 0], [0, -0.2, 0.4, 0], [0.1, 0, 0.1, 0.2]], dtype=dtype
    )
    return torch.tensor([0.3, -0.6, 0.1, 0.8], dtype=dtype), root @ root.T


def pair(scheduler, **settings):
    """The adapter of the perfect network, and the truth in the units of x."""
    mean, covariance = gaussian()
    network = PerfectNetwork(mean, covariance, scheduler, settings.pop("learned_variance", False))
    score = DenoiserScore(network, scheduler, event_shape=SHAPE, **settings)
    return score, GaussianScore((mean - score.shift) / score.scale, covariance / score.scale**2)


def points(n=5, dtype=torch.float64):
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=dtype) + 0.5


def network(**settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            attention_head_dim=8,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            **settings,
        ).eval()


@pytest.fixture(scope="module")
def unet():
    """Four classes, the last of them "no class"."""
    model = network(num_class_embeds=4)
    model.register_to_config(_no_class=3)
    return model


@every_case
def test_the_score_of_a_perfect_network_is_the_exact_one(scheduler):
    score, exact = pair(scheduler)
    lowest, highest = score.noise_range
    for sigma in torch.logspace(
        math.log10(lowest), math.log10(min(highest, 200.0)), 9, dtype=torch.float64
    ).tolist():
        x = 0.5 + sigma * (points() - 0.5)
        sigma = min(max(sigma, lowest), highest)
        torch.testing.assert_close(
            score.at(sigma)(x).flatten(1),
            exact.at(sigma)(x.flatten(1)),
            rtol=1e-7,
            atol=1e-9 / sigma**2,
        )


@every_case
def test_tweedie_and_one_level_a_point(scheduler):
    score, exact = pair(scheduler)
    sigma, x = torch.tensor([0.05, 0.3, 1.0, 2.0, 3.0], dtype=torch.float64), points()
    torch.testing.assert_close(
        score.at(sigma)(x).flatten(1), exact.at(sigma)(x.flatten(1)), rtol=1e-7, atol=1e-7
    )
    torch.testing.assert_close(
        score.at(0.3).denoise(x), x + 0.3**2 * score.at(0.3)(x), rtol=1e-12, atol=1e-12
    )


@every_case
def test_timestep_and_sigma_are_inverse_of_each_other(scheduler):
    schedule = NoiseSchedule(scheduler)
    sigma = torch.logspace(
        math.log10(schedule.lowest), math.log10(schedule.highest), 50, dtype=torch.float64
    )
    time = schedule.timestep(sigma)
    assert bool((time.diff() > 0).all())
    back = torch.tensor([schedule.sigma(t) for t in time.tolist()], dtype=torch.float64)
    torch.testing.assert_close(back, sigma, rtol=1e-9, atol=0)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("kind", [EDMEulerScheduler, EDMDPMSolverMultistepScheduler])
def test_preconditioning_is_the_scheduler_s_own(kind, prediction):
    scheduler = kind(prediction_type=prediction, sigma_data=0.7)
    schedule, sigma = NoiseSchedule(scheduler), torch.logspace(-2, 2, 30, dtype=torch.float64)
    one, none = torch.ones_like(sigma), torch.zeros_like(sigma)
    own = (
        scheduler.precondition_inputs(one, sigma),
        scheduler.precondition_outputs(one, none, sigma),
        scheduler.precondition_outputs(none, one, sigma),
    )
    torch.testing.assert_close(schedule.coefficients(sigma), own, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        schedule.timestep(sigma), scheduler.precondition_noise(sigma), rtol=1e-12, atol=1e-15
    )


def test_another_noise_conditioning_is_refused():
    scheduler = EDMEulerScheduler()
    scheduler.precondition_noise = lambda sigma: sigma.log() / 2
    with pytest.raises(TypeError, match="precondition_noise"):
        NoiseSchedule(scheduler)


@pytest.mark.parametrize(
    "scheduler, top",
    [
        (DDPMScheduler(rescale_betas_zero_snr=True), 200),
        (DDPMScheduler(beta_schedule="squaredcos_cap_v2"), 200),
        (EDMEulerScheduler(sigma_max=500.0), 200),
        (EDMEulerScheduler(), 80.0),
    ],
)
def test_the_default_level_leaves_out_noise_where_nothing_of_the_image_is_left(scheduler, top):
    score = pair(scheduler)[0]
    assert (
        score.sigma == pytest.approx(math.sqrt(score.schedule.lowest * top) / 2, rel=1e-9)
        and score.sigma < 2
    )


@pytest.mark.parametrize("name", SCHEDULES)
def test_whole_timesteps_are_those_of_the_scheduler(name):
    scheduler = DDPMScheduler(**SCHEDULES[name])
    schedule, kept = NoiseSchedule(scheduler), scheduler.alphas_cumprod.double()
    for t in (0, 1, 37, len(kept) // 2, len(kept) - 2):
        sigma = math.sqrt((1 - kept[t]) / kept[t])
        assert schedule.sigma(t) == pytest.approx(sigma, rel=1e-12)
        assert float(
            schedule.timestep(torch.tensor([sigma], dtype=torch.float64))
        ) == pytest.approx(t, abs=1e-6)
    with pytest.raises(ValueError, match="timestep must lie in"):
        schedule.sigma(len(kept))


@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_denoised_points_are_those_of_diffusers_own_step(kind, prediction, unet):
    scheduler, double = (
        kind(prediction_type=prediction, clip_sample=False),
        copy.deepcopy(unet).double(),
    )
    scheduler.set_timesteps(1000)
    score = DenoiserScore(double, scheduler, label=1)
    y = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for t in (0, 400, 998):
        with torch.no_grad():
            out = double(y, torch.tensor(t), class_labels=torch.ones(3, dtype=torch.long)).sample
            expected = scheduler.step(out, t, y).pred_original_sample
        sigma = score.schedule.sigma(t)
        x = (y * math.sqrt(1 + sigma**2) - SHIFT) / SCALE
        torch.testing.assert_close(
            SCALE * score.at(sigma / SCALE).denoise(x) + SHIFT, expected, rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_edm_denoised_points_are_those_of_diffusers_own_step(prediction, unet):
    scheduler, double = (
        EDMEulerScheduler(prediction_type=prediction, sigma_data=0.6),
        copy.deepcopy(unet).double(),
    )
    scheduler.set_timesteps(5)
    score, index = DenoiserScore(double, scheduler, label=2), 2
    sigma, t = scheduler.sigmas[index].double().item(), scheduler.timesteps[index]
    y = sigma * torch.randn(
        3, 1, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    with torch.no_grad():
        out = double(scheduler.scale_model_input(y, t), t, class_labels=torch.full((3,), 2)).sample
        expected = scheduler.step(out, t, y, s_churn=0.0).pred_original_sample
    found = SCALE * score.at(sigma / SCALE).denoise((y - SHIFT) / SCALE) + SHIFT
    torch.testing.assert_close(found, expected.double(), rtol=1e-4, atol=1e-4)


def test_a_learned_variance_is_left_aside():
    scheduler = DDPMScheduler(variance_type="learned_range", clip_sample=False)
    plain, learned = pair(scheduler)[0], pair(scheduler, learned_variance=True)[0]
    assert torch.equal(plain.at(0.4)(points()), learned.at(0.4)(points()))


def test_micro_batches_change_nothing_but_their_size():
    scheduler = EDMEulerScheduler()
    whole, parts = pair(scheduler)[0], pair(scheduler, micro_batch=2)[0]
    sigma = torch.tensor([0.1, 0.2, 0.4, 0.8, 1.6], dtype=torch.float64)
    torch.testing.assert_close(
        parts.at(sigma)(points()), whole.at(sigma)(points()), rtol=1e-12, atol=1e-12
    )
    assert [asked[0] for asked in parts.model.asked] == [2, 2, 1] and [
        asked[0] for asked in whole.model.asked
    ] == [5]
    assert (parts.counter.evaluations, parts.counter.batches) == (5, 1)


@pytest.mark.parametrize(
    "model, told",
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_dtype_follows_the_points_and_time_stays_fine(model, told):
    scheduler, x = DDPMScheduler(clip_sample=False), points()
    score, exact = pair(scheduler)
    score.model.weight.data = score.model.weight.data.to(model)
    seen = []
    perfect = score.model.forward

    def forward(sample, timestep, class_labels=None):
        seen.append((sample.dtype, timestep.dtype))
        return SimpleNamespace(sample=perfect(sample.double(), timestep).sample.to(sample.dtype))

    score.model.forward = forward
    found = score.at(0.6)(x)
    assert found.dtype == torch.float64 and seen == [(model, told)]
    assert score.at(0.6)(x.float()).dtype == torch.float32
    tolerance = {
        torch.float64: 1e-9,
        torch.float32: 1e-4,
        torch.float16: 0.02,
        torch.bfloat16: 0.1,
    }[model]
    torch.testing.assert_close(
        found.flatten(1), exact.at(0.6)(x.flatten(1)), rtol=tolerance, atol=tolerance
    )


def test_no_gradient_unless_asked_and_then_the_right_one(unet):
    score = DenoiserScore(
        copy.deepcopy(unet).double(), EDMEulerScheduler(sigma_data=0.6), sigma=0.5
    )
    x, v, w = torch.randn(
        3, 2, 1, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    assert not score(x).requires_grad
    asked = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((score(asked) * w).sum(), asked)
    assert float((gradient * v).sum()) == pytest.approx(
        float((w * score.derivative(x, v)).sum()), rel=1e-9
    )
    with torch.no_grad():
        assert not score(asked).requires_grad
    assert all(p.grad is None for p in score.model.parameters())


def test_the_directional_derivative_is_that_of_a_difference_quotient(unet):
    score = DenoiserScore(
        copy.deepcopy(unet).double(), EDMEulerScheduler(sigma_data=0.6), sigma=0.5, micro_batch=2
    )
    x, v = torch.randn(
        2, 3, 1, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    quotient = (score(x + 1e-5 * v) - score(x - 1e-5 * v)) / 2e-5
    torch.testing.assert_close(score.derivative(x, v), quotient, rtol=1e-5, atol=1e-6)
    assert score.counter.derivatives == 3


def test_the_derivative_of_a_perfect_network_is_the_exact_one():
    (score, exact), x, v = pair(EDMEulerScheduler()), points(), points().flip(0)
    torch.testing.assert_close(
        score.at(0.4).derivative(x, v).flatten(1),
        exact.at(0.4).derivative(x.flatten(1), v.flatten(1)),
        rtol=1e-7,
        atol=1e-9,
    )


def test_classes(unet):
    score = DenoiserScore(unet, EDMEulerScheduler(), sigma=0.5)
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    two = score.conditioned(2)
    assert (score.label, two.label, two.conditioned(None).label) == (
        3,
        2,
        3,
    )  # class 3 is "no class"
    assert torch.equal(two(x), DenoiserScore(unet, EDMEulerScheduler(), sigma=0.5, label=2)(x))
    assert not torch.equal(two(x), score(x))
    assert score.counter is two.counter
    for label in (4, -1):
        with pytest.raises(ValueError, match=r"label must lie in 0\.\.3"):
            score.conditioned(label)
    plain = pair(DDPMScheduler())[0]
    with pytest.raises(ValueError, match="without classes"):
        plain.conditioned(0)
    plain(points())
    assert plain.model.asked[-1][2] is None


def test_a_foreign_network_s_last_class_is_a_class_like_any_other():
    model, x = (
        network(num_class_embeds=4),
        torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
    )
    with pytest.raises(
        ValueError, match=r"give label= \(0\.\.3\), or say which of them means \"no class\""
    ):
        DenoiserScore(model, EDMEulerScheduler())
    third = DenoiserScore(model, EDMEulerScheduler(), label=3, sigma=0.5)
    with pytest.raises(ValueError, match="class-conditional"):
        third.conditioned(None)
    for bad in (1.5, "cat", 4):
        with pytest.raises(ValueError, match=r"label must lie in 0\.\.3"):
            third.conditioned(bad)
    model.register_to_config(_no_class=3)
    assert torch.equal(DenoiserScore(model, EDMEulerScheduler(), sigma=0.5)(x), third(x))
    model.register_to_config(_no_class=4)
    with pytest.raises(ValueError, match=r"label must lie in 0\.\.3, got 4"):
        DenoiserScore(model, EDMEulerScheduler())


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(time_embedding_type="fourier"), "as ScoreSdeVeScheduler has it"),
        (dict(class_embed_type="identity"), "class_embed_type"),
        (dict(class_embed_type="timestep"), "class_embed_type"),
        (dict(time_embedding_type="learned", num_train_timesteps=9), "whole time steps only"),
    ],
)
def test_networks_that_cannot_be_asked_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        DenoiserScore(network(**settings), DDPMScheduler())


class NoDouble(TorchDispatchMode):
    """A device without float64, played by "meta": it fails on a float64 tensor."""

    seen = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "meta":
                self.seen += 1
                assert tensor.dtype != torch.float64, f"{function} makes float64 on the device"
        return out


@pytest.mark.parametrize(
    "scheduler",
    [DDPMScheduler(), EDMEulerScheduler()],
    ids=lambda s: type(s).__name__,
)
def test_a_device_without_double_precision_sees_none(unet, scheduler):
    score = DenoiserScore(copy.deepcopy(unet).to("meta"), scheduler, sigma=0.5, micro_batch=2)
    with NoDouble() as device:
        x = torch.rand(3, 1, 8, 8, device="meta")
        for s in (score, score.at(torch.tensor([0.4, 0.5, 0.6]))):
            assert (
                s(x).device.type == "meta"
                and s.denoise(x).shape == x.shape
                and s(x).dtype == torch.float32
            )
    assert device.seen > 100


def test_calls_are_counted_once_for_all_levels():
    score = pair(EDMEulerScheduler())[0]
    score(points())
    score.at(0.2).denoise(points(3))
    assert (score.counter.evaluations, score.counter.batches, score.counter.derivatives) == (
        8,
        2,
        0,
    )


def test_units_range_and_shape_come_from_the_model(unet):
    score = DenoiserScore(unet, EDMEulerScheduler(sigma_min=0.02, sigma_max=40))
    assert (
        score.noise_range == (0.01, 20)
        and score.event_shape == (1, 8, 8)
        and score.sigma == pytest.approx(math.sqrt(0.2))
    )
    assert (
        DenoiserScore(unet, EDMEulerScheduler(sigma_min=0.02), scale=1, shift=0).noise_range[0]
        == 0.02
    )
    assert score.at(0.01).sigma == 0.01 and score.at(20.0).sigma == 20.0


@pytest.mark.parametrize("sigma", [0.0099, 20.5, torch.tensor([0.5, 30.0])])
def test_noise_it_was_not_trained_for_is_refused(unet, sigma):
    scheduler = EDMEulerScheduler(sigma_min=0.02, sigma_max=40)
    with pytest.raises(ValueError, match=r"sigma must lie in \[0.01, 20\]"):
        DenoiserScore(unet, scheduler).at(sigma)
    with pytest.raises(ValueError, match=r"sigma must lie in \[0.01, 20\]"):
        DenoiserScore(unet, scheduler, sigma=sigma)


@pytest.mark.parametrize("bad", [math.nan, -1.0, 0.0, math.inf])
def test_a_level_that_is_none_is_refused(unet, bad):
    with pytest.raises(ValueError, match="sigma must be"):
        DenoiserScore(unet, EDMEulerScheduler()).at(bad)


def test_points_of_another_shape_or_kind_are_refused(unet):
    score = DenoiserScore(unet, EDMEulerScheduler(), sigma=0.5)
    for shape in ((8, 8), (1, 8, 8), (2, 3, 8, 8), (2, 1, 16, 16)):
        with pytest.raises(ValueError, match=r"takes points of shape \(n, 1, 8, 8\)"):
            score(torch.zeros(shape))
    with pytest.raises(TypeError, match="floating"):
        score.denoise(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))


def test_the_original_score_model_answers_with_the_score():
    """NCSN++: told sigma, images in [0, 1], no factor of its own."""
    kind = ScoreSdeVeScheduler(sigma_min=0.01, sigma_max=50.0)
    model = network(time_embedding_type="fourier").double()
    score = DenoiserScore(model, kind, sigma=0.3)
    assert (score.scale, score.shift, score.noise_range) == (1, 0, (0.01, 50))
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        expected = model(x, torch.full((2,), 0.3, dtype=torch.float64)).sample
    torch.testing.assert_close(score(x), expected, rtol=1e-9, atol=1e-9)


def test_signals():
    """A UNet1DModel: points (channels, length), as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layout = {
            "sample_size": 16,
            "in_channels": 2,
            "out_channels": 2,
            "block_out_channels": (32, 32),
            "down_block_types": ("DownBlock1DNoSkip", "AttnDownBlock1D"),
            "up_block_types": ("AttnUpBlock1D", "UpBlock1DNoSkip"),
        }
        model = UNet1DModel(time_embedding_type="positional", extra_in_channels=32, **layout)
        turning = UNet1DModel(extra_in_channels=16, **layout)
    scheduler = DDPMScheduler(prediction_type="v_prediction")
    score = DenoiserScore(model.eval(), scheduler, sigma=0.5, micro_batch=2)
    assert score.event_shape == (2, 16) and (score.scale, score.shift) == (1, 0)
    x = torch.randn(3, 2, 16, generator=torch.Generator().manual_seed(0))
    kept = 1 / (1 + 0.5**2)
    time = score.schedule.timestep(torch.full((3,), 0.5, dtype=torch.float64)).float()
    with torch.no_grad():
        out = model(x * kept**0.5, time).sample
    expected = kept * x - (1 - kept) ** 0.5 * out
    torch.testing.assert_close(score.denoise(x), expected, rtol=1e-4, atol=1e-5)
    path = interpolate(score, x[0], x[1], lam=1.0, points=5, frames=3, max_iter=3, tol=1e3)
    assert path.frames.shape == (1, 3, 2, 16) and bool(torch.isfinite(path.frames).all())
    with pytest.raises(ValueError, match="'positional'"):
        DenoiserScore(turning, scheduler)


def test_schedulers_without_a_score_are_refused(unet):
    for kind in (LCMScheduler, TCDScheduler, FlowMatchLCMScheduler):
        with pytest.raises(TypeError, match="distilled or consistency"):
            DenoiserScore(unet, kind(), label=0)
    with pytest.raises(TypeError, match="does not say what its network predicts"):
        DenoiserScore(unet, IPNDMScheduler(), label=0)
    continuous = EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction")
    with pytest.raises(TypeError, match="¼ log sigma"):
        DenoiserScore(unet, continuous, label=0)
    unknown = DDPMScheduler()
    unknown.register_to_config(prediction_type="velocity")
    with pytest.raises(ValueError, match="unknown prediction_type"):
        DenoiserScore(unet, unknown, label=0)
    with pytest.raises(ValueError, match="micro_batch"):
        DenoiserScore(unet, DDPMScheduler(), micro_batch=0)


def test_a_scheduler_made_of_one_of_another_kind_is_refused(unet):
    """from_config leaves settings behind that show what the network was trained with."""
    flow = FlowMatchEulerDiscreteScheduler(shift=3.0)
    velocity = DDPMScheduler(prediction_type="v_prediction")
    scaled = DDPMScheduler(beta_schedule="scaled_linear")
    for wrong, error in (
        (EulerDiscreteScheduler.from_config(flow.config), TypeError),
        (DPMSolverMultistepScheduler.from_config(flow.config), TypeError),
        (DPMSolverMultistepScheduler(use_flow_sigmas=True), TypeError),
        (FlowMatchEulerDiscreteScheduler.from_config(scaled.config), TypeError),
        (FlowMatchEulerDiscreteScheduler.from_config(velocity.config), ValueError),
        (FlowMatchEulerDiscreteScheduler(invert_sigmas=True), TypeError),
    ):
        with pytest.raises(error, match=r"flow|velocity|noise to data"):
            NoiseSchedule(wrong)
    solver = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, beta_schedule="scaled_linear"
    )
    assert NoiseSchedule(FlowMatchEulerDiscreteScheduler.from_config(solver.config)).kind == "flow"


def test_a_flow_is_its_scheduler_s_own_step():
    """x_0 = z − t·velocity, and the time told is 1000 t."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(5)
    score = pair(scheduler, scale=1.0, shift=0.0)[0]
    t, last = float(scheduler.sigmas[2]), float(scheduler.sigmas[3])
    z = points()
    out = score.model(z, scheduler.timesteps[2].expand(5)).sample
    expected = scheduler.step(out, scheduler.timesteps[2], z).prev_sample
    y, level = z / (1 - t), t / (1 - t)
    clean = score.at(level).denoise(y)
    # Along the straight line from the data to the noise, (1−t) clean + t·noise.
    ours = (1 - last) * clean + last * (y - clean) / level
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_papers_time_steps_are_carried_over_by_signal_to_noise():
    flow_levels = NoiseSchedule(FlowMatchEulerDiscreteScheduler()).in_steps()
    own = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    for step, t in ((400, 0.538), (581, 0.681)):
        sigma = flow_levels.sigma(step)
        assert sigma == pytest.approx(NoiseSchedule(own).sigma(step), rel=1e-5)
        assert sigma / (1 + sigma) == pytest.approx(t, abs=5e-4)


def test_space_time_stays_at_noise_levels_that_the_model_knows():
    score = gaussian_denoiser(sigma=0.5)
    metric, (lowest, highest) = SpaceTimeMetric(score), score.noise_range
    x = torch.rand(2, *EVENT, dtype=torch.float64)
    far = metric.lift(x, 0.5)
    far[:, -1] = torch.tensor([1e-9, 1e9], dtype=torch.float64).log()  # a line search's trial step
    torch.testing.assert_close(
        metric.project(far)[1], torch.tensor([lowest, highest], dtype=torch.float64)
    )
    torch.testing.assert_close(
        metric.energy(far[None]), metric.energy(metric.lift(*metric.project(far))[None])
    )
    with pytest.raises(ValueError, match="sigma must lie in"):
        metric.lift(x, 1e9)  # what is given is refused
