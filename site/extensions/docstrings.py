"""lib's docstrings are plain text with `code`: what reStructuredText would take for markup is shown as written."""

import re

MARKUP = re.compile(r"([*|\\]|(?<=\w)_(?!\w))")


def plain(line: str) -> str:
    """One line of plain text as reStructuredText: `code` as code, everything else literally."""
    parts = line.split("`")
    if len(parts) % 2 == 0:                 # an unpaired backtick is a character like any other
        return MARKUP.sub(r"\\\1", line).replace("`", r"\`")
    return "".join(f"``{part}``" if odd else MARKUP.sub(r"\\\1", part) for part, odd in zip(parts, [False, True] * len(parts)))


def convert(app, what, name, obj, options, lines) -> None:
    lines[:] = [plain(line) for line in lines]


def setup(app):
    app.connect("autodoc-process-docstring", convert)
    return {"parallel_read_safe": True}
