"""A pool is a bounded random part of its haystack, which is read once."""

import re
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from beacon_lit.data.records import MalformedRecord
from beacon_lit.data.retrieval import made_up
from beacon_lit.data.retrieval.haystack import made_up_pool, read_pool, shared_pool
from tests.data.retrieval.making import Texts, prose, run
from tests.evaluation import fakes


@dataclass(frozen=True)
class Counted(Texts):
    """Texts that note when they are read."""

    reads: list = field(default_factory=list)

    def documents(self, tokenizer) -> Iterator:
        self.reads.append(tokenizer)
        yield from self.records


def test_the_pool_is_a_bounded_random_part_of_the_haystack(tokenizer):
    documents = [{"id": str(i), "text": f"<{i:05d}>" * 100} for i in range(20_000)]  # 14 MB
    tracemalloc.start()
    pool, bad = run(read_pool(Texts(tuple(documents)), tokenizer, seed=0, characters=70_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    kept = sorted({int(number) for number in re.findall(r"\d{5}", tokenizer.decode(pool.ids))})
    assert not bad and len(kept) == 100 and len(pool) == 100 * 702
    assert kept[0] < 2000 and kept[-1] > 18_000 and 7000 < np.mean(kept) < 13_000  # from all over the file
    assert peak < 8_000_000
    long = Texts(({"id": "0", "text": "word " * 50_000},))
    assert 900 < len(run(read_pool(long, tokenizer, 0, characters=16_000))[0]) <= 1002


def test_sources_of_one_haystack_read_it_once(tokenizer):
    bad = MalformedRecord("invalid_json", "a.jsonl, line 3", "no JSON")
    haystack = Counted((bad, *prose(7).records), reads=[])
    first, *again = [run(shared_pool(haystack, tokenizer, seed=0)) for _ in range(3)]
    assert len(haystack.reads) == 1 and all(pool is first[0] and found == [bad] for pool, found in again)
    alone = run(read_pool(haystack, tokenizer, seed=0))
    assert (alone[0].ids == first[0].ids).all() and alone[1] == first[1] == [bad]
    haystack.reads.clear()
    other = fakes.byte_tokenizer()
    for source, of, seed in [(haystack, tokenizer, 1), (haystack, other, 0), (replace(haystack, records=()), other, 0)]:
        pool, _ = run(shared_pool(source, of, seed))
        assert pool is not first[0]
    assert len(haystack.reads) == 3
    run(shared_pool(haystack, tokenizer, seed=0))
    assert len(haystack.reads) == 4  # two pools are kept, no more


def test_a_haystack_that_is_read_in_part_is_read_again(tokenizer):
    bad = MalformedRecord("invalid_json", "a.jsonl, line 3", "no JSON")
    haystack = Counted((bad, *prose(8).records), reads=[])
    assert next(shared_pool(haystack, tokenizer, seed=0)) == bad
    pool, found = run(shared_pool(haystack, tokenizer, seed=0))
    assert len(pool) and found == [bad] and len(haystack.reads) == 2


def test_the_pool_is_a_ring(tokenizer):
    pool = made_up_pool(made_up.sentence, tokenizer, seed=0, tokens=500)
    assert len(pool) >= 500 and pool.cut(len(pool) - 2, 4) == [*pool.ids[-2:].tolist(), *pool.ids[:2].tolist()]
