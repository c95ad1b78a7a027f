"""Resolve the path of a model: find its weights, its config and its beacon settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig
from transformers.utils import CONFIG_NAME

from beacon_lit.arch.checkpoint.beacons import read_settings, read_tensors
from beacon_lit.arch.checkpoint.files import PathError, as_value_error
from beacon_lit.arch.checkpoint.fingerprint import check_shapes
from beacon_lit.arch.checkpoint.gguf import convert_gguf
from beacon_lit.arch.checkpoint.merging import check_adapter
from beacon_lit.arch.checkpoint.options import check_known, sort_options
from beacon_lit.arch.checkpoint.paths import ALLOWED, adapter_base, find, find_backbone
from beacon_lit.arch.checkpoint.whole import check_config, check_weights
from beacon_lit.arch.config import BeaconConfig

# Fields of a config that describe its origin, or that are passed on in another way.
_NO_CHANGES = ("_name_or_path", "architectures", "dtype", "model_type", "quantization_config", "transformers_version")


def stored_settings(path: str, **options: Any) -> BeaconConfig | None:
    """Return the beacon settings of a checkpoint, without reading weights; None for a plain backbone.

    Args:
        path: see `loading.load`.
        options: `backbone`, and options of Hugging Face's `from_pretrained`.

    Raises:
        ValueError: no such checkpoint, or settings that are not allowed.
    """
    backbone = options.pop("backbone", None)
    hub, _, fields = sort_options(options)
    return Source.of(str(path), backbone, hub).read_config(None, fields)[1]


@dataclass(frozen=True)
class Source:
    """Where a model is read from.

    Attributes:
        path: the path as given; for beacons alone in a hub repository, their folder in the hub's cache.
        weights: folder or hub id of the weights, without the beacons' if these are alone.
        hub: options for finding `weights`, see `files.HUB_OPTIONS`.
        saved: for beacons alone, their settings, see `beacons.settings`; else None.
        adapter: folder of a peft adapter to merge into the weights, see `merging`; else None.
        name: how the merged backbone is called in the settings of beacons; "" without an adapter.
    """

    path: Path
    weights: str
    hub: Mapping[str, Any]
    saved: Mapping[str, Any] | None = None
    adapter: Path | None = None
    name: str = ""

    @classmethod
    def of(cls, path: str, backbone: str | None, hub: Mapping[str, Any], dtype: Any = None) -> "Source":
        """Find what a path names, down to the weights of the backbone.

        Args:
            path: see `loading.load`.
            backbone: the backbone of beacons alone or of an adapter; None: the one that they name.
            hub: options among `files.HUB_OPTIONS`.
            dtype: dtype of the backbone, in which a GGUF file is unpacked; None: float32.

        Raises:
            ValueError: see `paths.find`; beacons alone or an adapter do not name their backbone; `backbone` is given
                for anything else; or the backbone is no plain model.
        """
        found = find(path, hub)
        saved = read_settings(Path(found.path)) if found.kind in ("beacons", "training") else None
        if saved is None and found.kind != "adapter" and backbone:
            raise ValueError(f"backbone={backbone!r} is not allowed for {path}, which holds no beacons alone")
        below = found if saved is None else find_backbone(path, backbone or saved["backbone"]["name"], found.hub)
        adapter, name = None, ""
        if below.kind == "adapter":
            adapter, name = Path(below.path), path if saved is None else str(backbone or saved["backbone"]["name"])
            check_adapter(adapter)
            named = backbone if saved is None and backbone else adapter_base(adapter)
            below = find_backbone(below.path, named, below.hub)
        if below.kind not in ("model", "gguf"):
            if below is found:
                raise PathError(below.path, f"holds a {below.kind} alone; allowed: {ALLOWED}")
            raise PathError(below.path, f"holds {below.kind} alone; allowed: the backbone of {path}, a whole model")
        if below.kind == "gguf":
            weights = str(convert_gguf(below.path, dtype=dtype if isinstance(dtype, torch.dtype) else torch.float32))
        else:
            weights = below.path
        if Path(weights).is_dir():
            check_config(Path(weights))
        return cls(Path(found.path), weights, below.hub, saved, adapter, name)

    def check_weights(self) -> None:
        """Raise a ValueError if weights in a local folder are missing or are no weights; see `whole.check_weights`."""
        if Path(self.weights).is_dir():
            check_weights(Path(self.weights))

    @property
    def label(self) -> str:
        """The name of the weights in messages."""
        hint = f" (the backbone of {self.path}; if it has moved, say where to: backbone=...)"
        if self.saved is None:
            return self.weights + ("" if Path(self.weights).exists() else " (no such folder, so taken for a hub id)")
        return self.weights + hint

    def read_beacons(self) -> dict[str, Tensor]:
        """Read the tensors of beacons alone; {} for anything else."""
        return {} if self.saved is None else read_tensors(self.path)

    def read_config(
        self, config: PretrainedConfig | str | None, fields: Mapping[str, Any]
    ) -> tuple[PretrainedConfig, BeaconConfig | None]:
        """Read the backbone's config and the beacon settings.

        Args:
            config: the model's config in place of the one that is found. For beacons alone with a config.json, only the
                fields that differ from config.json are used, and change the backbone's config.
            fields: fields of the backbone's config to change.

        Returns:
            The backbone's config, with `fields` changed; and the beacon settings, None for a plain backbone.

        Raises:
            ValueError: no such config, an unknown field, or beacons of a backbone with other shapes.
        """
        fields, settings = dict(fields), None
        with as_value_error(self.label):
            if isinstance(config, str):
                config = AutoConfig.from_pretrained(config)
            if config is not None and self.saved is not None and (self.path / CONFIG_NAME).is_file():
                fields, config = self._changes(config) | fields, None
                settings = fields.pop("beacon", None)
            if config is None:
                config, unknown = AutoConfig.from_pretrained(
                    self.weights, return_unused_kwargs=True, **self.hub, **fields
                )
                check_known(unknown)
            else:
                check_known(fields)
        if self.saved is not None:
            check_shapes(self.saved, config, str(self.path))
            trained = {**self.saved["backbone"]["positions"], **self.saved["backbone"].get("caps", {})}
            for name in trained.keys() - fields.keys():  # RoPE and caps as the beacons were trained with
                setattr(config, name, trained[name])
            settings = settings or self.saved["beacon"]
        return config, config_settings(config) if settings is None else BeaconConfig.from_dict(settings)

    def _changes(self, config: PretrainedConfig) -> dict[str, Any]:
        """Return the fields in which a config differs from config.json of beacons alone.

        AutoModelForCausalLM passes config.json with the caller's changes in it.
        """
        saved = AutoConfig.from_pretrained(self.path).to_dict()
        return {
            name: value
            for name, value in config.to_dict().items()
            if name not in _NO_CHANGES and (name not in saved or saved[name] != value)
        }


def config_settings(config: PretrainedConfig) -> BeaconConfig | None:
    """Return the beacon settings of a model's config, ours or a published one; None for a plain backbone."""
    if getattr(config, "beacon", None):
        return BeaconConfig.from_dict(config.beacon)
    return BeaconConfig.from_published(config.to_dict()) if hasattr(config, "beacon_window") else None
