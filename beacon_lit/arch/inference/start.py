"""Begin a sequence: the empty cache, and what the open window of a call holds."""

from dataclasses import fields

import torch

from beacon_lit.arch.cache import BeaconCache
from beacon_lit.arch.config import UNFINISHED
from beacon_lit.arch.core import BeaconModel
from beacon_lit.arch.inference.fingerprint import fingerprint
from beacon_lit.arch.nn.state import LayerState
from beacon_lit.arch.plan.state import RowState


def open_window_mode(lm: BeaconModel, unfinished: str | None, cache: BeaconCache | None) -> str:
    """Return the open-window mode of a call, "raw" or "beacons": what its open windows hold.

    Args:
        lm: the model.
        unfinished: as passed; None: the cache's, else "raw" in training mode, else the config's.
        cache: the cache that the call continues from.

    Raises:
        ValueError: an unknown open-window mode, or a cache whose open window has another one.
    """
    default = "raw" if lm.training else lm.beacon.unfinished
    unfinished = unfinished or (default if cache is None else cache.unfinished)
    if unfinished not in UNFINISHED:
        raise ValueError(f"unfinished={unfinished!r} is not allowed; allowed: {', '.join(UNFINISHED)}")
    if cache is not None and unfinished != cache.unfinished and cache.window_slots:
        raise ValueError(f"unfinished={unfinished!r} is not allowed; allowed: {cache.unfinished!r}, the cache's")
    return unfinished


def empty_cache(lm: BeaconModel, rows: int, capacity: int | None = None) -> BeaconCache:
    """Make a cache that has read nothing.

    Args:
        lm: the model.
        rows: number of rows.
        capacity: raw tokens of the first window; default: `window`.
    """
    weight = lm.model.embed_tokens.weight
    config, dtype, device = lm.config, weight.dtype, weight.device  # not `new_empty`, which a spread weight spreads
    groups, layers = lm.groups, lm.model.layers
    shapes = [(len(groups.members[group][layer]), layers[layer].self_attn.head_dim) for layer, group in groups.parts]
    none = {shape: torch.empty(0, *shape, dtype=dtype, device=device) for shape in shapes}
    return BeaconCache(
        rows=(RowState(lm.beacon.window if capacity is None else capacity),) * rows,
        layers=tuple(LayerState(*[none[shape]] * len(fields(LayerState))) for shape in shapes),
        hidden=torch.zeros(rows, config.hidden_size, dtype=dtype, device=device),
        unfinished=open_window_mode(lm, None, None),
        interleaved=lm.beacon.placing.inserts,
        selects=not lm.beacon.placing.runs,
        fingerprint=fingerprint(lm),
        groups=() if len(groups.kinds) == 1 and lm.beacon.head_budgets is None else tuple(g for _, g in groups.parts),
        reaches=tuple(kind.reach for kind in groups.kinds) if groups.reaches else (),
    )
