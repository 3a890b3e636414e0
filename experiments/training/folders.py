"""What a training leaves: a whole folder, the table of its model card, its registry lines."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Container
from dataclasses import asdict
from pathlib import Path

import torch

from lib.files import writing

from .. import data
from .loop import State


def write_folder(folder: str | Path, write: Callable[[Path], None], files: Container[str]) -> Path:
    """Make a folder as a whole or not at all; an older one is replaced.

    Args:
        folder: to be made.
        write: write(draft) makes the folder `draft` and everything in it.
        files: names, with "/" below the folder, that an older folder may hold.

    Raises:
        ValueError: the folder holds another file.
        OSError: it cannot be written; an older folder stays.
    """
    folder = Path(folder)
    require_replaceable(folder, files)
    with writing("the model", folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".draft-") as drafts:
            draft = Path(drafts) / "new"
            former = Path(drafts) / "former"
            write(draft)
            _make_readable(draft)
            if folder.exists():
                os.replace(folder, former)
            try:
                os.replace(draft, folder)
            except OSError:
                if former.exists():
                    os.replace(former, folder)
                raise
    return folder


def require_replaceable(folder: str | Path, files: Container[str]) -> None:
    """Raise ValueError if replacing the folder would lose a file that is not one of these."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; choose a folder")
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.relative_to(folder).as_posix() not in files:
            raise ValueError(
                f"{folder} holds a file that is not of such a model ({path.name}) and would be "
                "lost; choose another folder"
            )


def _make_readable(folder: Path) -> None:
    """diffusers leaves weights for their owner alone."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def training_table(state: State, machine: str = "", rows: str = "") -> str:
    """The table of a model card: data, settings, steps, time, machine, loss.

    Args:
        state: where the training stands.
        machine: in words; this one if empty.
        rows: of the table, to stand below that of the data.
    """
    settings = ", ".join(f"{name} {value:g}" for name, value in asdict(state.settings).items())
    count = len(state.losses[-100:])
    machine = machine or _this_machine(next(state.model.parameters()).device)
    return f"""| | |
|---|---|
| training data | {state.data} |{rows}
| settings | AdamW, half a cosine, {settings} |
| steps made | {state.step:,} of {state.settings.steps:,} |
| time, machine | {state.seconds / 60:.1f} minutes, {machine} |
| last training loss | {state.recent_loss():.4f}, mean of {count} steps |"""


def _this_machine(device: torch.device) -> str:
    if device.type == "cuda":
        return f"one {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        return f"{torch.get_num_threads()} CPU thread(s), no GPU"
    return device.type


def registry_lines(name: str, folder: str | Path) -> str:
    """What data/registry.toml must say of the files in a new folder of a bundled model.

    Empty for another name.
    """
    lines = []
    for entry, content in data.registry().items():
        if content.get("bundled") == f"models/{name}":
            lines += [f'["{entry}"]', "files = ["]
            lines += [_file_line(Path(folder), file["name"]) for file in content["files"]]
            lines += ["]", ""]
    return "\n".join(lines)


def _file_line(folder: Path, name: str) -> str:
    content = (folder / name).read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    return f'    {{ name = "{name}", size = {len(content)}, sha256 = "{sha256}" }},'
