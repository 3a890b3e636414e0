"""Training of the small models that are bundled: one resumable loop, the denoising loss, and the two together."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from tqdm.auto import tqdm

from lib import checks
from lib.files import replacing
from lib.scores.denoiser import DenoiserScore

Loss = Callable[[nn.Module, torch.Generator], Tensor]


@dataclass(frozen=True)
class Settings:
    """Of one training. rate: peak learning rate of AdamW (linear warm-up, then half a cosine to zero); ema: decay of the
    averaged weights; clip: largest norm of the gradient; every: steps between checkpoints; seed: of all that is drawn."""

    steps: int = 20_000
    batch: int = 64
    rate: float = 2e-3
    warmup: int = 200
    ema: float = 0.999
    clip: float = 1.0
    every: int = 250
    seed: int = 0
    decay: ClassVar[float] = 0.01  # weight decay

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 1), ("warmup", 0), ("every", 1)):
            checks.count(name, getattr(self, name), least=least)
        for name in ("rate", "clip"):
            checks.positive(name, getattr(self, name))
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must lie in [0, 1), got {self.ema}")

    def rate_at(self, step: int) -> float:
        """Learning rate of step 0, 1, …"""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        return (
            self.rate
            * 0.5
            * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.steps - self.warmup)))
        )


@dataclass
class State:
    """Where a training stands; everything the next step depends on, so that a resumed run is equal bit for bit on a CPU.

    data: in words, what it is trained on. seconds: spent in steps so far, over all runs; NaN where a checkpoint does not say.
    """

    model: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    step: int
    losses: list[float]
    data: str = ""
    seconds: float = 0.0


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
    """Train `model` in place, from the checkpoint in `folder` if there is one; returns the last `State`.

    loss(model, generator) -> scalar draws its batch from the CPU generator and nothing else. The checkpoint
    (checkpoint.safetensors: weights, averaged weights, optimiser, generator, losses) is replaced as a whole at the start,
    every `settings.every` steps, at the end, and on an interrupt (Ctrl-C or SIGTERM, which wait for the end of the step and
    are then passed on); nothing is ever unpickled. until: stop after this step of the schedule, to go on another time.
    data: what it is trained on, in words, kept in the checkpoint.
    ValueError: the checkpoint belongs to other settings, data or another network, or is damaged. FloatingPointError: loss or
    gradient is not finite (the last good checkpoint stays). OSError: the folder cannot be written.
    """
    path, last = Path(folder) / "checkpoint.safetensors", settings.steps
    if until is not None:
        last = min(last, checks.count("until", until))
    state = State(
        model,
        copy.deepcopy(model).requires_grad_(False).eval(),
        torch.optim.AdamW(model.parameters(), settings.rate, weight_decay=settings.decay),
        torch.Generator().manual_seed(settings.seed),
        0,
        [],
        data,
    )
    if path.exists():
        _restore(state, path, settings)
    else:
        _store(
            state, path, settings
        )  # a folder that cannot be written is better known before the work
    with (
        _interrupts_wait() as interrupts,
        tqdm(
            total=last, initial=state.step, desc="training", disable=not progress, mininterval=5
        ) as bar,
    ):
        while state.step < last and not interrupts:
            try:
                _step(state, loss, settings)
            except (
                KeyboardInterrupt
            ):  # raised by the loss itself: nothing has changed since the last step
                _store(state, path, settings)
                raise
            bar.update()
            bar.set_postfix(
                loss=f"{sum(state.losses[-100:]) / len(state.losses[-100:]):.4f}", refresh=False
            )
            if state.step % settings.every == 0 or state.step == last or interrupts:
                _store(state, path, settings)
    return state


def made_how(state: State, settings: Settings, machine: str = "", more: str = "") -> str:
    """The table of a model card: data, settings, steps, time, machine (in words; this one's by default), loss.

    more: rows after the first.
    """
    device, said = (
        next(state.model.parameters()).device,
        [f"{name} {value:g}" for name, value in asdict(settings).items()],
    )
    here = {
        "cuda": lambda: f"one {torch.cuda.get_device_name(device)}",
        "cpu": lambda: f"{torch.get_num_threads()} CPU thread(s), no GPU",
    }.get(device.type, lambda: device.type)()
    last, spent = (
        state.losses[-100:],
        "time not recorded" if math.isnan(state.seconds) else f"{state.seconds / 60:.1f} minutes",
    )
    return f"""| | |
|---|---|
| training data | {state.data} |{more}
| settings | AdamW, half a cosine, {", ".join(said)} |
| steps made | {state.step:,} of {settings.steps:,} |
| time, machine | {spent}, {machine or here} |
| last training loss | {sum(last) / len(last):.4f}, mean of {len(last)} steps |"""


@contextmanager
def _interrupts_wait() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM while a step changes the weights, and raise them at the end of the block."""
    caught: list[int] = []
    main = (
        threading.current_thread() is threading.main_thread()
    )  # no other thread gets or may handle a signal
    before = {
        number: signal.signal(number, lambda got, _: caught.append(got))
        for number in ((signal.SIGINT, signal.SIGTERM) if main else ())
    }
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
    for number in caught:
        signal.raise_signal(number)


def _step(state: State, loss: Loss, settings: Settings) -> None:
    """One step of AdamW and of the average; the state changes only once the new weights are there."""
    drawn, begin = state.generator.get_state(), time.perf_counter()
    try:
        value = loss(state.model.train(), state.generator)
        if not torch.isfinite(value):
            raise FloatingPointError(
                f"the loss is {value.item()} at step {state.step}: lower the learning rate"
            )
        state.optimizer.zero_grad()
        value.backward()
        if not torch.isfinite(nn.utils.clip_grad_norm_(state.model.parameters(), settings.clip)):
            raise FloatingPointError(
                f"the gradient is not finite at step {state.step}: lower the learning rate"
            )
    except BaseException:
        state.generator.set_state(drawn)  # an interrupted step has drawn nothing
        raise
    for group in state.optimizer.param_groups:
        group["lr"] = settings.rate_at(state.step)
    state.optimizer.step()
    decay = min(settings.ema, (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        for mean, new in zip(
            state.average.state_dict().values(), state.model.state_dict().values(), strict=True
        ):
            mean.copy_(torch.lerp(new, mean, decay) if mean.is_floating_point() else new)
    state.losses.append(value.item())
    state.step += 1
    state.seconds += time.perf_counter() - begin


def _store(state: State, path: Path, settings: Settings) -> None:
    tensors = {
        f"{part}.{name}": value
        for part in ("model", "average")
        for name, value in getattr(state, part).state_dict().items()
    }
    tensors |= {
        f"optimizer.{i}.{name}": value
        for i, entry in state.optimizer.state_dict()["state"].items()
        for name, value in entry.items()
    }
    tensors |= {
        "generator": state.generator.get_state(),
        "losses": torch.tensor(state.losses, dtype=torch.float64),
    }
    tensors = {
        name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()
    }  # channels_last is not
    said = {
        "settings": json.dumps(asdict(settings)),
        "step": str(state.step),
        "data": state.data,
        "seconds": str(state.seconds),
        "sha256": _digest(tensors),
    }
    with replacing(path) as (draft,):
        draft.write_bytes(save(tensors, said))


def _digest(tensors: dict[str, Tensor]) -> str:
    return hashlib.sha256(
        b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors))
    ).hexdigest()


def _restore(state: State, path: Path, settings: Settings) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            said = file.metadata()
        tensors = load_file(path)
        if said.get("sha256", digest := _digest(tensors)) != digest:
            raise ValueError("its checksum is wrong, so it is damaged")
        stored = json.loads(said["settings"])
        changed = sorted(k for k, v in asdict(settings).items() if stored.get(k) != v)
        if changed:
            raise ValueError(
                f"it was made with other settings ({', '.join(f'{k} = {stored.get(k)}' for k in changed)})"
            )
        if said.get("data", state.data) != state.data:
            raise ValueError(f"it was trained on other data ({said['data']})")
        for part in ("model", "average"):
            getattr(state, part).load_state_dict(_under(tensors, f"{part}."))
        entries = {
            i: _under(tensors, f"optimizer.{i}.")
            for i in range(len(list(state.model.parameters())))
        }
        groups = state.optimizer.state_dict()["param_groups"]
        state.optimizer.load_state_dict(
            {"state": {i: e for i, e in entries.items() if e}, "param_groups": groups}
        )
        state.generator.set_state(tensors["generator"])
        state.step, state.losses = int(said["step"]), tensors["losses"].tolist()
        state.seconds = float(said.get("seconds", "nan"))
    except (
        SafetensorError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RuntimeError,
    ) as error:
        raise ValueError(
            f"cannot continue from {path}: {error}; delete it to start anew, or use another folder"
        ) from error


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def denoising_loss(
    score: DenoiserScore,
    images: Callable[[int, torch.Generator], tuple[Tensor, Tensor]],
    *,
    batch: int,
    median: float = 0.5,
    spread: float = 1.2,
    unlabelled: float = 0.5,
) -> Loss:
    """E w(sigma)‖D_sigma(x + sigma·n) − x‖², the loss of the score's own scheduler and prediction (`NoiseSchedule.weight`).

    images(n, generator) -> (n, *event), labels (n,). log sigma is normal about log(median) with standard deviation
    `spread` (Karras et al. 2022, table 1), kept in the schedule's range. A conditional network is told "no class" with
    probability `unlabelled`, so that one network has both scores (Ho & Salimans 2021).
    """
    conditional = score.label is not None

    def loss(model: nn.Module, generator: torch.Generator) -> Tensor:
        device = next(model.parameters()).device
        x, labels = images(batch, generator)
        level = (
            median * (spread * torch.randn(batch, generator=generator, dtype=torch.float64)).exp()
        )
        level, noise = level.clamp(*score.noise_range), torch.randn(x.shape, generator=generator)
        dropped = torch.rand(batch, generator=generator) < unlabelled
        asked = copy.copy(score)
        asked.model, asked.training, asked.sigma, asked.micro_batch = (
            model,
            True,
            level.to(device),
            batch,
        )
        if conditional:
            asked.label = torch.where(dropped, score.label, labels).to(device)
        error = asked.posterior_mean(
            (x + level.to(x).reshape(-1, 1, 1, 1) * noise).to(device)
        ) - x.to(device)
        weight = score.schedule.weight(score.scale * level) * score.scale**2
        return (weight.to(error) * error.square().flatten(1).mean(1)).mean()

    return loss


def denoising_error(
    score: DenoiserScore, images: Tensor, levels: Iterable[float], *, seed: int = 0
) -> dict[float, float]:
    """Mean squared denoising error per pixel on (held-out) images (n, *event) at each noise level: {sigma: error}."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(images.shape, generator=generator)
    return {
        s: (score.at(s).denoise(images + s * noise) - images).square().mean().item() for s in levels
    }
