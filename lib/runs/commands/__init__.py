"""The commands of `python -m lib.runs`, a file a theme; each has an `app`, and `PARTS` lists them in the order of --help."""

from . import figures, models, reading, reruns

PARTS = (reruns, reading, figures, models)
