"""Learned scores by name: what is bundled, a folder in diffusers' layout, or a model hub's id. Nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from experiments import data

from .. import checks
from .denoiser import DenoiserScore, check_network
from .schedule import NoiseSchedule

BUNDLED = ("rotated-mnist", "hands")
CONFIGS = (
    "model_index.json",
    "config.json",
    "scheduler_config.json",
    "unet/config.json",
    "scheduler/scheduler_config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "tokenizer/*",
)
PIXELS = ("sigma", "label", "micro_batch", "scale", "shift")  # settings of a score of pixels
STEM = "diffusion_pytorch_model"


def load(
    name: str | Path,
    *,
    revision: str | None = None,
    variant: str | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    **settings: Any,
) -> DenoiserScore:
    """The score of a trained diffusion model, in evaluation mode, without gradients for its weights.

    name: "rotated-mnist" (bundled; event (1, 28, 28), pixels in [0, 1]); "hands" (bundled; a text-to-image model, event
    (4, 16, 16), latents); a folder as `DiffusionPipeline.save_pretrained` writes it, or with config.json, weights and
    scheduler_config.json side by side; or a hub id "owner/model" (downloaded by huggingface_hub if it is not in its cache, the
    weights once the configuration is found fit), with revision (branch, tag or commit). variant: of the weight files, "fp16"
    for instance. dtype: of the network, float32 if None.
    settings: sigma, label, micro_batch, scale, shift of `DenoiserScore`; for a Stable Diffusion prompt, end_prompt, negative,
    guidance, … of `StableDiffusionScore`, and attention_slicing, vae_tiling (`load_stable_diffusion` makes it). `origin` of the
    result names model, revision and sha256 of each file read, for result files.
    ValueError: unknown name, setting or device, damaged, incomplete or superfluous weights, another kind of network.
    FileNotFoundError: no such folder, or a file is missing. ConnectionError: the hub did not deliver.
    """
    device = checks.device("cpu" if device is None else device)
    folder, origin = _folder(str(name), revision)
    if _kind(folder).startswith("StableDiffusion"):
        from .loading_latent import load_stable_diffusion  # which builds on this module

        return load_stable_diffusion(
            name,
            revision=origin["revision"],
            variant=variant,
            dtype=dtype,
            device=device,
            **settings,
        )
    _known("a model of pixels", settings, PIXELS)
    return _load_pixels(folder, origin, variant, dtype or torch.float32, device, settings)


def _load_pixels(
    folder: Path,
    origin: dict[str, Any],
    variant: str | None,
    dtype: torch.dtype,
    device: torch.device,
    settings: dict[str, Any],
) -> DenoiserScore:
    unet, place = (
        _part(folder, "unet", "config.json"),
        _part(folder, "scheduler", "scheduler_config.json"),
    )
    scheduler = _fit_scheduler(folder, unet, place)
    if origin["revision"]:  # of the hub: its weights come last, of the same commit
        _snapshot(
            origin["name"],
            origin["revision"],
            [
                path.relative_to(folder).as_posix()
                for path in (
                    unet / f"{_stem(variant)}.safetensors",
                    unet / f"{_stem(variant)}-*.safetensors",
                    unet / f"{STEM}*.index*.json",
                )
            ],
        )
    weights = _weights(unet, variant)
    sums = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (unet / "config.json", *weights, place / "scheduler_config.json")
    }
    score = DenoiserScore(
        _model(unet, variant, torch_dtype=dtype).to(device), scheduler, **settings
    )
    score.origin = origin | {"sha256": sums}
    return score


def _known(kind: str, settings: dict[str, Any], names: Sequence[str]) -> None:
    """ValueError for a setting that another kind of model has, or none."""
    for name in settings:
        checks.choice(f"setting of {kind}:", name, names)


def _kind(folder: Path) -> str:
    """The pipeline that model_index.json names, "" if there is none."""
    index = folder / "model_index.json"
    return str(_json(index).get("_class_name") or "") if index.is_file() else ""


def _fit_scheduler(folder: Path, unet: Path, place: Path) -> Any:
    """The scheduler, once the configuration says that this is a denoiser of pixels that can be asked at any noise level."""
    index = _json(folder / "model_index.json") if (folder / "model_index.json").is_file() else {}
    coder = [
        part for part in ("vae", "vqvae") if (folder / part).is_dir() or any(index.get(part) or ())
    ]
    if coder:
        raise ValueError(
            f"{folder.name} is a latent diffusion model ({coder[0]} beside unet), and its model_index.json names no "
            "StableDiffusionPipeline: its points are latents, not the pixels that are wanted here; use "
            "DenoiserScore(unet, scheduler, scale=1, shift=0)"
        )
    config = _json(unet / "config.json")
    if config.get("_class_name") != "UNet2DModel":
        raise ValueError(
            f"{unet.name} holds a {config.get('_class_name')}, not a UNet2DModel: an unconditional or class-"
            "conditional image model is wanted here; for another network with the same call use "
            "DenoiserScore(model, scheduler)"
        )
    return _fit_network(config, _scheduler(place))


def _fit_network(config: dict[str, Any], scheduler: Any) -> Any:
    """The scheduler, if network and scheduler can be asked at any noise level."""
    check_network(SimpleNamespace(**config))
    NoiseSchedule(scheduler)
    return scheduler


def _folder(name: str, revision: str | None) -> tuple[Path, dict[str, Any]]:
    """Where the files are, and what names them; no path of this machine goes into the name."""
    path, hub = (
        Path(name).expanduser(),
        bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name)) and not name.startswith("."),
    )
    if revision is not None and (name in BUNDLED or path.is_dir() or not hub):
        raise ValueError(
            f"revision names a state of a model on the hub, and {name!r} is none; leave revision=None"
        )
    if name in BUNDLED:
        return _bundled(name), {"name": name, "revision": None}
    if path.is_dir():
        return path, {"name": path.resolve().name, "revision": None}
    if hub:
        folder = _snapshot(name, revision, CONFIGS)
        return folder, {
            "name": name,
            "revision": folder.name,
        }  # the cache names a snapshot by its commit
    if path.exists() or len(path.parts) > 1:
        raise FileNotFoundError(
            f"{name} is no folder here, and no hub id (owner/model) either; name the folder that holds "
            "model_index.json or config.json"
        )
    raise ValueError(
        f"{name!r} is no bundled model ({', '.join(BUNDLED)}), no folder and no hub id (owner/model)"
    )


def _bundled(name: str) -> Path:
    entry = data.registry().get(name)
    found = data.locate(name) if entry else None
    if not found:
        raise FileNotFoundError(
            f"the bundled model {name!r} is missing; restore data/ from the repository, or train it: "
            f"python -m experiments.training {name}"
        )
    return data.REGISTRY.parent / entry["bundled"]


def _snapshot(name: str, revision: str | None, wanted: Sequence[str]) -> Path:
    from httpx import HTTPError
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(wanted)))
    except (
        OSError,
        HTTPError,
        ValueError,
    ) as error:  # not there, not allowed, no network, a bad name
        raise ConnectionError(
            f"{name!r} is no folder here, and could not get {name!r} (revision {revision or 'main'}) from the "
            f"hub ({type(error).__name__}); mend the path, or check name, revision and network, or download "
            "it elsewhere and load its folder"
        ) from error


def _part(folder: Path, part: str, config: str) -> Path:
    """The subfolder of one part, or the folder itself where all parts lie side by side."""
    for place in (folder / part, folder):
        if (place / config).is_file():
            return place
    raise FileNotFoundError(
        f"{folder.name} holds neither {part}/{config} nor {config}; copy it from the model's source"
        + (", or write it: scheduler.save_pretrained(folder)" if part == "scheduler" else "")
    )


def _stem(variant: str | None, stem: str = STEM) -> str:
    return stem + (f".{variant}" if variant else "")  # "-00001-of-00002" follows in shards


def _weights(unet: Path, variant: str | None, stem: str = STEM) -> list[Path]:
    stem = _stem(variant, stem)
    found = sorted(
        path
        for path in unet.glob(f"{stem}*.safetensors")
        if "." not in path.name.removeprefix(stem).removesuffix(".safetensors")
    )
    if found:
        return found
    others = sorted(
        path.name
        for ending in ("safetensors", "bin", "pt", "pth", "ckpt")
        for path in unet.glob(f"*.{ending}")
    )
    raise FileNotFoundError(
        f"{unet.name} holds no {stem}.safetensors, only {', '.join(others) or 'no weights at all'}; "
        "other variants load with variant=…; pickled weights are never opened here: convert them where you trust them "
        "(model.save_pretrained(folder, safe_serialization=True)) or take a revision with safetensors"
    )


def _model(unet: Path, variant: str | None, kind: Any = None, **dtype: torch.dtype) -> Any:
    """A network of diffusers (torch_dtype=…) or transformers (dtype=…), once all its weights are there, fit and finite."""
    if kind is None:
        from diffusers import UNet2DModel as kind

    plain = {"low_cpu_mem_usage": False} if "torch_dtype" in dtype else {}
    try:
        model, found = kind.from_pretrained(
            unet,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **dtype,
            **plain,
        )
    except Exception as error:  # of safetensors, torch, diffusers or the constructor: each says by another class what is wrong
        raise ValueError(
            f"the weights or the config.json of {unet.name} are damaged or belong to another network: "
            f"{_short(error)}; copy both again from the model's source"
        ) from error
    wrong = [
        f"{len(keys)} {what} ({', '.join(map(str, sorted(keys)[:3]))}{', …' * (len(keys) > 3)})"
        for what, keys in (
            (key.replace("_keys", " weights"), _told(found[key]))
            for key in ("missing_keys", "unexpected_keys", "mismatched_keys")
        )
        if keys
    ]
    if wrong:  # diffusers would go on with random numbers in their place
        raise ValueError(
            f"the weights of {unet.name} do not fit its config.json: {'; '.join(wrong)}; copy both from one source"
        )
    bad = [key for key, value in model.state_dict().items() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(
            f"the weights of {unet.name} are not all finite ({', '.join(bad[:3])}); copy them again from the source"
        )
    return model.eval().requires_grad_(False)


def _told(keys: Sequence[Any]) -> list[Any]:
    """Old text encoders keep their position numbers among the weights, which nobody reads."""
    return [key for key in keys if not str(key).endswith("position_ids")]


def _scheduler(folder: Path) -> Any:
    import diffusers

    kind = _json(folder / "scheduler_config.json").get("_class_name")
    found = getattr(diffusers, str(kind), None)
    if not (isinstance(found, type) and issubclass(found, diffusers.SchedulerMixin)):
        raise ValueError(
            f"scheduler_config.json names {kind!r}, which is no scheduler of diffusers {diffusers.__version__}, "
            "or one that needs a package which is not installed"
        )
    try:
        return found.from_pretrained(folder, local_files_only=True)
    except (ValueError, TypeError, OSError, NotImplementedError) as error:
        raise ValueError(
            f"scheduler_config.json is damaged: {_short(error)}; copy it again from the model's source"
        ) from error


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path.name} of {path.parent.name} is no JSON ({error}); copy it again from its source"
        ) from error
    if not isinstance(found, dict):
        raise ValueError(
            f"{path.name} of {path.parent.name} holds no settings; copy it again from the model's source"
        )
    return found


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:300] + " …"
