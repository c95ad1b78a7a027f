"""Read and write beacon models: where weights come from, and what must fit what."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as hf_logging

from beacon_lit.arch.config import BeaconConfig
from beacon_lit.arch.gguf import convert_gguf
from beacon_lit.arch.kernels import check_kernel

if TYPE_CHECKING:
    from beacon_lit.arch.model import BeaconLM

ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # the others' frequencies change with the length
SETTINGS_FILE = "beacon_config.json"
WEIGHTS_FILE = "beacon.safetensors"
TRAINING_SUFFIX = ".ckpt"
MODULE_PREFIX = "lm."  # of a training checkpoint's parameter names
_SHAPE_FIELDS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "vocab_size",
)  # fmt: skip
_POSITION_FIELDS = ("rope_parameters", "max_position_embeddings")

Families = Mapping[str, type["BeaconLM"]]


def is_beacon(name: str) -> bool:
    """Whether a parameter of this name belongs to the beacons."""
    return ".beacon_" in name


def positions(config: PretrainedConfig) -> int:
    """Position slots that a backbone supports, RoPE scaling included."""
    rope = config.rope_parameters
    original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
    scaled = int(original * rope["factor"]) if rope["rope_type"] == "yarn" else 0  # a Llama-3 config says what it has
    return max(config.max_position_embeddings, scaled)


def beacon_model(
    families: Families, hf_config: PretrainedConfig, beacon: BeaconConfig, attn: str
) -> tuple[type["BeaconLM"], PretrainedConfig]:
    """The model class of an architecture, and `hf_config` with `beacon` in it. No weight is touched.

    Raises:
        ValueError: see `BeaconLM.from_config`.
    """
    family = hf_config.model_type.removeprefix("beacon_")
    if family not in families:
        raise ValueError(
            f"model_type={hf_config.model_type!r} is not supported; allowed: {', '.join(sorted(families))}"
        )
    rope = hf_config.rope_parameters["rope_type"]
    if rope not in ROPE_TYPES:
        raise ValueError(
            f"rope_type={rope!r} is not allowed, memory keys are rotated once; allowed: {', '.join(ROPE_TYPES)}"
        )
    if getattr(hf_config, "attention_dropout", 0):
        raise ValueError(f"attention_dropout={hf_config.attention_dropout} is not allowed; allowed: 0")
    limit = positions(hf_config)
    slots = beacon.sink + beacon.overlap + beacon.window + beacon.window // min(beacon.ratios)
    if slots > limit:
        raise ValueError(
            f"window={beacon.window} needs {slots} position slots (sink, overlap, window and its beacons at ratio "
            f"{min(beacon.ratios)}); allowed: at most the backbone's {limit} (max_position_embeddings)"
        )
    sliding = getattr(hf_config, "sliding_window", None)
    if sliding is not None and beacon.window > sliding:
        raise ValueError(
            f"window={beacon.window} is not allowed; allowed: at most the backbone's sliding_window={sliding}"
        )
    check_kernel(attn, beacon.placement)
    config_class = families[family].config_class
    values = {name: value for name, value in hf_config.to_dict().items() if name not in ("model_type", "beacon")}
    config = config_class.from_dict({**values, "beacon": beacon.to_dict()})
    config._name_or_path = hf_config._name_or_path
    return families[family], config


def load(
    families: Families,
    path: str,
    beacon: BeaconConfig | None,
    attn: str,
    *,
    backbone: str | None = None,
    beacon_dtype: torch.dtype | str | None = None,
    allow_other_backbone: bool = False,
    **options: Any,
) -> "BeaconLM":
    """Load a beacon model.

    Args:
        families: model class by architecture.
        path: one of
            - a hub id or a folder of a plain backbone: beacons start from its projections;
            - a GGUF file of one, dequantised (converted once, into a cache folder);
            - a published beacon checkpoint: `beacon_*` fields in config.json, `beacon_*` tensors among the weights;
            - a folder of ours, with beacons alone (the backbone is loaded from where it was) or with everything;
            - a training checkpoint (`.ckpt`).
        beacon: settings; default: the checkpoint's own, else `BeaconConfig()`.
        attn: attention kernel.
        backbone: where the backbone of a beacons-only folder is now.
        beacon_dtype: dtype of the beacon parameters, e.g. float32 for training; default: that of the backbone.
        allow_other_backbone: put beacons on a backbone of the same shape but with other weights.
        options: `dtype`, fields of the backbone's config (`rope_parameters=...`), and what else Hugging Face's
            `from_pretrained` takes.

    Raises:
        ValueError: no such checkpoint, an architecture or setting that is not allowed (before weights are read), a
            missing or truncated weight file, beacons of another backbone, or of other projections than `beacon.params`.
    """
    path = str(path)
    saved = _read_settings(path)
    source = path if saved is None else str(backbone or saved["backbone"]["name"])
    if not source:
        raise ValueError(f"{path} does not say which backbone its beacons are for; name it: backbone=...")
    hint = "" if saved is None else f" (the backbone of {path}; if it has moved, say where to: backbone=...)"
    if source.endswith(".gguf"):
        source = str(convert_gguf(Path(source)))
    hf_config = options.pop("config", None)
    asked = set(options)
    if hf_config is None:
        with _as_value_error(source + hint):
            hf_config, options = AutoConfig.from_pretrained(source, return_unused_kwargs=True, **options)
    if saved is not None:
        _check_shapes(saved, hf_config, path)
        for field in set(_POSITION_FIELDS) - asked:  # the scaling that the beacons were trained with
            setattr(hf_config, field, saved["backbone"]["positions"][field])
    chosen = beacon or _own_settings(saved, hf_config) or BeaconConfig()
    model_class, config = beacon_model(families, hf_config, chosen, attn)
    with _as_value_error(source + hint), _quiet():
        model, info = PreTrainedModel.from_pretrained.__func__(  # type: ignore[attr-defined]
            model_class, source, config=config, output_loading_info=True, **options
        )
    has_beacons = _check_keys(model, info, source)
    if beacon_dtype is not None:
        wanted = getattr(torch, beacon_dtype, None) if isinstance(beacon_dtype, str) else beacon_dtype
        if not isinstance(wanted, torch.dtype):
            raise ValueError(f"beacon_dtype={beacon_dtype!r} is not allowed; allowed: float32, bfloat16, float16")
        for parameter in model.beacon_parameters():
            parameter.data = parameter.data.to(wanted)
        if has_beacons:  # they were read in the backbone's dtype, which may be narrower than the file's
            model.load_state_dict(_beacon_tensors(source), strict=False)
    model.attn = attn
    model.freeze()
    if saved is not None:
        load_beacons(model, path, allow_other_backbone)
    elif not has_beacons:
        model.initialize_beacons()
    return model


def save_beacons(model: "BeaconLM", folder: str | Path, state: Mapping[str, Tensor] | None = None) -> None:
    """Write `beacon.safetensors` and `beacon_config.json`: settings, the backbone's name and its fingerprint."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = model.state_dict() if state is None else state
    tensors = {name: value.detach().contiguous().cpu() for name, value in state.items() if is_beacon(name)}
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / SETTINGS_FILE).write_text(json.dumps(settings(model), indent=2) + "\n")


def settings(model: "BeaconLM") -> dict[str, Any]:
    """What `beacon_config.json` holds: the beacon settings, the backbone's name and its fingerprint."""
    backbone = {"name": model.config._name_or_path, "config": shapes(model.config), "sample": sample(model)}
    scaling = {name: getattr(model.config, name) for name in _POSITION_FIELDS}
    return {"beacon": model.beacon.to_dict(), "backbone": {**backbone, "positions": scaling}}


def load_beacons(model: "BeaconLM", path: str | Path, allow_other_backbone: bool = False) -> None:
    """Read beacons into a model, in the model's dtypes; from a training checkpoint all that was trained.

    Args:
        model: the model.
        path: a folder written by `save_beacons`, or a training checkpoint (`.ckpt`).
        allow_other_backbone: put them on a backbone of the same shape but with other weights.

    Raises:
        ValueError: the file is missing or damaged, or its beacons are on other projections than the model's, or of
            another backbone.
    """
    path = Path(path)
    saved = _read_settings(str(path))
    if saved is None:
        raise ValueError(
            f"{path} holds no beacons; allowed: a folder with {SETTINGS_FILE}, or a {TRAINING_SUFFIX} file"
        )
    training = path.suffix == TRAINING_SUFFIX
    file = path if training else path / WEIGHTS_FILE
    with _as_value_error(str(file)):
        found = _read_training(file)["state_dict"] if training else load_file(file)
    tensors = {name.removeprefix(MODULE_PREFIX): value for name, value in found.items()}
    expected = {name for name, _ in model.named_parameters() if is_beacon(name)}
    check_names(expected, {name for name in tensors if is_beacon(name)}, str(file))
    _check_shapes(saved, model.config, str(path))
    model.load_state_dict(tensors, strict=False)
    if not allow_other_backbone:  # after loading: a backbone that was trained, too, is that of the checkpoint now
        check_backbone(saved, model, str(path))


def check_backbone(saved: Mapping[str, Any], model: "BeaconLM", path: str) -> None:
    """ValueError unless `model` has the shape and the weights of the backbone that `saved` (`settings`) tells of."""
    _check_shapes(saved, model.config, path)
    own = sample(model)
    for name, values in saved["backbone"]["sample"].items():
        if not torch.allclose(torch.tensor(own[name]), torch.tensor(values), rtol=2e-2, atol=1e-6):
            raise ValueError(
                f"the beacons in {path} were trained on a backbone with other weights ({name} differs); "
                f"allow_other_backbone=True loads them all the same"
            )


def shapes(config: PretrainedConfig) -> dict[str, Any]:
    """What of a backbone's config beacons depend on."""
    fields = {name: getattr(config, name, None) for name in _SHAPE_FIELDS}
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    family = config.model_type.removeprefix("beacon_")
    return {"family": family, **fields, "head_dim": head, "rope_theta": config.rope_parameters["rope_theta"]}


@torch.no_grad()
def sample(model: "BeaconLM") -> dict[str, list[float]]:
    """A few values of a few of the backbone's weights, in bf16: tells one set of weights from another."""
    layers = model.model.layers
    tensors = {
        "embed_tokens": model.model.embed_tokens.weight,
        "first q_proj": layers[0].self_attn.q_proj.weight,
        "last down_proj": layers[-1].mlp.down_proj.weight,
        "norm": model.model.norm.weight,
    }
    return {
        name: tensor.flatten()[:: max(1, tensor.numel() // 16)].to("cpu", torch.bfloat16).tolist()
        for name, tensor in tensors.items()
    }


def check_names(expected: set[str], found: set[str], source: str) -> None:
    """ValueError unless a checkpoint's parameter names are those expected."""
    if expected != found:
        problem = "lacks" if expected - found else "has"
        name = sorted(expected - found or found - expected)[0]
        kinds = sorted({part.split("_")[1] for key in found for part in key.split(".") if part.endswith("_proj")})
        raise ValueError(f"{source} {problem} {name}: its beacons are on the projections params={tuple(kinds)}")


def _read_settings(path: str) -> dict[str, Any] | None:
    """The settings beside beacons-only weights; None if `path` is something else."""
    if path.endswith(TRAINING_SUFFIX):
        with _as_value_error(path):
            return _read_training(Path(path))["beacon_settings"]
    file = Path(path) / SETTINGS_FILE
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if not {"beacon", "backbone"} <= found.keys():
        raise ValueError(f"{file} has {', '.join(found) or 'nothing'}; it needs beacon and backbone")
    return found


def _beacon_tensors(folder: str) -> dict[str, Tensor]:
    """Beacon tensors of a local folder of safetensors, as they are on disk."""
    tensors: dict[str, Tensor] = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            tensors |= {name: opened.get_tensor(name) for name in opened.keys() if is_beacon(name)}  # noqa: SIM118
    return tensors


def _read_training(file: Path) -> dict[str, Any]:
    return torch.load(file, map_location="cpu", weights_only=True, mmap=True)


def _own_settings(saved: dict[str, Any] | None, hf_config: PretrainedConfig) -> BeaconConfig | None:
    if saved is not None:
        return BeaconConfig.from_dict(saved["beacon"])
    if getattr(hf_config, "beacon", None):
        return BeaconConfig.from_dict(hf_config.beacon)
    published = hasattr(hf_config, "beacon_window")
    return BeaconConfig.from_published(hf_config.to_dict()) if published else None


def _check_keys(model: "BeaconLM", info: Mapping[str, Any], source: str) -> bool:
    """Whether the checkpoint had beacons. ValueError if backbone weights are missing or the beacons do not fit."""
    missing = set(info["missing_keys"])
    backbone = sorted(name for name in missing if not is_beacon(name))
    if backbone:
        raise ValueError(f"{source} lacks {len(backbone)} weights of the backbone: {', '.join(backbone[:3])} ...")
    expected = {name for name, _ in model.named_parameters() if is_beacon(name)}
    found = (expected - missing) | {name for name in info["unexpected_keys"] if is_beacon(name)}
    if found:
        check_names(expected, found, source)
    return bool(found)


def _check_shapes(saved: Mapping[str, Any], config: PretrainedConfig, path: str) -> None:
    own = shapes(config)
    for name, value in saved["backbone"]["config"].items():
        if own.get(name) != value:
            raise ValueError(
                f"the beacons in {path} were trained on a backbone with {name}={value!r}; "
                f"this one has {own.get(name)!r}"
            )


@contextmanager
def _as_value_error(source: str) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError, RuntimeError, UnpicklingError, KeyError) as error:
        raise ValueError(f"cannot load {source}: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back Hugging Face's load report: `_check_keys` judges what is missing."""
    verbosity = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
