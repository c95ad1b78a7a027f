"""Samples have exact lengths and depend on nothing but the seed."""

import random
import re
from dataclasses import replace

import numpy as np
import pytest

from beacon_lit.data.retrieval.drafts import KINDS
from beacon_lit.data.sources.synthetic import SyntheticSource
from tests.data.retrieval.making import LENGTHS, Texts, prose, runs, samples


@pytest.mark.parametrize("kind", KINDS)
def test_statements_are_where_the_sample_says(tokenizer, kind):
    one, several = SyntheticSource(kind, 10, LENGTHS), SyntheticSource(kind, 5, (4000, 4500), questions=3)
    for sample in [*samples(one, tokenizer), *samples(several, tokenizer)]:
        first, last = sample.document
        for statement, position, depth in zip(sample.draft.statements, sample.positions, sample.depths, strict=True):
            size = len(tokenizer(statement)["input_ids"])
            assert tokenizer.decode(sample.ids[position : position + size]) == statement
            assert depth == pytest.approx(100 * (position - first) / (last - first - size))
        assert not sample.draft.at_start or sample.positions == (first,)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_has_as_many_questions_as_fit(tokenizer, kind):
    haystack = prose(1, 200)
    with pytest.raises(ValueError, match=r"needs at least \d+ tokens .* and questions=2, so") as error:
        next(SyntheticSource(kind, 1, (20, 30), haystack=haystack, questions=(2, 9)).documents(tokenizer))
    least = int(re.search(r"at least (\d+)", str(error.value))[1])
    short = SyntheticSource(kind, 8, (least, least), haystack=haystack, questions=(2, 9))
    counts = [len(runs(document["answer"])) for document in short.documents(tokenizer)]
    assert min(counts) >= 2 and np.mean(counts) < 4.5
    long = replace(short, lengths=(8000, 8000), count=20)
    counts = [len(runs(document["answer"])) for document in long.documents(tokenizer)]
    assert counts == [random.Random(f"{kind}/0/{i}/questions").randint(2, 9) for i in range(20)]


def test_depths_and_lengths_are_uniform(tokenizer):
    found = samples(SyntheticSource("passkey", 600, (300, 555)), tokenizer)
    lengths = np.array([len(sample.ids) for sample in found])
    assert lengths.min() >= 300 and lengths.max() <= 555 and {300, 555} <= set(lengths.tolist())
    modulo = np.bincount(lengths % 32, minlength=32)  # the range is 8 times 32: 18.75 each
    assert modulo.min() > 3 and ((modulo - 18.75) ** 2 / 18.75).sum() < 62  # chi-squared, 31 degrees: p = 0.001
    depths = np.array([sample.depths[0] for sample in samples(SyntheticSource("passkey", 300, (900, 1500)), tokenizer)])
    quarters = np.histogram(depths, bins=4, range=(0, 100))[0]
    assert ((quarters - 75) ** 2 / 75).sum() < 16.3  # 3 degrees: p = 0.001


def test_nothing_depends_on_anything_but_the_seed_and_the_number(tokenizer):
    source = SyntheticSource("needle", 12, LENGTHS, seed=5, haystack=prose(2))
    before = random.getstate(), np.random.get_state()[1].tolist()
    first, again = list(source.documents(tokenizer)), list(source.documents(tokenizer))
    fewer = list(replace(source, count=4).documents(tokenizer))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    for a, b in [*zip(first, again, strict=True), *zip(first[:4], fewer, strict=True)]:
        assert a["id"] == b["id"] and all((a[k] == b[k]).all() for k in ("input_ids", "trained", "answer"))


@pytest.mark.parametrize("kind", KINDS)
def test_other_seeds_make_other_samples(tokenizer, kind):
    seen = set()
    for seed in range(4):
        documents = SyntheticSource(kind, 15, (1300, 1300), seed=seed).documents(tokenizer)
        seen |= {document["input_ids"].tobytes() for document in documents}
    assert len(seen) == 60


def test_a_haystack_that_says_it_already_is_avoided(tokenizer):
    line = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen. " * 200
    source = SyntheticSource("copy", 12, LENGTHS, haystack=Texts(({"id": "0", "text": line},)))
    for sample in samples(source, tokenizer):  # its words are everywhere, so only passages with a label can be told
        assert re.search(r"\w+-\w+", sample.draft.exchanges[0].question)
    wordless = Texts(({"id": "0", "text": "x" * 5000},))
    with pytest.raises(ValueError, match=r"copy in texts, sample 0: no sample of \d+ tokens .* has too few words"):
        list(replace(source, haystack=wordless).documents(tokenizer))
