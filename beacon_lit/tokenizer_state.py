"""Save and restore what training decides about the tokenizer, so that a model is asked in the way it was trained.

A run's `beacons` folder holds the whole tokenizer. A training checkpoint (`.ckpt`) holds its state: the chat template,
the special tokens, and what stands before every text. The vocabulary is the backbone's.
"""

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from beacon_lit.arch.checkpoint import TRAINING_SUFFIX, load_tokenizer
from beacon_lit.data.encoding import start_ids

STATE = "tokenizer"  # the key of a training checkpoint
_SPECIAL = ("bos_token", "eos_token", "pad_token")
_FILE = "tokenizer_config.json"


def vocabulary_hash(tokenizer: Any) -> str:
    """Return a hash of a tokenizer's tokens and their ids."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()


def tokenizer_state(tokenizer: Any) -> dict[str, Any]:
    """Return the state of a tokenizer, as plain values."""
    return {
        "vocabulary": vocabulary_hash(tokenizer),
        "chat_template": tokenizer.chat_template,
        "start": start_ids(tokenizer),
        **{name: getattr(tokenizer, name) for name in _SPECIAL},
    }


def with_state(tokenizer: Any, state: dict[str, Any], source: str) -> Any:
    """Return a copy of a tokenizer with a saved state.

    Args:
        tokenizer: a fast tokenizer; stays unchanged.
        state: see `tokenizer_state`.
        source: where the state comes from, for messages.

    Raises:
        ValueError: the state belongs to a tokenizer with another vocabulary.
    """
    own = tokenizer_state(tokenizer)
    if own["vocabulary"] != state["vocabulary"]:
        raise ValueError(
            f"{source} was trained with another tokenizer than {tokenizer.name_or_path!r}; allowed: the run's beacons "
            "folder, which holds its tokenizer, or a backbone with the same vocabulary"
        )
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = state["chat_template"]
    for name in _SPECIAL:
        if own[name] != state[name]:
            setattr(changed, name, state[name])
    if own["start"] != state["start"]:
        tokens = tokenizer.convert_ids_to_tokens(state["start"])
        special = list(dict(zip(tokens, state["start"], strict=True)).items())
        single = [f"{token}:0" for token in tokens] + ["$A:0"]
        changed.backend_tokenizer.post_processor = processors.TemplateProcessing(single, special_tokens=special)
    return changed


def saved_state(path: str | Path) -> dict[str, Any] | None:
    """Return the tokenizer state that was saved with a model; None if there is none.

    Args:
        path: a training checkpoint, a folder or a hub id.
    """
    path = Path(path)
    if path.suffix == TRAINING_SUFFIX:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True).get(STATE)
    return tokenizer_state(AutoTokenizer.from_pretrained(path)) if (path / _FILE).is_file() else None


def trained_tokenizer(path: str | Path, backbone: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer that a model was trained with.

    Args:
        path: what `BeaconLM.from_pretrained` reads: a folder, a training checkpoint or a hub id.
        backbone: the model's backbone, whose tokenizer is used where none is saved; default: the one that `path` names.

    Raises:
        ValueError: see `load_tokenizer` and `with_state`.
    """
    tokenizer = load_tokenizer(path, backbone=backbone)
    state = saved_state(path) if Path(path).suffix == TRAINING_SUFFIX else None
    return tokenizer if state is None else with_state(tokenizer, state, str(path))
