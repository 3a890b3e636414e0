"""Learned scores by name: a bundled model, a folder in diffusers' layout, or an id of the hub.

Only safetensors are read. Nothing is ever unpickled.
"""

import importlib
import importlib.util
import inspect
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
from .families import Family, check_name, check_schedule, family_of
from .pipeline import PipelineScore, from_pipeline
from .schedule import NoiseSchedule

DATA = Path(__file__).parents[2] / "data"
BUNDLED = ("rotated-mnist", "hands", "hands-flow")


OF_PIXELS = ("sigma", "label", "micro_batch", "scale", "shift")
OF_PIPELINES = (
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
    "cpu_offload",
)
# Networks of pixels or signals, called with points and times alone.
PIXEL_NETWORKS = ("UNet2DModel", "UNet1DModel")
# Parts that no model of pixels has.
LATENT_PARTS = ("vae", "vqvae", "movq", "text_encoder", "transformer")
# Parts of a pipeline that its score does not need: they look at finished images or at other ones.
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")
# How the weight files of a library begin.
STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}


@dataclass(frozen=True)
class Part:
    """A network of a model: the folder it lies in, and its class."""

    name: str
    place: Path
    library: str
    class_name: str

    @property
    def class_path(self) -> str:
        return f"{self.library}.{self.class_name}"


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
        name: "rotated-mnist" (bundled; points (1, 28, 28), pixels in [0, 1]), "hands" or
            "hands-flow" (bundled; text-to-image models, points (4, 16, 16), latents); a folder as
            `DiffusionPipeline.save_pretrained` writes it, or with config.json, weights and
            scheduler_config.json side by side; or an id of the hub, "owner/model", whose weights
            are downloaded once its configuration is found fit.
        revision: branch, tag or commit of a model on the hub.
        variant: of the weight files, "fp16" for instance.
        dtype: of the networks.
        device: of the networks.
        settings: sigma, label, micro_batch, scale, shift of `DenoiserScore`. For a pipeline of a
            family in `FAMILIES` prompt, end_prompt, negative, guidance, sigma, size, micro_batch,
            truncate of `PipelineScore`, and attention_slicing, vae_tiling, cpu_offload (less
            memory, more time).

    Returns:
        The score, a `PipelineScore` of a pipeline. Its `origin` names the model, its revision and
        the sha256 of each file read.

    Raises:
        ValueError: an unknown name, setting or device; a model without a score; weights that are
            damaged, incomplete, superfluous or not finite.
        TypeError: a scheduler that has no score here, or of another kind than the model.
        FileNotFoundError: there is no such folder, or a file is missing.
        ImportError: cpu_offload without the package accelerate.
        ConnectionError: the hub did not deliver.

    Example:
        >>> score = load("rotated-mnist", sigma=0.5)
        >>> score.event_shape, score.origin["name"]
        ((1, 28, 28), 'rotated-mnist')
    """
    device = checks.device(device)
    folder, origin = _locate(str(name), revision)
    check_name(origin["name"])
    index = _index(folder)
    family = _family(folder, index)
    kind = "a model of pixels" if family is None else f"a {family.name}"
    known = OF_PIXELS if family is None else OF_PIPELINES
    for setting in settings:
        checks.choice(f"setting of {kind}:", setting, known)
    if settings.get("cpu_offload"):
        _check_offload(device)
    parts = [_pixel_part(folder)] if family is None else _parts(folder, index, family)
    scheduler_folder = _part_folder(folder, "scheduler", "scheduler_config.json")
    scheduler = _scheduler(scheduler_folder)
    schedule = NoiseSchedule(scheduler)
    main = next(part for part in parts if part.name in ("unet", "transformer"))
    check_network(_read_json(main.place / "config.json"), schedule)
    read = [scheduler_folder / "scheduler_config.json"]
    if family is not None:
        check_schedule(family, scheduler, schedule)
        read += _tokenizer_files(folder, index)

    # Everything fits so far: now the weights, of the same commit where they come from the hub.
    if origin["revision"] is not None:
        patterns = []
        for part in parts:
            begin = (part.place.relative_to(folder) / _stem(part, variant)).as_posix()
            patterns += [f"{begin}.safetensors", f"{begin}-*.safetensors"]
        _download(origin["name"], origin["revision"], patterns)
    networks = {}
    for part in parts:
        read += [part.place / "config.json", *_weight_files(part.place, _stem(part, variant))]
        networks[part.name] = _network(part, variant, dtype)
    if family is None:
        score = DenoiserScore(networks["unet"].to(device), scheduler, **settings)
    else:
        pipe = _pipeline(folder, index, networks, scheduler)
        score = _latent_score(pipe, device, **settings)
    sums = {path.relative_to(folder).as_posix(): files.sha256(path) for path in read}
    score.origin = origin | {"sha256": sums}
    return score


def _locate(name: str, revision: str | None) -> tuple[Path, dict[str, Any]]:
    """The folder, its configuration at least, and what names it: no path is part of that."""
    folder = Path(name).expanduser()
    if folder.suffix in (".safetensors", ".ckpt"):
        raise ValueError(
            f"{folder.name} is a single file, which does not say how its parts are called; convert "
            "it once, with the pipeline of its family, and load the folder:\n"
            f"    pipe = diffusers.StableDiffusionXLPipeline.from_single_file({folder.name!r})\n"
            f"    pipe.save_pretrained({folder.stem!r})"
        )
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
        snapshot = _download(name, revision, ["*.json", "tokenizer*/*"])
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
    # Not there, not allowed, no internet, a bad name.
    except (OSError, HTTPError, ValueError) as error:
        raise ConnectionError(
            f"{name!r} is no folder here, and could not get {name!r} (revision "
            f"{revision or 'main'}) from the hub ({type(error).__name__}); mend the path, or check "
            "name, revision and network, or download it elsewhere and load its folder"
        ) from error


def _index(folder: Path) -> dict[str, Any]:
    """What model_index.json says of the pipeline; nothing where there is no such file."""
    path = folder / "model_index.json"
    return _read_json(path) if path.is_file() else {}


def _family(folder: Path, index: dict[str, Any]) -> type[Family] | None:
    """The family of the pipeline that the folder holds; None for a model of pixels."""
    # A part that is left out stands in the index as [null, null].
    parts = [p for p in LATENT_PARTS if (folder / p).is_dir() or any(index.get(p) or [])]
    if not parts:
        return None
    if "_class_name" not in index:
        raise ValueError(
            f"{folder.name} is a latent diffusion model (with {parts[0]}), but no model_index.json "
            "names its pipeline; copy it from the model's source"
        )
    return family_of(str(index["_class_name"]))


def _parts(folder: Path, index: dict[str, Any], family: type[Family]) -> list[Part]:
    """The networks of a pipeline; ValueError for parts of another family, or parts left out."""
    import diffusers

    parameters = inspect.signature(getattr(diffusers, index["_class_name"])).parameters
    parts = []
    for name, entry in index.items():
        is_network = isinstance(entry, list) and entry[0] in STEMS and name in parameters
        if not is_network or name in LEFT_OUT or name.startswith(("tokenizer", "scheduler")):
            continue
        library, class_name = entry
        if name == family.network:
            class_name = parameters[name].annotation.__name__
        parts.append(Part(name, _network_folder(folder, name, class_name), library, class_name))
    found = [part.name for part in parts]
    for name, parameter in parameters.items():
        # A part that may be left out stands in the index as [null, null].
        needed = parameter.default is parameter.empty and name not in LEFT_OUT
        absent = name in (family.network, "vae") and name not in found
        if absent or (needed and name not in index):
            raise ValueError(
                f"{folder.name} has no {name} in its model_index.json; copy the whole model from "
                "its source"
            )
    return parts


def _tokenizer_files(folder: Path, index: dict[str, Any]) -> list[Path]:
    found = []
    for name, entry in index.items():
        if name.startswith("tokenizer") and any(entry):
            place = _part_folder(folder, name, "tokenizer_config.json")
            found += [path for path in place.iterdir() if path.is_file()]
    return found


def _pixel_part(folder: Path) -> Part:
    place = _part_folder(folder, "unet", "config.json")
    given = _read_json(place / "config.json").get("_class_name")
    class_name = given if given in PIXEL_NETWORKS else PIXEL_NETWORKS[0]
    return Part("unet", _network_folder(folder, "unet", class_name), "diffusers", class_name)


def _part_folder(folder: Path, part: str, config: str) -> Path:
    """The subfolder of one part, or the folder itself where all parts lie side by side."""
    for place in (folder / part, folder):
        if (place / config).is_file():
            return place
    mend = "copy it from the model's source"
    if part == "scheduler":
        mend += ", or write it: scheduler.save_pretrained(folder)"
    raise FileNotFoundError(f"{folder.name} holds neither {part}/{config} nor {config}; {mend}")


def _network_folder(folder: Path, part: str, wanted: str) -> Path:
    """The folder of a network whose config.json names the class that is wanted."""
    place = _part_folder(folder, part, "config.json")
    # A network of transformers names no class.
    given = _read_json(place / "config.json").get("_class_name", wanted)
    if given != wanted:
        raise ValueError(
            f"{part} of {folder.name} is a {given}, not a {wanted}: parts of two models; for "
            "another network with the same call use DenoiserScore(network, scheduler)"
        )
    return place


def _stem(part: Part, variant: str | None) -> str:
    """How the names of weight files begin; "-00001-of-00002" follows in shards."""
    stem = STEMS[part.library]
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


def _network(part: Part, variant: str | None, dtype: torch.dtype) -> nn.Module:
    """A network once all its weights are there, fit and finite."""
    network_class = getattr(importlib.import_module(part.library), part.class_name, None)
    if not (isinstance(network_class, type) and issubclass(network_class, nn.Module)):
        raise ValueError(f"{part.name} is a {part.class_path}, which is no network")
    place = part.place
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


def _pipeline(
    folder: Path, index: dict[str, Any], networks: dict[str, nn.Module], scheduler: Any
) -> Any:
    """The pipeline of these networks, with its own tokenizers and settings."""
    import diffusers

    pipeline_class = getattr(diffusers, index["_class_name"])
    absent = {}
    for name, entry in index.items():
        # A part that its makers left out stands in the index as [null, null].
        if name in LEFT_OUT or entry == [None, None]:
            absent[name] = None
    with _undamaged("the tokenizer"), _without_bar():
        pipe = pipeline_class.from_pretrained(
            folder,
            **networks,
            scheduler=scheduler,
            **absent,
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _check_offload(device: torch.device) -> None:
    """Raise where weights cannot be offloaded, before any are loaded."""
    if device.type == "cpu":
        raise ValueError(
            "cpu_offload=True keeps weights on the CPU until another device needs them: give "
            "device='cuda', or leave cpu_offload out"
        )
    if importlib.util.find_spec("accelerate") is None:
        raise ImportError("cpu_offload=True needs the package accelerate: pip install accelerate")


def _latent_score(
    pipe: Any,
    device: torch.device,
    attention_slicing: bool = False,
    vae_tiling: bool = False,
    cpu_offload: bool = False,
    **settings: Any,
) -> PipelineScore:
    if cpu_offload:
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.to(device)
    if attention_slicing:
        pipe.enable_attention_slicing("max")
    if vae_tiling:
        pipe.vae.enable_tiling()
    return from_pipeline(pipe, **settings)


@contextmanager
def _without_bar() -> Iterator[None]:
    """No progress bar of diffusers for parts that are loaded already."""
    from diffusers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


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
