"""Docstrings are plain text with `code`: what looks like markup is shown as written."""

import re

MARKUP = re.compile(r"([*|\\]|(?<=\w)_(?!\w))")

# A point of a list
BULLET = re.compile(r"\s*\* ")


def literal(text: str) -> str:
    """A line of plain text as reStructuredText; `code` stays code, and a list a list."""
    bullet = BULLET.match(text)
    if bullet:
        return bullet[0] + literal(text[bullet.end() :])
    parts = text.split("`")
    # an unpaired backtick is a character like any other
    if len(parts) % 2 == 0:
        return MARKUP.sub(r"\\\1", text).replace("`", r"\`")
    parts[::2] = [MARKUP.sub(r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def convert(app, what, name, obj, options, lines) -> None:
    """autodoc's hook: the lines of one docstring, changed in place; examples stay."""
    example = False
    for place, line in enumerate(lines):
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        if not example:
            lines[place] = literal(line)


def shorten(app, what, name, obj, options, signature, returns):
    """autodoc's hook: a default that is no Python would keep the signature from being read."""
    return signature and signature.replace("<factory>", "..."), returns


def setup(app):
    app.connect("autodoc-process-signature", shorten)
    # before napoleon
    app.connect("autodoc-process-docstring", convert, priority=400)
    return {"parallel_read_safe": True}
