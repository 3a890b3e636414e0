"""The commands of `python -m lib.runs`: training and pairs, until experiments has them."""

from . import models

PARTS = (models,)
