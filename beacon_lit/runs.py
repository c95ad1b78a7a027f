"""Find the model in a run's folder, save the run's config, and link the latest run."""

import json
import logging
import os
import secrets
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from transformers import PreTrainedTokenizerBase
from transformers.utils import CONFIG_NAME

from beacon_lit import BeaconLM
from beacon_lit.arch.checkpoint import TRAINING_SUFFIX, PathError, holds_beacons_alone
from beacon_lit.data.templates import with_template
from beacon_lit.errors import own_error
from beacon_lit.files import replacing
from beacon_lit.record import RECORD_FILE
from beacon_lit.tokenizer_state import trained_tokenizer

log = logging.getLogger(__name__)

# What a checkpoint fixes among the settings of `model.backbone`; others, such as `rope_parameters`, count with it.
FIXED = ("_target_", "_convert_", "path", "hf_config", "beacon", "beacon_dtype")


def find_beacons(path: str | Path) -> Path:
    """Return the path that `BeaconLM.from_pretrained` reads: for the folder of a run, the `beacons` folder inside.

    Raises:
        ValueError: `path` is the folder of a run without beacons.
    """
    path = Path(path).expanduser()
    if (path / "beacons" / CONFIG_NAME).is_file():
        return path / "beacons"
    if (path / "config.yaml").is_file():
        allowed = "a finished run"
        with suppress(ValueError):
            allowed += f", or the checkpoint {find_checkpoint(path)}"
        raise ValueError(
            f"checkpoint={path} is the folder of an unfinished run, without beacons/{CONFIG_NAME}; allowed: {allowed}"
        )
    return path


def find_checkpoint(path: str | Path) -> Path:
    """Return the training checkpoint that `path` names: a file, or for the folder of a run its last checkpoint.

    That is `checkpoints/last.ckpt`, or the newest `step-*.ckpt` if the run ended early.

    Raises:
        ValueError: there is no such file, or no checkpoint in the folder.
    """
    path = Path(path).expanduser()
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    steps = sorted(folder.glob("step-*.ckpt"))
    found = next((file for file in (path, folder / "last.ckpt", *reversed(steps)) if file.is_file()), None)
    if found is None or found.suffix != TRAINING_SUFFIX:
        why = "has no checkpoint in it" if path.exists() else "does not exist"
        raise ValueError(f"resume={path} {why}; allowed: a checkpoint (.ckpt), or the folder of a run with checkpoints")
    return found


def how_to_continue(folder: Path) -> str:
    """Say how to continue the run of this process, which ends early."""
    try:
        checkpoint = find_checkpoint(folder)
    except ValueError:
        return f"stopped before the first checkpoint: {folder}"
    return f"stopped; to continue from {checkpoint.name}: {shlex.join(['python', 'train.py', f'resume={folder}'])}"


def subject(cfg: DictConfig, device: torch.device | None = None) -> tuple[BeaconLM, PreTrainedTokenizerBase]:
    """Load the model of `cfg.checkpoint`, or of `cfg.model` without a checkpoint, and its tokenizer.

    The tokenizer has the chat template that the beacons were trained with. `cfg.data.template` counts before it, with a
    warning.

    Args:
        cfg: with `checkpoint`, `backbone`, `allow_other_backbone` and `model`, and maybe `compile`; `model.path` is set
            to the path of the backbone.
        device: the device of the model; None: a GPU if there is one.

    Returns:
        The model and its tokenizer.

    Raises:
        ValueError: see `find_beacons` and `BeaconLM.from_pretrained`.
    """
    if cfg.checkpoint is None:
        check_backbone(cfg.model.path, "checkpoint")
        with naming("model.path"):
            lm, tokenizer = instantiate(cfg.model.backbone), instantiate(cfg.model.tokenizer)
    else:
        given = OmegaConf.masked_copy(cfg.model.backbone, [name for name in cfg.model.backbone if name not in FIXED])
        options = instantiate(given, _convert_="all")
        options |= {"backbone": cfg.backbone, "allow_other_backbone": cfg.allow_other_backbone}
        path = find_beacons(cfg.checkpoint)
        with naming("checkpoint"):
            lm = BeaconLM.from_pretrained(str(path), **options)
            tokenizer = trained_tokenizer(path, cfg.backbone)
        cfg.model.path = lm.config._name_or_path
    template = cfg.get("data", {}).get("template")
    if template is not None:  # as in training, questions are asked as the data is written
        chosen = with_template(tokenizer, template)
        if cfg.checkpoint is not None and chosen.chat_template != tokenizer.chat_template:
            log.warning(f"data.template={template} in place of the chat template of {cfg.checkpoint}")
        tokenizer = chosen
    check_tokenizer(tokenizer, lm)
    if cfg.get("compile", False):
        lm.compile_pointwise()
    return lm.to(device or ("cuda" if torch.cuda.is_available() else "cpu")), tokenizer


def check_tokenizer(tokenizer: Any, lm: BeaconLM) -> None:
    """Refuse a tokenizer with ids beyond the backbone's embedding, which would end a run at the first such token.

    Raises:
        ValueError: names the largest id.
    """
    largest, size = max(tokenizer.get_vocab().values()), lm.config.vocab_size
    if largest >= size:
        raise ValueError(
            f"model.tokenizer has the id {largest} ({tokenizer.convert_ids_to_tokens(largest)!r}), but the backbone's "
            f"embedding has {size} rows; allowed: the backbone's own tokenizer, or a backbone with a larger embedding"
        )


@contextmanager
def naming(setting: str) -> Iterator[None]:
    """Call the path of a model by the setting that gave it, in errors within the block."""
    try:
        yield
    except Exception as error:
        own = own_error(error)
        if isinstance(own, PathError) and own.setting == "path":
            own.setting = setting
        raise


def check_backbone(path: str, instead: str) -> None:
    """Refuse beacons alone as the backbone, whose own settings would be replaced by those of the command.

    Args:
        path: the setting `model.path`.
        instead: the setting of the command that takes beacons.

    Raises:
        ValueError: `path` holds beacons alone.
    """
    if holds_beacons_alone(path):
        why = f"holds beacons alone; allowed: {instead}={path}, and their backbone as model.path"
        raise PathError(path, why, "model.path")


def save_config(cfg: DictConfig, folder: Path) -> None:
    """Write the resolved config to `config.yaml` in `folder`, atomically; create the folder if necessary."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "config.yaml") as partial:
        OmegaConf.save(cfg, partial, resolve=True)


def link_latest(folder: Path) -> None:
    """Point the link outputs/latest to a run's folder outputs/DATE/TIME; do nothing for folders elsewhere.

    The link stays if it points to a run that started later.
    """
    root = folder.parent.parent
    link = root / "latest"
    if root.name != "outputs" or (link.exists() and not link.is_symlink()) or _started(link) > _started(folder):
        return
    temporary = root / f".latest-{secrets.token_hex(4)}"
    temporary.symlink_to(os.path.relpath(folder, root))
    temporary.replace(link)


def _started(folder: Path) -> float:
    """Return when the run in a folder started, in seconds since 1970; 0 if the folder has no record of a run."""
    file = folder / RECORD_FILE
    if not file.is_file():
        return 0.0
    return datetime.fromisoformat(json.loads(file.read_text())["started"]).timestamp()
