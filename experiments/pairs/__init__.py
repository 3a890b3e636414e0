"""Methods × pairs of images, as files and one table: `run_pairs(score, read_pairs(folder), methods, out)`."""

from .folder import Pairs, read_pairs
from .run import run_pairs

__all__ = ["Pairs", "read_pairs", "run_pairs"]
