"""A network that needs no training: the exact denoiser of a Gaussian."""

from types import SimpleNamespace

import torch
from diffusers import DDPMScheduler
from torch import nn

from lib.scores import DenoiserScore, NoiseSchedule

EVENT = (1, 3, 4)


class GaussianNetwork(nn.Module):
    """The posterior mean of y_0 ~ N(mean, diag(std²)), called as a UNet2DModel of the sample."""

    def __init__(self, scheduler):
        super().__init__()
        g = torch.Generator().manual_seed(5)
        self.mean = nn.Parameter(torch.rand(EVENT, generator=g, dtype=torch.float64) - 0.5)
        self.std = nn.Parameter(0.2 + 0.5 * torch.rand(EVENT, generator=g, dtype=torch.float64))
        self.levels = NoiseSchedule(scheduler).log_sigmas

    def forward(self, z, timestep):
        below = timestep.long().clamp(0, len(self.levels) - 2)
        sigma = (
            torch.lerp(self.levels[below], self.levels[below + 1], timestep - below)
            .exp()
            .reshape(-1, 1, 1, 1)
        )
        y = z * (1 + sigma**2).sqrt()
        return SimpleNamespace(
            sample=self.mean + self.std**2 / (self.std**2 + sigma**2) * (y - self.mean)
        )


def gaussian_denoiser(**settings):
    """DenoiserScore of x = (y + 1)/2, float64, on the linear DDPM schedule."""
    scheduler = DDPMScheduler(prediction_type="sample")
    return DenoiserScore(GaussianNetwork(scheduler), scheduler, event_shape=EVENT, **settings)


def moments(score):
    """Mean and standard deviation of the data of `gaussian_denoiser`, in the units of x."""
    return (score.model.mean.detach() + 1) / 2, score.model.std.detach() / 2
