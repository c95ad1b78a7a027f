"""What is kept of earlier prompts, and what is found again."""

from pathlib import Path

import torch

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.chat.reading import Mark, Reading
from beacon_lit.chat.tokenizing import TokenizedText, tokenize
from beacon_lit.serving.documents import Documents
from beacon_lit.serving.metrics import Metrics
from beacon_lit.serving.prefixes import Prefixes, thinned
from beacon_lit.serving.service import Service
from beacon_lit.tiny import byte_tokenizer
from tests.arch.tiny import tiny, tokens

MANY = 2**40


def model(seed: int = 0) -> BeaconLM:
    beacon = BeaconConfig(window=16, ratios=4, sink=2, overlap=3, placement="interleave")
    return tiny("llama", beacon, seed=seed, vocab_size=258, max_position_embeddings=4096).eval()


LM, TOKENIZER = model(), byte_tokenizer()


def read(ids: list[int], *places: int) -> Reading:
    """A reading with marks at these places."""
    reading = Reading()
    for place in places:
        cache = LM.compress(torch.tensor([ids[len(reading.ids) : place]]), cache=reading.cache)
        reading = reading.marked(ids[:place], cache)
    return reading


def numbers(length: int, seed: int = 0) -> list[int]:
    return tokens(1, length, seed=seed)[0].tolist()


def test_the_longest_beginning_is_found() -> None:
    prefixes, ids = Prefixes(MANY), numbers(100)
    prefixes.add(TokenizedText(), read(ids, 20))
    prefixes.add(TokenizedText(), read(ids, 60))
    prefixes.add(TokenizedText(), read(numbers(90, 1), 90))
    found, shared = prefixes.find(ids)
    assert (found.ids, shared) == (ids[:60], 60) and found.cache is not None and found.cache.seen_tokens == 60
    found, shared = prefixes.find([*ids[:58], *numbers(30, 2)])  # back within the open window
    assert (len(found.ids), shared) == (58, 58)
    found, shared = prefixes.find([*ids[:40], *numbers(30, 2)])  # only the number is known
    assert (len(found.ids), shared) == (20, 40)
    assert prefixes.find(numbers(30, 3)) == (prefixes.find([])[0], 0) or not prefixes.find(numbers(30, 3))[0].ids


def test_a_reading_replaces_what_it_continues() -> None:
    prefixes, ids = Prefixes(MANY), numbers(100)
    first = read(ids, 30)
    prefixes.add(TokenizedText(), first)
    cache = LM.compress(torch.tensor([ids[30:70]]), cache=first.cache)
    prefixes.add(TokenizedText(), first.marked(ids[:70], cache))
    assert len(prefixes) == 1 and len(prefixes.find(ids[:35])[0].ids) == 30
    prefixes.add(TokenizedText(), Reading())
    assert len(prefixes) == 1


def test_memory_that_caches_share_counts_once_and_is_bounded() -> None:
    ids = numbers(200)
    whole = read(ids, 200)
    assert whole.cache is not None
    one = Prefixes(MANY)
    one.add(TokenizedText(), whole)
    size = one.nbytes
    assert size >= whole.cache.nbytes
    forked = whole.marked(ids, whole.cache.fork())
    one.add(TokenizedText(), forked)
    assert one.nbytes == size
    limited = Prefixes(int(2.5 * size))
    for seed in range(5):
        limited.add(TokenizedText(), read(numbers(200, seed), 200))
        limited.find(numbers(200, 0))  # stays, since it is used
        assert limited.nbytes <= limited.limit
    assert len(limited) == 2 and len(limited.find(numbers(200, 0))[0].ids) == 200
    assert not limited.find(numbers(200, 1))[0].ids
    limited.clear()
    assert len(limited) == limited.nbytes == 0


def test_bytes_are_those_of_all_that_is_kept() -> None:
    """After every change: readings that continue others, that share memory with others, and that made room."""
    prefixes, known = Prefixes(2 * read(numbers(150), 150).cache.nbytes), []  # type: ignore[union-attr]
    for seed in range(12):
        ids = numbers(150, seed % 5)
        known.append(read(ids, 40 + 5 * seed))
        if seed % 3 == 2:
            cache = known[-2].cache
            known.append(known[-2].marked(known[-2].ids, cache.fork()))
        for reading in known[-2:]:
            prefixes.add(TokenizedText(), reading)
            tensors = (x for entry in prefixes for mark in entry.reading.marks for x in mark.cache.tensors)
            blocks = {block.data_ptr(): block.nbytes() for block in (x.untyped_storage() for x in tensors)}
            assert prefixes.nbytes == sum(blocks.values()) <= prefixes.limit
    assert 1 < len(prefixes) < len(known)


def test_boundaries_outlive_other_places() -> None:
    ids = numbers(100)
    reading = read(ids, 10, 20, 30, 40, 50, 60)
    marks = tuple(Mark(mark.tokens, mark.cache, mark.tokens in (10, 20)) for mark in reading.marks)
    kept = thinned(Reading(reading.ids, marks))
    assert [mark.tokens for mark in kept.marks] == [10, 20, 50, 60] and kept.ids == ids[:60]


def test_saved_prefixes_are_loaded_once(tmp_path: Path) -> None:
    own, text = TOKENIZER, "The quick brown fox. " * 30
    tokenized = tokenize(text, own)
    prefixes = Prefixes(MANY)
    prefixes.add(tokenized, read(tokenized.ids, 300, 500))
    prefixes.save(tmp_path / "kept", own)
    other = Prefixes(MANY)
    other.load(tmp_path / "kept", LM, own)
    assert len(other.find(tokenized.ids)[0].ids) == 500 and not (tmp_path / "kept").exists()
    assert other.tokenize(text, own) == tokenized
    prefixes.save(tmp_path / "kept", own)
    other.clear()
    other.load(tmp_path / "kept", model(seed=7), own)
    assert len(other) == 0 and not (tmp_path / "kept").exists()


def test_a_job_waits_while_another_reads_the_same(tmp_path: Path) -> None:
    service = Service(
        LM,
        TOKENIZER,
        None,
        "tiny",
        Documents(tmp_path / "files", MANY),
        Prefixes(MANY),
        Metrics(),
        tmp_path,
        4,  # type: ignore[arg-type]
    )
    ids, calls = numbers(900), []

    def job(ids: list[int]) -> list[int]:
        reading, _ = yield from service.known(ids)
        calls.append(len(reading.ids))
        yield from service.read(reading, TokenizedText(), ids, boundary=False)

    jobs = [job(ids), job(ids), job(numbers(400, 5))]
    rounds = 0
    while jobs:
        jobs = [one for one in jobs if next(one, None) is not None]
        rounds += 1
    assert calls == [0, 0, 900] and rounds < 30  # the third did not wait, the second has nothing left to read
