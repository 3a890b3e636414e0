"""lib's docstrings are plain text with `code`; on the page each parameter gets a line of its own.

A docstring says `name: what it is.` for its parameters, several on a line, and `ValueError: when.` for what it raises.
Everything that reStructuredText would take for markup is shown as written.
"""

import inspect
import itertools
import re

MARKUP = re.compile(r"([*|\\]|(?<=\w)_(?!\w))")
TERM = re.compile(
    r"(?:(?<=^)|(?<=[.:;)] ))(\*{0,2}\w+(?:(?:, | and | or )\*{0,2}\w+)*)(?: \([^()]*\))?: "
)


def plain(text: str) -> str:
    """Plain text as reStructuredText: `code` as code, everything else literally."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # an unpaired backtick is a character like any other
        return MARKUP.sub(r"\\\1", text).replace("`", r"\`")
    return "".join(
        f"``{part}``" if k % 2 else MARKUP.sub(r"\\\1", part) for k, part in enumerate(parts)
    )


def known(names: str, parameters: set[str]) -> bool:
    """Whether all of "frames, sigma" are parameters, or errors and warnings."""
    words = re.split(r", | and | or ", names)
    return all(
        word.strip("*") in parameters or word.endswith(("Error", "Warning")) for word in words
    )


def items(paragraph: str, parameters: set[str]) -> list[str]:
    """The paragraph, cut before each parameter and each error it explains."""
    starts = [found.start() for found in TERM.finditer(paragraph) if known(found[1], parameters)]
    cuts = [0, *(s for s in starts if s > 0), len(paragraph)]
    return [re.sub(";$", ".", paragraph[a:b].strip()) for a, b in itertools.pairwise(cuts)]


def item(text: str, parameters: set[str]) -> str:
    found = TERM.match(text)
    if not found or not known(found[1], parameters):
        return plain(text)
    head = found[0].removesuffix(": ")
    name, rest = head[: len(found[1])], head[len(found[1]) :]
    return f"* **{plain(name)}**{plain(rest)}: {plain(text[found.end() :])}"


def names_of(obj) -> set[str]:
    """Parameters of a function or class, and a class's annotated fields."""
    try:
        parameters = set(inspect.signature(obj).parameters)
    except (TypeError, ValueError):  # a module or a property has none
        parameters = set()
    return parameters | set(getattr(obj, "__annotations__", {}))


def convert(app, what, name, obj, options, lines) -> None:
    """autodoc's hook: the lines of one docstring, changed in place."""
    parameters, written = names_of(obj), []
    for paragraph in "\n".join(lines).strip().split("\n\n"):
        if re.search(r"^\s", paragraph, re.MULTILINE):  # laid out by hand: as it stands
            written += ["::", "", *(f"    {line}" for line in paragraph.splitlines()), ""]
            continue
        for text in items(" ".join(paragraph.split()), parameters):
            written += [item(text, parameters), ""]
    lines[:] = written


def shorten(app, what, name, obj, options, signature, returns):
    """autodoc's hook: a default that Python cannot write would keep the whole signature from being read."""
    return signature and signature.replace("<factory>", "..."), returns


def setup(app):
    app.connect("autodoc-process-signature", shorten)
    app.connect("autodoc-process-docstring", convert)
    return {"parallel_read_safe": True}
