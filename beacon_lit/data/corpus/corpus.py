"""Settings of a corpus: its sources, and the pieces that they provide."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from beacon_lit.data.checks import check_int
from beacon_lit.data.corpus.amounts import allot, parse_amounts, parse_mixture
from beacon_lit.data.records import Source, Tolerance
from beacon_lit.data.tokenize import tokenizer_key

SHORTAGE = ("error", "warn")


@dataclass(frozen=True)
class Corpus:
    """Settings of a corpus.

    The documents of a source are put one behind the other and cut into pieces; no piece has text of two sources.

    Args:
        sources: by name, which becomes part of the shards' names; documents must be text, or tokens that are all
            trained.
        amounts: tokens by length of the pieces, such as "8192:500M 20480:500M"; rounded up to whole pieces.
        mixture: share of each source in per cent, exact to less than one piece for every length; None = equal shares.
        bos, eos: whether every document begins and ends with the tokenizer's token of this name.
        shard_tokens: most tokens of a shard, unless a single piece has more.
        shortage: what a source with too little text is: "error" (after all its text was written) or "warn".
        seed: of the order of the lengths.
        tolerance: how many malformed records are skipped.

    Raises:
        ValueError: a setting is out of range.
    """

    sources: Mapping[str, Source]
    amounts: str
    mixture: Mapping[str, float] | None = None
    bos: bool = False
    eos: bool = True
    shard_tokens: int = 2**24
    shortage: str = "error"
    seed: int = 0
    tolerance: Tolerance = field(default_factory=Tolerance)

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources is empty; it must name at least one source")
        if wrong := [name for name in self.sources if not re.fullmatch(r"\w[\w.-]*", str(name))]:
            raise ValueError(f"sources: {wrong[0]!r} must be a name of letters, digits, dots, dashes and underscores")
        for name, source in self.sources.items():
            for setting, instead in (("limit", "amounts"), ("weight", "mixture")):
                if (value := getattr(source, setting)) is not None:
                    raise ValueError(
                        f"sources.{name}: {setting}={value} must be null in a corpus; set {instead} instead"
                    )
        if self.shortage not in SHORTAGE:
            raise ValueError(f"shortage={self.shortage!r} must be one of {', '.join(SHORTAGE)}")
        check_int("shard_tokens", self.shard_tokens, 1)
        check_int("seed", self.seed, 0)
        self.needed()

    def needed(self) -> dict[str, dict[int, int]]:
        """Return the number of pieces by source and length."""
        return allot(parse_amounts(self.amounts), parse_mixture(list(self.sources), self.mixture))

    @property
    def tokens(self) -> int:
        """Tokens of all pieces."""
        return sum(length * count for pieces in self.needed().values() for length, count in pieces.items())

    def settings(self, tokenizer: Any) -> dict[str, Any]:
        """Return all that the shards depend on, JSON-able."""
        names = ("amounts", "mixture", "bos", "eos", "shard_tokens", "seed")
        settings = {name: getattr(self, name) for name in names}
        settings["mixture"] = None if self.mixture is None else dict(self.mixture)
        settings |= {f"sources.{name}": source.key() for name, source in self.sources.items()}
        settings["tokenizer"] = tokenizer_key(tokenizer)
        return json.loads(json.dumps(settings))
