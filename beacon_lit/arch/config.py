"""The settings that define a beacon model besides its backbone."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from beacon_lit.arch.head_budgets import HeadBudgets, spread
from beacon_lit.arch.placements import Placement, find_placement, placement_names
from beacon_lit.arch.ratios import Limits, RatioPolicy, find_policy
from beacon_lit.checks import as_tuple, is_count

PROJECTIONS = ("q", "k", "v", "o")
MLP_PROJECTIONS = ("gate", "up", "down")
UNFINISHED = ("raw", "beacons")

# Names in the published checkpoints' config.json -> ours.
_PUBLISHED_POLICIES = {"step-random": "random", "instance-random": "random-per-sequence", "sequence": "cycle"}
_IN_PUBLISHED = "in the published layout (beacon-convert --to full keeps every setting)"
_PUBLISHED_PLACEMENTS = {
    ("interleave", "full-coverage"): "interleave",
    ("append", "full-coverage"): "append",
    ("append", "step-expansion"): "step-expansion",
}


@dataclass(frozen=True)
class BeaconConfig:
    """Settings of a beacon model (arXiv 2401.03462, section 3). Immutable; validated on construction (ValueError).

    Args:
        window: raw tokens per window (`w`).
        ratios: compression ratios `α`, each a divisor of `window`: one beacon per `α` raw tokens. An int means one.
        ratio_policy: how a window gets its ratio when a call passes none, see docs/beacons.md: "random" (drawn per
            window, among the ratios whose memory fits the sequence; the paper), "random-per-sequence", "cycle",
            "adapt-N", "budget-N" or "budget-NMiB".
        eval_ratio: ratio of all windows in eval mode, where the random policies never draw. Default: none.
        sink: number of first raw tokens of a sequence that stay in memory uncompressed. Llama backbones need a few.
        overlap: number of last raw tokens of a window that stay visible for one more window (0 = the paper).
        placement: where beacons stand and who sees whom, see docs/beacons.md: "interleave" (a beacon after every `α`
            tokens, trained before use; the paper), "select" (each KV head keeps raw tokens; works without training, and
            the default of the commands), and others.
        params: linear maps that only beacons go through: "q", "k", "v", "o" replaces the backbone's projection;
            "NAME:RANK" adds a low-rank map to one of these or to the MLP's "gate", "up", "down". Default: "q", "k", "v"
            where beacons are inserted, "k", "v" where they are selected.
        embed_init: "eos" or "bos", the token whose embedding the beacon embedding starts from.
        head_budgets: for each layer with memory, the share of each KV head in a window's beacons, 1.0 on average, for
            placements where beacons do not run. Heads of equal shares are computed together, so that few different
            values are fast. Default: all heads get the same.
        unfinished: what the last, still open window holds: "raw" (no beacons, so an input of up to one window equals
            the backbone bit for bit; always in training) or "beacons" (inserted as tokens come).
    """

    window: int = 2048
    ratios: tuple[int, ...] = (2, 4, 8)
    ratio_policy: str = "random"
    eval_ratio: int | str | None = None
    sink: int = 0
    overlap: int = 0
    placement: str = "interleave"
    params: tuple[str, ...] = None  # type: ignore[assignment]  # never None after `__post_init__`
    embed_init: str = "eos"
    unfinished: str = "raw"
    head_budgets: HeadBudgets | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratios", as_tuple(self.ratios))
        if self.head_budgets is not None:
            object.__setattr__(self, "head_budgets", tuple(tuple(map(float, row)) for row in self.head_budgets))
        _require(is_count(self.window, 1), "window", self.window, "an integer >= 1")
        _require(len(self.ratios) > 0, "ratios", self.ratios, "one ratio or more")
        for ratio in self.ratios:
            _require(is_count(ratio, 1), "ratios", ratio, "integers >= 1")
            _require(self.window % ratio == 0, "ratios", ratio, f"divisors of window={self.window}")
        _require(len(set(self.ratios)) == len(self.ratios), "ratios", self.ratios, "different ratios")
        find_policy(self.ratio_policy)
        if self.eval_ratio is not None:
            check_ratio(self.eval_ratio, self.window, "eval_ratio")
        _require(is_count(self.sink), "sink", self.sink, "an integer >= 0")
        _require(self.sink < self.window, "sink", self.sink, f"less than window={self.window}")
        _require(is_count(self.overlap), "overlap", self.overlap, "an integer >= 0")
        fits = self.sink + self.overlap <= self.window
        _require(fits, "overlap", self.overlap, f"at most window - sink = {self.window - self.sink}")
        placements = placement_names()
        _require(self.placement in placements, "placement", self.placement, f"one of {', '.join(placements)}")
        default = ("q", "k", "v") if self.placing.runs else ("k", "v")
        object.__setattr__(self, "params", default if self.params is None else as_tuple(self.params))
        names = [own.name for own in self.own_maps]
        for name in names if not self.placing.runs else ():
            allowed = (
                f"maps of k and v with placement={self.placement!r}, whose beacons do not run; "
                f"or inserted beacons, placement='interleave'"
            )
            _require(name in ("k", "v"), "params", name, allowed)
        _require(len(set(names)) == len(names), "params", self.params, "different projections")
        _require(self.embed_init in ("eos", "bos"), "embed_init", self.embed_init, "eos or bos")
        _require(self.unfinished in UNFINISHED, "unfinished", self.unfinished, f"one of {', '.join(UNFINISHED)}")
        if self.head_budgets is not None:
            self._check_head_budgets(self.head_budgets)

    def _check_head_budgets(self, budgets: HeadBudgets) -> None:
        runs = self.placing.runs
        _require(
            not runs, "head_budgets", "...", f"null with placement={self.placement!r}: its beacons run in all heads"
        )
        shares = [share for row in budgets for share in row]
        alike = len(shares) > 0 and len({len(row) for row in budgets}) == 1
        _require(alike, "head_budgets", budgets, "a row for each layer, with a share for each KV head")
        _require(min(shares) > 0, "head_budgets", min(shares), "shares above 0")
        mean = sum(shares) / len(shares)
        _require(abs(mean - 1) < 1e-3, "head_budgets", f"a mean of {mean:.4f}", "shares with a mean of 1")

    @property
    def group_shares(self) -> tuple[float, ...]:
        """The different shares among `head_budgets`, in ascending order; (1.0,) without head budgets."""
        if self.head_budgets is None:
            return (1.0,)
        return tuple(sorted({share for row in self.head_budgets for share in row}))

    def group_beacons(self, size: int, ratio: int) -> tuple[int, ...]:
        """Return how many beacons of a window each group of heads gets, for each of `group_shares`.

        Args:
            size: raw tokens of the window; no head gets more.
            ratio: raw tokens for each beacon, on average over all heads.
        """
        return spread(self.head_budgets, size, size // ratio)

    @property
    def own_maps(self) -> tuple["OwnMap", ...]:
        """The maps that `params` names."""
        return tuple(map(OwnMap.parse, self.params))

    @property
    def placing(self) -> Placement:
        """The placement that `placement` names."""
        return find_placement(self.placement)

    @property
    def policy(self) -> RatioPolicy:
        """The policy that `ratio_policy` names."""
        return find_policy(self.ratio_policy)

    def limits(self, positions: int, slot_bytes: int = 0) -> Limits:
        """Return the limits of the ratios on a backbone.

        Args:
            positions: position slots of the backbone.
            slot_bytes: bytes of the keys and values of one slot, all layers with memory.
        """
        return Limits(
            self.window, self.ratios, self.sink, self.overlap, positions, slot_bytes, head_budgets=self.head_budgets
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict, which `from_dict` reads."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "BeaconConfig":
        """Read what `to_dict` returned.

        Args:
            values: the settings; without `placement`, inserted beacons: the only ones when there was no such setting.

        Raises:
            ValueError: unknown settings, or values that are not allowed.
        """
        known = {field.name for field in fields(cls)}
        for name in values:
            _require(name in known, "beacon setting", name, f"one of {', '.join(sorted(known))}")
        return cls(**{"placement": "interleave", **values})

    @classmethod
    def from_published(cls, values: Mapping[str, Any]) -> "BeaconConfig":
        """Read the `beacon_*` fields of a published checkpoint's config.json (names of the paper's code)."""
        window = values.get("beacon_window", 1024)
        stride = values.get("beacon_stride", window)
        _require(stride == window, "beacon_stride", stride, f"beacon_window={window}")
        rule = (values.get("beacon_pos", "interleave"), values.get("beacon_attn", "full-coverage"))
        allowed = "; ".join(f"{position} with {attention}" for position, attention in _PUBLISHED_PLACEMENTS)
        _require(rule in _PUBLISHED_PLACEMENTS, "beacon_pos, beacon_attn", rule, allowed)
        _require(values.get("beacon_attend_prev", True), "beacon_attend_prev", False, "true")
        ratios = as_tuple(values.get("beacon_ratio", [2, 4, 8, 16, 32]))
        policy = values.get("beacon_ratio_mix", "step-random")
        return cls(
            window=window,
            ratios=tuple(ratio for ratio in ratios if ratio > 0),
            ratio_policy=_PUBLISHED_POLICIES.get(policy, policy),
            sink=values.get("beacon_sink_size", 0),
            placement=_PUBLISHED_PLACEMENTS[rule],
            params=tuple(values.get("beacon_param") or ()),
            embed_init=values.get("beacon_embed_init") or "eos",
        )

    def to_published(self) -> dict[str, Any]:
        """Return the `beacon_*` fields of a published checkpoint's config.json, which `from_published` reads.

        Raises:
            ValueError: the paper's code has no field for a setting (`overlap`, `eval_ratio`, `unfinished="beacons"`).
        """
        rules = {placement: rule for rule, placement in _PUBLISHED_PLACEMENTS.items()}
        _require(self.placement in rules, "placement", self.placement, f"one of {', '.join(rules)} {_IN_PUBLISHED}")
        whole = all(own.rank is None for own in self.own_maps)
        _require(whole, "params", self.params, f"q, k, v, o without a rank {_IN_PUBLISHED}")
        policies = {ours: theirs for theirs, ours in _PUBLISHED_POLICIES.items()}
        position, attention = rules[self.placement]
        published = {
            "beacon_window": self.window,
            "beacon_stride": self.window,
            "beacon_ratio": list(self.ratios),
            "beacon_ratio_mix": policies.get(self.ratio_policy, self.ratio_policy),
            "beacon_sink_size": self.sink,
            "beacon_pos": position,
            "beacon_attn": attention,
            "beacon_attend_prev": True,
            "beacon_parallel_window": 1,
            "beacon_param": [own.name for own in self.own_maps],
            "beacon_embed_init": self.embed_init,
        }
        readable = BeaconConfig.from_published(published)
        for name in (field.name for field in fields(self)):
            own, kept = getattr(self, name), getattr(readable, name)
            _require(own == kept, name, own, f"{kept!r} {_IN_PUBLISHED}")
        return published


@dataclass(frozen=True)
class OwnMap:
    """A linear map that only beacons go through (an "own map").

    Attributes:
        name: the backbone's projection, "q" for `q_proj`.
        rank: rank of a map that is added to the projection; None for a map that replaces it.
    """

    name: str
    rank: int | None = None

    @classmethod
    def parse(cls, text: object) -> "OwnMap":
        """Read a text such as "q" or "down:16", else raise a ValueError."""
        found = re.fullmatch(r"(\w+)(?::(\d+))?", text) if isinstance(text, str) else None
        own = None if found is None else cls(found[1], None if found[2] is None else int(found[2]))
        known = (
            own is not None
            and own.name in (PROJECTIONS if own.rank is None else (*PROJECTIONS, *MLP_PROJECTIONS))
            and own.rank != 0
        )
        ranked = ", ".join((*PROJECTIONS, *MLP_PROJECTIONS))
        allowed = f"projections among {', '.join(PROJECTIONS)}, or NAME:RANK with {ranked}"
        _require(known, "params", text, allowed)
        assert own is not None
        return own


def check_ratio(ratio: object, window: int, name: str = "ratios") -> None:
    """Raise a ValueError unless `ratio` is 0 (keep the window raw), "drop" or a divisor of `window`."""
    allowed = f'"drop", 0 (keep the window raw), or a divisor of window={window}'
    _require(ratio == "drop" or is_count(ratio), name, ratio, allowed)
    if isinstance(ratio, int) and ratio > 0:
        _require(window % ratio == 0, name, ratio, allowed)


def _require(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{name}={value!r} is not allowed; allowed: {allowed}")
