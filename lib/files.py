"""Files that are whole or not there: drafts become their targets at the end, errors name a mend."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(*targets: Path) -> Iterator[list[Path]]:
    """Hand out a draft beside each target; the drafts become the targets if the block ends well.

    On any error or interrupt the drafts are removed and the targets stay as they were. An interrupt
    between two of the last renames waits for the others, so that files which belong together never
    come from two runs.

    Args:
        targets: What to write, all in one folder, which is made if it is missing.

    Yields:
        A draft path for each target.

    Raises:
        OSError: Of the disk, with its mend.
    """
    folder = targets[0].parent
    drafts = [folder / f".draft-{os.getpid()}-{target.name}" for target in targets]
    try:
        with writing(targets[0].name, folder):
            folder.mkdir(parents=True, exist_ok=True)
            for target in targets:
                if target.is_dir():
                    raise IsADirectoryError(errno.EISDIR, f"a folder is called {target.name}")
            yield drafts
            _rename(drafts, targets)
    finally:
        for draft in drafts:
            # A read-only disk refuses even this; there is nothing to remove then.
            with suppress(OSError):
                draft.unlink()


def _rename(drafts: list[Path], targets: tuple[Path, ...]) -> None:
    try:
        for draft, target in zip(drafts, targets, strict=True):
            os.replace(draft, target)
    except (KeyboardInterrupt, SystemExit):
        for draft, target in zip(drafts, targets, strict=True):
            if draft.exists():
                os.replace(draft, target)
        raise


@contextmanager
def writing(what: str, folder: Path) -> Iterator[None]:
    """Turn an OSError of the block into one that says what could not be written, and the mend."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise OSError(
            error.errno,
            f"cannot write {what} to {folder} ({why}); free space there, make it writable, "
            "or choose another folder",
        ) from error


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verified(path: Path, expected: str) -> Path:
    """A path whose file has the expected sha256.

    Args:
        path: the file.
        expected: its sha256 in hexadecimal digits, as data/registry.toml states it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or another one.
    """
    if sha256(path) != expected:
        raise ValueError(
            f"{path.name} in {path.parent} does not have the sha256 of data/registry.toml: it is "
            "damaged, cut short or another file; restore it from its source"
        )
    return path
