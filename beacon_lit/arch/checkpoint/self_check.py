"""Check with its weights that a backbone of an unlisted architecture computes what the plain model computes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from beacon_lit.arch.core import ATTENTION_CAP, FINAL_CAP, BeaconModel, plain_class
from beacon_lit.arch.plan.heads import HeadGroups
from beacon_lit.arch.plan.windows import Row, Window

_TOKENS, _WINDOWS = 48, 3
_LOW_CAP = 1.0
_TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}  # of the largest


def check_listed(model: BeaconModel, setting: str) -> None:
    """Raise a ValueError for a model of an unlisted architecture, as whole folders have no registered type for it.

    Args:
        model: the model.
        setting: what asks for a whole folder, for the message.
    """
    if not model.listed:
        raise ValueError(
            f"{setting} is not allowed: another process does not know the folder's type, "
            f"{model.config.model_type!r}, since the architecture is not listed; allowed: beacons alone"
        )


@torch.no_grad()
def check_itself(model: BeaconModel) -> None:
    """Compare one window, and windows that keep everything, with the plain model on random ids; takes seconds.

    Args:
        model: on one device.

    Raises:
        ValueError: hidden states or logits differ, or the model cannot be run; says which.
    """
    was, kind = model.training, model.config.model_type.removeprefix("beacon_")
    device = model.model.embed_tokens.weight.device
    ids = torch.randint(model.config.vocab_size, (_TOKENS,), generator=torch.Generator().manual_seed(0)).to(device)
    size = _TOKENS // _WINDOWS
    try:
        with _short_reach(model, size // 2):
            problem = _problem(model.eval(), ids, size)
            if problem is None and _caps(model):
                with _low_caps(model):
                    problem = _problem(model, ids, size)
        unrotated = [] if problem is None else _unrotated(model)
        if unrotated:
            problem = f"layers {', '.join(map(str, unrotated))} have no RoPE, others have"
    except (TypeError, AttributeError, RuntimeError, IndexError) as error:
        problem = f"its layers cannot be run on windows ({type(error).__name__}: {str(error).splitlines()[0]})"
    finally:
        model.train(was)
    if problem is not None:
        raise ValueError(f"model_type={kind!r} is not supported: {problem}")


@contextmanager
def _short_reach(model: BeaconModel, reach: int) -> Iterator[None]:
    """Within this context, shorten sliding windows to `reach`, so that a short text shows them."""
    groups, config = model.groups, model.config
    if not groups.reaches:
        yield
        return
    before, config.sliding_window = config.sliding_window, reach
    model.groups = HeadGroups.of(model.beacon, model.layer_kinds(config), config.num_key_value_heads)
    try:
        yield
    finally:
        model.groups, config.sliding_window = groups, before


def _caps(model: BeaconModel) -> dict[str, float]:
    """Return the caps that the model's config asks for."""
    found = {name: getattr(model.config, name, None) for name in (ATTENTION_CAP, FINAL_CAP)}
    return {name: cap for name, cap in found.items() if cap is not None}


@contextmanager
def _low_caps(model: BeaconModel) -> Iterator[None]:
    """Within this context, set caps to `_LOW_CAP`, so that few scores and logits stay as they are."""
    owners = [model.config, *(layer.self_attn for layer in model.model.layers)]
    before = [(owner, name, getattr(owner, name)) for owner in owners for name in _caps(model) if hasattr(owner, name)]
    try:
        for owner, name, _ in before:
            setattr(owner, name, _LOW_CAP)
        model.lm_head.scale = model.head_scale
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
        model.lm_head.scale = model.head_scale


def _unrotated(model: BeaconModel) -> list[int]:
    """Return the layers whose attention, as in the plain model, gives the same at other positions."""
    weight = model.model.embed_tokens.weight
    x, slots = torch.randn(1, 4, model.config.hidden_size).to(weight), torch.arange(4, device=weight.device)
    found = []
    for layer, group in dict(model.groups.parts).items():
        ropes = (model.rope(x, factor * slots, model.groups.kinds[group]) for factor in (1, 2))
        attention: Any = model.model.layers[layer].self_attn
        near, far = (
            attention(x, position_embeddings=(cos[None], sin[None]), attention_mask=None)[0] for cos, sin in ropes
        )
        if torch.equal(near, far):
            found.append(layer)
    return found


def _problem(model: BeaconModel, ids: Tensor, size: int) -> str | None:
    """Return what differs from the plain model, None if nothing does."""
    embedding = model.model.embed_tokens
    if not torch.equal(embedding(ids), model.scale_beacons(F.embedding(ids, embedding.weight))):
        return f"its embedding ({type(embedding).__name__}) does more than look vectors up and scale them"
    expected: Any = model.model(input_ids=ids[None], use_cache=False).last_hidden_state[0]
    logits: Any = plain_class(type(model)).forward(model, input_ids=ids[None], use_cache=False).logits[0]
    for what, sizes in (("one window", [len(ids)]), ("windows that keep everything", [size] * (len(ids) // size))):
        last = len(sizes) - 1
        row = Row(tuple(Window(length, ratio=0, beacons=0, closes=i < last) for i, length in enumerate(sizes)))
        hidden, _ = model.run(ids, model.layouts([row]))
        for name, ours, theirs in (("hidden states", hidden, expected), ("logits", model.logits(hidden), logits)):
            difference, scale = float((ours - theirs).abs().max()), float(theirs.abs().max())
            if not difference <= _TOLERANCES[theirs.dtype] * scale:
                return (
                    f"{what} of random tokens gave other {name} than the plain model ({difference:.1e} of {scale:.1e})"
                    + "".join(f", with {cap}={value}" for cap, value in _caps(model).items())
                )
    return None
