"""Methods × pairs → one tidy table, each number with its exact definition (`definition`)."""

from .bootstrap import Interval, bootstrap
from .frames import PathLogDensity, largest_step, mse, path_log_density, pdv, ppl, psnr, ssim
from .imagenet import IMAGENET, ImageNetNetwork, load_imagenet
from .motion import motion, optical_flow
from .published import Lpips, load_lpips
from .sets import fid, frechet_distance, kid, reference_of
from .steps import adjacent_distances, equal_steps
from .table import (
    definition,
    differences_of_features,
    evaluate,
    paired_ratio,
    set_differences,
    set_features,
    set_summary,
    summary,
    summary_of_features,
)
from .typical import RealDensity, confident_share, real_density, typicality

__all__ = [
    "IMAGENET",
    "ImageNetNetwork",
    "Interval",
    "Lpips",
    "PathLogDensity",
    "RealDensity",
    "adjacent_distances",
    "bootstrap",
    "confident_share",
    "definition",
    "differences_of_features",
    "equal_steps",
    "evaluate",
    "fid",
    "frechet_distance",
    "kid",
    "largest_step",
    "load_imagenet",
    "load_lpips",
    "motion",
    "mse",
    "optical_flow",
    "paired_ratio",
    "path_log_density",
    "pdv",
    "ppl",
    "psnr",
    "real_density",
    "reference_of",
    "set_differences",
    "set_features",
    "set_summary",
    "ssim",
    "summary",
    "summary_of_features",
    "typicality",
]
