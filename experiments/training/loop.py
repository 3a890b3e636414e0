"""One resumable training loop: AdamW, half a cosine, averaged weights, one whole checkpoint."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from tqdm.auto import tqdm

from lib import checks
from lib.files import replacing

Loss = Callable[[nn.Module, torch.Generator], Tensor]

CHECKPOINT = "checkpoint.safetensors"
WEIGHT_DECAY = 0.01


@dataclass(frozen=True)
class Settings:
    """Settings of one training.

    Attributes:
        steps: length of the learning rate's schedule.
        batch: examples a step.
        rate: peak learning rate of AdamW.
        warmup: steps of the linear rise to it; half a cosine to zero follows.
        ema: decay of the averaged weights, in [0, 1); 0 for no averaging.
        clip: largest norm of the gradient.
        every: steps between checkpoints.
        seed: of the first weights and of all that is drawn.
    """

    steps: int = 20_000
    batch: int = 64
    rate: float = 2e-3
    warmup: int = 200
    ema: float = 0.999
    clip: float = 1.0
    every: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        checks.count("steps", self.steps)
        checks.count("batch", self.batch)
        checks.count("warmup", self.warmup, least=0)
        checks.count("every", self.every)
        checks.positive("rate", self.rate)
        checks.positive("clip", self.clip)
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must lie in [0, 1), got {self.ema}")

    def rate_at(self, step: int) -> float:
        """Learning rate of step 0, 1, …: of the step alone, so that no schedule must be stored."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        share = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.rate * 0.5 * (1 + math.cos(math.pi * share))


@dataclass
class State:
    """Where a training stands: everything the next step depends on.

    Attributes:
        model: the network that is trained.
        average: the same with averaged weights, in evaluation mode: the one to use.
        optimizer: AdamW of the model's weights.
        generator: of all that is drawn, on the CPU.
        settings: of the training.
        data: what it is trained on, in words.
        losses: one a step.
        seconds: spent in steps, over all runs.
    """

    model: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    settings: Settings
    data: str
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def step(self) -> int:
        """Number of steps made."""
        return len(self.losses)

    def recent_loss(self) -> float:
        """Mean loss of the last hundred steps."""
        last = self.losses[-100:]
        return sum(last) / len(last)


def fit(
    model: nn.Module,
    loss: Loss,
    folder: str | Path,
    settings: Settings,
    *,
    data: str = "",
    until: int | None = None,
    progress: bool = True,
) -> State:
    """Train a network in place, from the checkpoint in a folder if there is one.

    The checkpoint (weights, averaged weights, optimiser, generator, losses) is replaced as a whole
    at the start, every `settings.every` steps, at the end, and on an interrupt: Ctrl-C and SIGTERM
    wait for the end of the step and are then passed on. A run that is resumed is equal, bit for bit
    on a CPU, to one that was never cut. Nothing is ever unpickled. Two processes in one folder do
    the same work twice and harm nothing.

    Args:
        model: network with its first weights, on the device to train on.
        loss: loss(model, generator) -> scalar, which draws its batch from the CPU generator alone.
        folder: where the checkpoint is kept.
        settings: of the training.
        data: what it is trained on, in words; kept in the checkpoint.
        until: stop after this step of the schedule, to go on another time.
        progress: whether to show a bar.

    Returns:
        The last `State`.

    Raises:
        ValueError: the checkpoint is damaged, or of other settings, data or another network.
        FloatingPointError: loss or gradient is not finite; the last good checkpoint stays.
        OSError: the folder cannot be written.
    """
    last = settings.steps
    if until is not None:
        last = min(last, checks.count("until", until))
    state = State(
        model=model,
        average=copy.deepcopy(model).requires_grad_(False).eval(),
        optimizer=torch.optim.AdamW(model.parameters(), settings.rate, weight_decay=WEIGHT_DECAY),
        generator=torch.Generator().manual_seed(settings.seed),
        settings=settings,
        data=data,
    )
    path = Path(folder) / CHECKPOINT
    if path.exists():
        _restore(state, path)
    else:
        # A folder that cannot be written is better known before the first step.
        _store(state, path)
    with (
        _interrupts_deferred() as interrupts,
        tqdm(
            total=last, initial=state.step, desc="training", disable=not progress, mininterval=5
        ) as bar,
    ):
        while state.step < last and not interrupts:
            _make_step(state, loss)
            bar.update()
            bar.set_postfix(loss=f"{state.recent_loss():.4f}", refresh=False)
            if state.step % settings.every == 0 or state.step == last or interrupts:
                _store(state, path)
    return state


@contextmanager
def _interrupts_deferred() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM inside the block, and raise them at its end."""
    received: list[int] = []

    def remember(number: int, frame: object) -> None:
        received.append(number)

    # No other thread receives signals, or may handle them.
    handled = []
    if threading.current_thread() is threading.main_thread():
        handled = [signal.SIGINT, signal.SIGTERM]
    former = {number: signal.signal(number, remember) for number in handled}
    try:
        yield received
    finally:
        for number, handler in former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    for number in received:
        signal.raise_signal(number)


def _make_step(state: State, loss: Loss) -> None:
    """One step of AdamW and of the averaged weights."""
    began = time.perf_counter()
    value = loss(state.model.train(), state.generator)
    _require_finite("loss", value, state.step)
    state.optimizer.zero_grad()
    value.backward()
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), state.settings.clip)
    _require_finite("gradient", norm, state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = state.settings.rate_at(state.step)
    state.optimizer.step()
    _update_average(state)
    state.losses.append(value.item())
    state.seconds += time.perf_counter() - began


def _require_finite(name: str, value: Tensor, step: int) -> None:
    if not torch.isfinite(value):
        raise FloatingPointError(
            f"the {name} is {value.item()} at step {step}: lower the learning rate"
        )


@torch.no_grad()
def _update_average(state: State) -> None:
    """Exponential average of weights and of batch norm's statistics.

    diffusers' EMAModel leaves the latter out.
    """
    # Early averages look back less far, so that the first weights are forgotten.
    decay = min(state.settings.ema, (1 + state.step) / (10 + state.step))
    averages = state.average.state_dict().values()
    values = state.model.state_dict().values()
    for average, value in zip(averages, values, strict=True):
        if average.is_floating_point():
            average.copy_(torch.lerp(value, average, decay))
        else:
            average.copy_(value)


def _store(state: State, path: Path) -> None:
    """Replace the checkpoint by this state, as a whole."""
    tensors = {
        "generator": state.generator.get_state(),
        "losses": torch.tensor(state.losses, dtype=torch.float64),
    }
    tensors |= _with_prefix("model.", state.model.state_dict())
    tensors |= _with_prefix("average.", state.average.state_dict())
    for index, moments in state.optimizer.state_dict()["state"].items():
        tensors |= _with_prefix(f"optimizer.{index}.", moments)
    # safetensors wants tensors of their own memory in the common layout.
    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
    metadata = {
        "settings": json.dumps(asdict(state.settings)),
        "data": state.data,
        "seconds": str(state.seconds),
        "sha256": _checksum(tensors),
    }
    with replacing(path) as (draft,):
        draft.write_bytes(save(tensors, metadata))


def _restore(state: State, path: Path) -> None:
    """Bring the state to the checkpoint's; ValueError if that is of something else, or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        tensors = load_file(path)
        if metadata["sha256"] != _checksum(tensors):
            raise ValueError("its checksum is wrong, so it is damaged")
        _require_same_training(state, metadata)
        state.model.load_state_dict(_under_prefix("model.", tensors))
        state.average.load_state_dict(_under_prefix("average.", tensors))
        moments = {}
        for index in range(len(list(state.model.parameters()))):
            moments[index] = _under_prefix(f"optimizer.{index}.", tensors)
        groups = state.optimizer.state_dict()["param_groups"]
        known = {index: entry for index, entry in moments.items() if entry}
        state.optimizer.load_state_dict({"state": known, "param_groups": groups})
        state.generator.set_state(tensors["generator"])
        state.losses = tensors["losses"].tolist()
        state.seconds = float(metadata["seconds"])
    # What safetensors, json and torch raise for a file of another kind.
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"cannot continue from {path}: {error}; delete it to start anew, or use another folder"
        ) from error


def _require_same_training(state: State, metadata: dict[str, str]) -> None:
    stored = json.loads(metadata["settings"])
    changed = [
        f"{name} = {stored.get(name)}"
        for name, value in sorted(asdict(state.settings).items())
        if stored.get(name) != value
    ]
    if changed:
        raise ValueError(f"it was made with other settings ({', '.join(changed)})")
    if metadata["data"] != state.data:
        raise ValueError(f"it was trained on other data ({metadata['data']})")


def _checksum(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


def _with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


def _under_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
