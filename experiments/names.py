"""Names of files and folders, as Macs, Windows and Linux write them and can hold them."""

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from unicodedata import normalize

ROOT = Path(__file__).resolve().parent.parent
# What every system lets a folder be called, and what Windows does not
FOLDER_NAME = r"\w(?:[\w .,()+-]*[\w)+-])?"
RESERVED = r"(con|prn|aux|nul|(com|lpt)[\d¹²³])(\..*)?"
LONGEST = 80


def find(name: str | Path) -> Path:
    """A file or folder that a person typed: from the working folder, or from the repository's.

    A notebook runs in its own folder, and `make` in the repository's.

    Args:
        name: absolute or relative, with `~` for the home folder.

    Raises:
        FileNotFoundError: it is in neither.
    """
    path = Path(name).expanduser()
    for place in (Path.cwd() / path, ROOT / path):
        found = existing(place)
        if found is not None:
            return found
    raise FileNotFoundError(
        f"there is no {name} in {Path.cwd()} or {ROOT}; mend the path, or give it from the root on"
    )


def existing(path: Path) -> Path | None:
    """The path as this disk has it: perhaps in another normal form of Unicode, or in other case."""
    # unlike Path.exists, False for a name that is too long
    if os.path.exists(path):
        return path
    folder = None if path.parent == path else existing(path.parent)
    if folder is None or not folder.is_dir():
        return None
    alike = [child for child in folder.iterdir() if alias(child.name) == alias(path.name)]
    return alike[0] if len(alike) == 1 else None


def alias(name: str) -> str:
    """What names have in common that a Mac or Windows takes for the same."""
    return normalize("NFC", normalize("NFC", name).casefold())


def folder_name(what: str, name: str) -> str:
    """The name, if every system lets a folder be called so.

    Raises:
        ValueError: it does not.
    """
    name = str(name)
    if not re.fullmatch(FOLDER_NAME, name) or _reserved(name) or len(name) > LONGEST:
        raise ValueError(
            f"{name!r} cannot be the name of {what}, its frames lie in a folder of that name: use "
            f"at most {LONGEST} letters, digits, blanks and . , ( ) + - _, and no name that "
            "Windows keeps (con, nul, …)"
        )
    return name


def _reserved(name: str) -> bool:
    return re.fullmatch(RESERVED, name, re.IGNORECASE) is not None


def fitting_names(names: Sequence[str]) -> list[str]:
    """The names, changed with a warning where no folder can have them or where they come twice."""
    found: list[str] = []
    for name in names:
        fit = re.sub(r"[^\w .,()+-]", "_", normalize("NFC", name))
        # room for a number
        fit = re.sub(r"^\W+|[ .,(]+$", "", fit)[: LONGEST - 5].rstrip(" .,(") or "pair"
        base = f"_{fit}" if _reserved(fit) else fit
        taken = {alias(other) for other in found}
        tries = [base, *(f"{base}-{k}" for k in range(2, len(names) + 2))]
        found.append(next(one for one in tries if alias(one) not in taken))
    changed = [
        f"{name!r} → {new!r}"
        for name, new in zip(names, found, strict=True)
        if normalize("NFC", name) != new
    ]
    if changed:
        warnings.warn(
            f"{len(changed)} names are changed, so that every system can keep their folders: "
            f"{', '.join(changed[:5])}",
            stacklevel=3,
        )
    return found
