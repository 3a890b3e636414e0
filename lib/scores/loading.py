"""Learned scores by name: a bundled model, a folder in diffusers' layout, or an id of the hub.

Only safetensors are read. Nothing is ever unpickled.
"""

import importlib
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import checks, files
from .denoiser import DenoiserScore, check_network
from .schedule import NoiseSchedule
from .stable_diffusion import StableDiffusionScore

DATA = Path(__file__).parents[2] / "data"
BUNDLED = ("rotated-mnist", "hands")


@dataclass(frozen=True)
class Kind:
    """A kind of model: its networks by their subfolders, and the settings of its score."""

    name: str
    networks: dict[str, str]
    settings: tuple[str, ...]


PIXELS = Kind(
    "a model of pixels",
    {"unet": "diffusers.UNet2DModel"},
    ("sigma", "label", "micro_batch", "scale", "shift"),
)
LATENTS = Kind(
    "a Stable Diffusion",
    {
        "unet": "diffusers.UNet2DConditionModel",
        "vae": "diffusers.AutoencoderKL",
        "text_encoder": "transformers.CLIPTextModel",
    },
    (
        "prompt",
        "end_prompt",
        "negative",
        "guidance",
        "sigma",
        "size",
        "micro_batch",
        "truncate",
        "attention_slicing",
        "vae_tiling",
    ),
)
# Pipelines whose name begins with StableDiffusion too, and whose networks have another call.
FOREIGN = ("XL", "3", "Inpaint", "Upscale", "Depth", "Control")


def load(
    name: str | Path,
    *,
    revision: str | None = None,
    variant: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    **settings: Any,
) -> DenoiserScore:
    """The score of a trained diffusion model, in evaluation mode, its weights without gradients.

    Args:
        name: "rotated-mnist" (bundled; points (1, 28, 28), pixels in [0, 1]) or "hands" (bundled; a
            text-to-image model, points (4, 16, 16), latents); a folder as
            `DiffusionPipeline.save_pretrained` writes it, or with config.json, weights and
            scheduler_config.json side by side; or an id of the hub, "owner/model", whose weights
            are downloaded once its configuration is found fit.
        revision: branch, tag or commit of a model on the hub.
        variant: of the weight files, "fp16" for instance.
        dtype: of the networks.
        device: of the networks.
        settings: sigma, label, micro_batch, scale, shift of `DenoiserScore`. For a Stable Diffusion
            prompt, end_prompt, negative, guidance, sigma, size, micro_batch, truncate of
            `StableDiffusionScore`, and attention_slicing, vae_tiling (less memory, more time).

    Returns:
        The score. Its `origin` names the model, its revision and the sha256 of each file read.

    Raises:
        ValueError: an unknown name, setting or device; another kind of network; weights that are
            damaged, incomplete, superfluous or not finite.
        TypeError: a scheduler of a kind that has no score here.
        FileNotFoundError: there is no such folder, or a file is missing.
        ConnectionError: the hub did not deliver.

    Example:
        >>> score = load("rotated-mnist", sigma=0.5)
        >>> score.event_shape, score.origin["name"]
        ((1, 28, 28), 'rotated-mnist')
    """
    device = checks.device(device)
    folder, origin = _locate(str(name), revision)
    kind = _kind(folder)
    for setting in settings:
        checks.choice(f"setting of {kind.name}:", setting, kind.settings)
    places = {part: _network_folder(folder, part, kind) for part in kind.networks}
    scheduler_folder = _part_folder(folder, "scheduler", "scheduler_config.json")
    scheduler = _scheduler(scheduler_folder)
    check_network(_read_json(places["unet"] / "config.json"), NoiseSchedule(scheduler))
    if kind is LATENTS:
        tokenizer_folder = _part_folder(folder, "tokenizer", "tokenizer_config.json")

    # Everything fits so far: now the weights, of the same commit where they come from the hub.
    stems = {part: _stem(part, variant) for part in places}
    if origin["revision"] is not None:
        patterns = []
        for part, place in places.items():
            begin = (place.relative_to(folder) / stems[part]).as_posix()
            patterns += [f"{begin}.safetensors", f"{begin}-*.safetensors"]
        _download(origin["name"], origin["revision"], patterns)
    read = [scheduler_folder / "scheduler_config.json"]
    networks = {}
    for part, place in places.items():
        read += [place / "config.json", *_weight_files(place, stems[part])]
        networks[part] = _network(kind.networks[part], place, variant, dtype)
    if kind is LATENTS:
        read += tokenizer_folder.iterdir()
        pipe = _pipeline(networks, scheduler, tokenizer_folder).to(device)
        score = _latent_score(pipe, **settings)
    else:
        score = DenoiserScore(networks["unet"].to(device), scheduler, **settings)
    sums = {path.relative_to(folder).as_posix(): files.sha256(path) for path in read}
    score.origin = origin | {"sha256": sums}
    return score


def _locate(name: str, revision: str | None) -> tuple[Path, dict[str, Any]]:
    """The folder, its configuration at least, and what names it: no path is part of that."""
    folder = Path(name).expanduser()
    local = name in BUNDLED or folder.is_dir()
    hub = not local and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) is not None
    if revision is not None and not hub:
        raise ValueError(
            f"revision names a state of a model on the hub, and {name!r} is none; leave "
            "revision=None"
        )
    if name in BUNDLED:
        return _bundled_folder(name), {"name": name, "revision": None}
    if local:
        folder = folder.resolve()
        return folder, {"name": folder.name, "revision": None}
    if hub:
        snapshot = _download(name, revision, ["*.json", "tokenizer/*"])
        # The cache names a snapshot by its commit.
        return snapshot, {"name": name, "revision": snapshot.name}
    if folder.exists() or len(folder.parts) > 1:
        raise FileNotFoundError(
            f"{name} is no folder here, and no hub id (owner/model) either; name the folder that "
            "holds model_index.json or config.json"
        )
    raise ValueError(
        f"{name!r} is no bundled model ({', '.join(BUNDLED)}), no folder and no hub id "
        "(owner/model)"
    )


def _bundled_folder(name: str) -> Path:
    """The folder of a bundled model, each of its files compared with data/registry.toml."""
    try:
        entry = tomllib.loads((DATA / "registry.toml").read_text(encoding="utf-8"))[name]
        folder = DATA / entry["bundled"]
        for file in entry["files"]:
            files.verified(folder / file["name"], file["sha256"])
    except (FileNotFoundError, KeyError) as error:
        raise FileNotFoundError(
            f"the bundled model {name!r} is missing; restore data/ from the repository, or train "
            f"it: python -m experiments.training {name}"
        ) from error
    return folder


def _download(name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    from httpx import HTTPError
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    # Not there, not allowed, no network, a bad name.
    except (OSError, HTTPError, ValueError) as error:
        raise ConnectionError(
            f"{name!r} is no folder here, and could not get {name!r} (revision "
            f"{revision or 'main'}) from the hub ({type(error).__name__}); mend the path, or check "
            "name, revision and network, or download it elsewhere and load its folder"
        ) from error


def _kind(folder: Path) -> Kind:
    """The kind of model that model_index.json names, pixels where there is no such file."""
    index = {}
    if (folder / "model_index.json").is_file():
        index = _read_json(folder / "model_index.json")
    pipeline = str(index.get("_class_name"))
    if pipeline.startswith("StableDiffusion"):
        if any(word in pipeline for word in FOREIGN):
            raise ValueError(
                f"{folder.name} is a {pipeline}; a StableDiffusionPipeline (Stable Diffusion 1.x "
                "or 2.x) is wanted here"
            )
        return LATENTS
    for part in ("vae", "vqvae"):
        # A part that is left out stands in the index as [null, null].
        if (folder / part).is_dir() or any(index.get(part) or []):
            raise ValueError(
                f"{folder.name} is a latent diffusion model ({part} beside unet), and its "
                "model_index.json names no StableDiffusionPipeline: its points are latents, not "
                "the pixels that are wanted here; use DenoiserScore(unet, scheduler, scale=1, "
                "shift=0)"
            )
    return PIXELS


def _part_folder(folder: Path, part: str, config: str) -> Path:
    """The subfolder of one part, or the folder itself where all parts lie side by side."""
    for place in (folder / part, folder):
        if (place / config).is_file():
            return place
    mend = "copy it from the model's source"
    if part == "scheduler":
        mend += ", or write it: scheduler.save_pretrained(folder)"
    raise FileNotFoundError(f"{folder.name} holds neither {part}/{config} nor {config}; {mend}")


def _network_folder(folder: Path, part: str, kind: Kind) -> Path:
    """The folder of a network whose config.json names the class that is wanted."""
    place = _part_folder(folder, part, "config.json")
    wanted = kind.networks[part].rpartition(".")[2]
    # A network of transformers names no class.
    given = _read_json(place / "config.json").get("_class_name", wanted)
    if given != wanted:
        raise ValueError(
            f"{part} of {folder.name} is a {given}, not a {wanted}; for another network with the "
            "same call use DenoiserScore(network, scheduler)"
        )
    return place


def _stem(part: str, variant: str | None) -> str:
    """How the names of weight files begin; "-00001-of-00002" follows in shards."""
    stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
    return stem if variant is None else f"{stem}.{variant}"


def _weight_files(place: Path, stem: str) -> list[Path]:
    weights = [*place.glob(f"{stem}.safetensors"), *place.glob(f"{stem}-*.safetensors")]
    if weights:
        return weights
    endings = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
    others = sorted(path.name for path in place.iterdir() if path.suffix in endings)
    present = ", ".join(others) or "no weights at all"
    raise FileNotFoundError(
        f"{place.name} holds no {stem}.safetensors, only {present}; other variants load with "
        "variant=…; pickled weights are never opened here: convert them where you trust them "
        "(model.save_pretrained(folder, safe_serialization=True)) or take a revision with "
        "safetensors"
    )


def _network(class_path: str, place: Path, variant: str | None, dtype: torch.dtype) -> nn.Module:
    """A network once all its weights are there, fit and finite."""
    library, _, class_name = class_path.partition(".")
    network_class = getattr(importlib.import_module(library), class_name)
    with _undamaged(f"the weights or the config.json of {place.name}"):
        network, report = network_class.from_pretrained(
            place,
            variant=variant,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            low_cpu_mem_usage=False,
        )
    # diffusers would go on with random numbers in the place of missing weights.
    faults = []
    for problem in ("missing", "unexpected", "mismatched"):
        keys = map(str, report[f"{problem}_keys"])
        # Old text encoders keep their position numbers among the weights, which nobody reads.
        keys = [key for key in keys if not key.endswith("position_ids")]
        if keys:
            faults.append(f"{len(keys)} {problem} weights ({_first(keys)})")
    if faults:
        raise ValueError(
            f"the weights of {place.name} do not fit its config.json: {'; '.join(faults)}; copy "
            "both from one source"
        )
    weights = network.state_dict().items()
    infinite = [key for key, weight in weights if not torch.isfinite(weight).all()]
    if infinite:
        raise ValueError(
            f"the weights of {place.name} are not all finite ({_first(infinite)}); copy them again "
            "from the source"
        )
    return network.eval().requires_grad_(False)


def _scheduler(place: Path) -> Any:
    import diffusers

    name = str(_read_json(place / "scheduler_config.json").get("_class_name"))
    scheduler_class = getattr(diffusers, name, None)
    if not (
        isinstance(scheduler_class, type) and issubclass(scheduler_class, diffusers.SchedulerMixin)
    ):
        raise ValueError(
            f"scheduler_config.json names {name!r}, which is no scheduler of diffusers "
            f"{diffusers.__version__}, or one that needs a package which is not installed"
        )
    with _undamaged("scheduler_config.json"):
        return scheduler_class.from_pretrained(place, local_files_only=True)


def _pipeline(networks: dict[str, nn.Module], scheduler: Any, tokenizer_folder: Path) -> Any:
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTokenizer

    with _undamaged("the tokenizer"):
        tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    pipe = StableDiffusionPipeline(
        **networks,
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _latent_score(
    pipe: Any, attention_slicing: bool = False, vae_tiling: bool = False, **settings: Any
) -> StableDiffusionScore:
    if attention_slicing:
        pipe.enable_attention_slicing("max")
    if vae_tiling:
        pipe.vae.enable_tiling()
    return StableDiffusionScore(pipe, **settings)


@contextmanager
def _undamaged(what: str) -> Iterator[None]:
    """Turn whatever goes wrong in a library that reads a file into a ValueError with the mend."""
    try:
        yield
    # Each library has other classes for what is wrong.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if len(reason) > 300:
            reason = f"{reason[:300]} …"
        raise ValueError(
            f"{what} cannot be read: damaged, or of another model ({reason}); copy it again from "
            "the model's source"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(settings, dict):
            return settings
        problem = "holds no settings"
    except ValueError as error:
        problem = f"is no JSON ({error})"
    raise ValueError(
        f"{path.name} of {path.parent.name} {problem}; copy it again from the model's source"
    )


def _first(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
