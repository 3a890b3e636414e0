"""Methods × pairs → one tidy table, each number with its exact definition (`definition`)."""

from .bootstrap import Interval, bootstrap
from .frames import PathLogDensity, mse, path_log_density, pdv, ppl, psnr, ssim
from .published import Lpips, load_lpips
from .sets import fid, frechet_distance, kid
from .steps import adjacent_distances, equal_steps
from .table import definition, evaluate, paired_ratio, set_differences, set_summary, summary

__all__ = [
    "Interval",
    "Lpips",
    "PathLogDensity",
    "adjacent_distances",
    "bootstrap",
    "definition",
    "equal_steps",
    "evaluate",
    "fid",
    "frechet_distance",
    "kid",
    "load_lpips",
    "mse",
    "paired_ratio",
    "path_log_density",
    "pdv",
    "ppl",
    "psnr",
    "set_differences",
    "set_summary",
    "ssim",
    "summary",
]
