"""Blocks have the shares that the weights ask for, and lose no sample."""

from collections import Counter
from itertools import islice
from typing import Any

import numpy as np
import pytest

from beacon_lit.data.records import Tolerance
from beacon_lit.data.stream.blocks import StreamMixture
from beacon_lit.data.stream.reader import RecordPosition
from tests.data.stream.numbered import RULE, TOKENIZER, Numbered, mixture, share


def test_weights_are_shares_of_the_samples() -> None:
    weights = {"a": 3.0, "b": 1.0, "c": 2.0}
    some = mixture(*(Numbered(name, (size, 9), weight=weights[name]) for name, size in (("a", 80), ("b", 5), ("c", 9))))
    seen = Counter[str]()
    for _, block in islice(some.blocks(0, 1, some.start), 12):
        seen.update(sample.id[0] for sample in block.samples)
        assert all(abs(seen[name] - seen.total() * weight / 6) < 3 for name, weight in weights.items())


def test_a_block_is_packed_and_shuffled_and_none_of_it_is_lost() -> None:
    some = mixture(Numbered("a", (50,)), size=30)
    drawn = [sample.id for sample, _ in islice(share(Numbered("a", (50,))).samples(RecordPosition()), 60)]
    for number, (_, block) in enumerate(islice(some.blocks(0, 1, some.start), 2)):
        batches = [[block.samples[i] for i in batch] for batch in block.batches]
        assert all(sum(map(len, batch)) <= 100 for batch in batches) and len(batches) < 25
        trained = [sample.id for batch in batches for sample in batch]
        assert sorted(trained) == sorted(drawn[30 * number : 30 * number + 30]) and trained != sorted(trained)


@pytest.mark.parametrize(
    ("sources", "settings", "message"),
    [
        ([Numbered("a", (3,)), Numbered("b", (3,))], {}, "weight=null of 'a' must be a number"),
        ([Numbered("a", (3,), limit=5)], {}, "limit=5 of 'a' must be null in a stream"),
        ([Numbered("a", (3,))], {"size": 0}, "stream=0 must be an integer, at least 1"),
        ([Numbered("a", (3,))], {"size": True}, "stream=True must be an integer"),
    ],
)
def test_what_cannot_be_streamed(sources: list[Numbered], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StreamMixture(sources, None, TOKENIZER, RULE, Tolerance(), **{"size": 5, "max_tokens": 100, **settings})


def test_statistics_of_a_block() -> None:
    some = mixture(Numbered("a", (40,), weight=3.0), Numbered("b", (5,), bad=("b0.0",), weight=1.0), size=20)
    _, block = next(some.blocks(0, 1, some.start, log_malformed=False))
    a, b, everything = block.statistics(["a", "b"])
    assert (a.source, a.samples, b.samples, everything.samples) == ("a (first 20 samples of the stream)", 15, 5, 20)
    assert b.left_out["bad"] >= 1 and everything.tokens == sum(len(sample) for sample in block.samples)
    assert np.isclose(a.share + b.share, 1)
