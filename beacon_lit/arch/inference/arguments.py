"""Refuse arguments of Hugging Face's models that a beacon model cannot honour, rather than ignore them."""

from collections.abc import Mapping
from typing import Any

from beacon_lit.arch.cache import BeaconCache
from beacon_lit.arch.inference.cache_names import NAMES
from beacon_lit.arch.inference.decode import Decoding

_SLOTS = "every token's slot follows from windows and memory; allowed: attention_mask for padding, cache for more text"
_GOING_BACK = "a cache with memory cannot take tokens back; allowed: greedy search, sampling, beam search"
_FORWARD = {
    "inputs_embeds": "a cache keeps the ids of its open window, to read them again; allowed: input_ids",
    "position_ids": _SLOTS,
    "cache_position": _SLOTS,
    "output_attentions": "windows attend in one call without a matrix of weights; allowed: observe=Observe(...)",
    "output_hidden_states": "all layers at once are rarely wanted; allowed: observe=Observe(...), which names layers",
}
_GENERATE = {
    "inputs_embeds": _FORWARD["inputs_embeds"],
    "assistant_model": _GOING_BACK,
    "prompt_lookup_num_tokens": _GOING_BACK,
}
_WITHOUT_MEANING = ("token_type_ids",)  # some tokenizers return them; causal models do not use them


def check_forward(input_ids: Any, cache: Any, others: Mapping[str, Any]) -> None:
    """Check what `forward` was given besides its own arguments; a value that switches something off is fine.

    Raises:
        ValueError: no token ids, a cache of another kind, or an argument that cannot be honoured.
        TypeError: an unknown argument.
    """
    for name, value in others.items():
        if value is None or value is False or name in _WITHOUT_MEANING:
            continue
        if name not in _FORWARD:
            raise TypeError(f"forward has no argument {name!r}")
        raise ValueError(f"{name} is not allowed: {_FORWARD[name]}")
    if input_ids is None:
        raise ValueError("input_ids=None is not allowed; allowed: (B, L) token ids")
    check_kind(cache)


def check_generate(options: Mapping[str, Any]) -> None:
    """Raise a ValueError for an option of `generate` that cannot be honoured."""
    for name, why in _GENERATE.items():
        if options.get(name) is not None:
            raise ValueError(f"{name} is not allowed: {why}")
    for name in NAMES:
        check_kind(options.get(name))


def check_kind(cache: Any) -> None:
    """Raise a ValueError if a cache is of another kind, such as Hugging Face's."""
    if cache is not None and not isinstance(cache, BeaconCache | Decoding):
        raise ValueError(
            f"past_key_values={type(cache).__name__} is not allowed: it has no memory of beacons; allowed: a "
            f"BeaconCache, from lm.compress(...) or forward(use_cache=True). lm.dense(...) takes Hugging Face's caches"
        )
