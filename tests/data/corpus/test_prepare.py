"""A corpus is exact, the same whichever way it was made, and whole however often its making was killed."""

import hashlib
import json
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pytest

from beacon_lit.data.corpus.prepare import prepare_corpus
from beacon_lit.data.corpus.report import report
from beacon_lit.data.corpus.shards import find_shard
from beacon_lit.data.corpus.token_stream import length_bin
from beacon_lit.data.records import Tolerance
from beacon_lit.tiny import byte_tokenizer
from tests.configs import ROOT
from tests.data.corpus.corpora import BAD, Texts, corpus
from tests.data.elsewhere import all_elsewhere
from tests.killed import half_written
from tests.warm import warm_python

INTERRUPTED = ["-m", "tests.data.corpus.interrupted"]


def make(folder: Path, workers: int = 1, **changes) -> dict:
    return prepare_corpus(corpus(**changes), byte_tokenizer(), folder, workers)


def files(folder: Path) -> dict[str, str]:
    """Checksum by path."""
    found = (file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != ".lock")
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in found}


def rows(folder: Path, manifest: dict) -> list[dict]:
    return [row for shard in manifest["shards"] for row in datasets.load_from_disk(folder / "shards" / shard["name"])]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, make(folder)


def test_amounts_and_shares_are_exact(whole):
    folder, manifest = whole
    found = rows(folder, manifest)
    counts = Counter(row["length"] for row in found)
    assert counts == {64: 313, 100: 300}  # the fewest that hold 20,000 and 30,000 tokens
    for row in found:
        assert len(row["input_ids"]) == row["length"]
    for length in counts:
        of_a = sum(row["source"] == "a" for row in found if row["length"] == length)
        assert abs(of_a - 0.3 * counts[length]) < 1
    assert manifest["complete"] and all(not source["missing_tokens"] for source in manifest["sources"].values())


def test_pieces_are_the_documents_one_behind_the_other(whole):
    folder, manifest = whole
    eos = byte_tokenizer().eos_token_id
    letters = {name: byte_tokenizer()(name)["input_ids"][0] for name in "ab"}
    for name, letter in letters.items():
        stream = [token for row in rows(folder, manifest) if row["source"] == name for token in row["input_ids"]]
        documents = [d["text"] for d in Texts(name, 800 if name == "b" else 400).documents(None) if d is not BAD]
        expected = [token for text in documents for token in [letter] * len(text) + [eos]]
        summary = manifest["sources"][name]
        assert stream == expected[: len(stream)] and summary["tokens"] == len(stream)
        used = summary["documents"]
        assert sum(len(text) + 1 for text in documents[:used]) == len(stream) + summary["left_over_tokens"]
        assert sum(len(text) + 1 for text in documents[: used - 1]) < len(stream)
        assert summary["bad_records"] == {"invalid_json": used // 50}
        bins = Counter(str(length_bin(len(text) + 1)) for text in documents[:used])
        assert summary["document_lengths"] == bins


def test_lengths_are_mixed_within_a_source(whole):
    folder, manifest = whole
    lengths = [row["length"] for row in rows(folder, manifest) if row["source"] == "b"]
    for part in np.array_split(lengths, 4):
        assert 0.3 < np.mean(part == 64) < 0.7
    assert lengths != sorted(lengths)


def test_shards_are_what_datasets_reads_and_what_the_manifest_says(whole):
    folder, manifest = whole
    for shard in manifest["shards"]:
        data = datasets.load_from_disk(folder / "shards" / shard["name"])
        assert data.features["input_ids"].feature.dtype == data.features["length"].dtype == "int32"
        assert data.column_names == ["input_ids", "length", "source"]
        assert sum(data["length"]) == shard["tokens"] <= 2500
        for name, checksum in shard["files"].items():
            content = (folder / "shards" / shard["name"] / name).read_bytes()
            assert hashlib.sha256(content).hexdigest() == checksum
    assert len(manifest["shards"]) > 15
    assert json.loads((folder / "manifest.json").read_text()) == manifest


def test_two_workers_write_the_same_files(whole, tmp_path, monkeypatch):
    all_elsewhere(monkeypatch)
    assert make(tmp_path, workers=2) == whole[1]
    assert files(tmp_path) == files(whole[0])


def test_another_seed_mixes_otherwise(whole, tmp_path):
    assert make(tmp_path, seed=2)["sources"]["b"]["pieces"] == whole[1]["sources"]["b"]["pieces"]
    assert files(tmp_path) != files(whole[0])


def test_killed_at_random_moments_it_ends_with_the_same_files(whole, tmp_path):
    done = subprocess.run(
        [warm_python(), *INTERRUPTED, "forks", tmp_path], cwd=ROOT, capture_output=True, text=True, check=True
    )
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["status"] == 0 and counts["kills"] >= 3 and counts["in_the_works"] >= 1, counts
    assert files(tmp_path) == files(whole[0])


def test_killed_before_the_manifest_is_in_place_it_ends_with_the_same_files(whole, tmp_path):
    make(tmp_path)
    half_written(tmp_path / "manifest.json")
    assert files(tmp_path) != files(whole[0])
    make(tmp_path)
    assert files(tmp_path) == files(whole[0])


def test_killed_with_workers_it_leaves_no_process_behind(whole, tmp_path):
    process = subprocess.Popen([warm_python(), *INTERRUPTED, "workers", tmp_path], cwd=ROOT, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 90
    while not any((tmp_path / "shards").glob("a-*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=30)  # returns when the last that could write to it is gone, the workers as well
    assert not (tmp_path / "shards" / "b-00003").exists()
    make(tmp_path)
    assert files(tmp_path) == files(whole[0])


@pytest.mark.parametrize("damage", ["gone", "changed", "cut", "no record"])
def test_a_damaged_shard_is_written_anew(whole, tmp_path, damage):
    make(tmp_path)
    shard = tmp_path / "shards" / "b-00003"
    data = shard / "data-00000-of-00001.arrow"
    if damage == "gone":
        data.unlink()
    elif damage == "changed":
        data.write_bytes(data.read_bytes()[:-9] + b"x" * 9)
    elif damage == "cut":
        data.write_bytes(data.read_bytes()[:100])
    else:
        (shard / "shard.json").write_text("{")
    assert find_shard(tmp_path / "shards", "b-00003") is None and files(tmp_path) != files(whole[0])
    make(tmp_path)
    assert files(tmp_path) == files(whole[0])


def test_what_is_there_is_not_made_again(whole, tmp_path, monkeypatch):
    first = make(tmp_path)
    told = []
    monkeypatch.setattr(Texts, "documents", lambda *_: pytest.fail("the source was read"))
    again = prepare_corpus(corpus(), byte_tokenizer(), tmp_path, advance=told.append)
    assert again == first and sum(told) == sum(source["tokens"] for source in first["sources"].values())


def test_too_little_text_is_an_error_or_a_warning_with_the_amount(tmp_path, caplog):
    short = dict(sources={"a": Texts("a", 40)}, amounts="64:3K 2000:10K", mixture=None)
    with pytest.raises(ValueError, match=r"too little text: a lacks [\d,]+ tokens in pieces of .*shortage=warn"):
        make(tmp_path, **short)
    assert not json.loads((tmp_path / "manifest.json").read_text())["complete"]
    manifest = make(tmp_path, **short, shortage="warn")
    source = manifest["sources"]["a"]
    total = sum(len(d["text"]) + 1 for d in Texts("a", 40).documents(None) if d is not BAD)
    assert source["tokens"] + source["left_over_tokens"] == total and source["left_over_tokens"] < 2000
    missing = {length: (n - source["pieces"][length]) * int(length) for length, n in {"64": 47, "2000": 5}.items()}
    assert source["missing_tokens"] == {length: tokens for length, tokens in missing.items() if tokens}
    assert source["missing_tokens"] and "too little text: a lacks" in caplog.text
    assert source["left_over_tokens"] < 64 or source["pieces"]["64"] == 47  # short ones are still filled at the end
    again = make(tmp_path, **short, shortage="warn")
    assert again == manifest
    assert "missing" in report(manifest)


def test_bos_and_eos_frame_every_document_once(tmp_path):
    tokenizer = byte_tokenizer()
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id

    @dataclass(frozen=True)
    class Mixed(Texts):
        def documents(self, tokenizer):
            yield {"id": "0", "text": "ab"}
            yield {"id": "1", "input_ids": np.array([bos, 5, eos], np.int32), "trained": np.ones(3, bool)}
            yield {"id": "2", "input_ids": [6]}

    source, a, b = Mixed("x", 3), *tokenizer("ab")["input_ids"]
    framed = {(False, False): [a, b, bos, 5, eos, 6], (False, True): [a, b, eos, bos, 5, eos, 6, eos]}
    framed |= {
        (True, False): [bos, a, b, bos, 5, eos, bos, 6],
        (True, True): [bos, a, b, eos, bos, 5, eos, bos, 6, eos],
    }
    for (with_bos, with_eos), expected in framed.items():
        folder = tmp_path / f"{with_bos}{with_eos}"
        settings = dict(sources={"x": source}, mixture=None, bos=with_bos, eos=with_eos)
        manifest = make(folder, **settings, amounts=f"{len(expected)}:1")
        assert rows(folder, manifest)[0]["input_ids"] == expected
    tokenizer.bos_token = None
    with pytest.raises(ValueError, match="bos=True: the tokenizer '' has no bos token"):
        prepare_corpus(corpus(bos=True), tokenizer, tmp_path / "none")


@pytest.mark.parametrize("document", [{"conversations": []}, {"input_ids": [1, 2], "trained": np.array([True, False])}])
def test_documents_that_cannot_be_cut_are_named(tmp_path, document):
    @dataclass(frozen=True)
    class Chats(Texts):
        def documents(self, tokenizer):
            yield {"id": "7", **document}

    with pytest.raises(ValueError, match=r"texts of x: document 7 must be text, to be cut anywhere, but has"):
        make(tmp_path, sources={"x": Chats("x", 1)}, mixture=None)


def test_malformed_records_are_put_up_with_to_a_limit(tmp_path):
    with pytest.raises(ValueError, match="malformed record 3 of texts of b, max_bad=2"):
        make(tmp_path / "few", tolerance=Tolerance(max_bad=2))
    with pytest.raises(ValueError, match=r"made-up, line 1: no JSON \(strict=true\)"):
        make(tmp_path / "none", tolerance=Tolerance(strict=True))


def test_another_corpus_in_the_folder_is_left_alone(tmp_path):
    make(tmp_path)
    before = files(tmp_path)
    for change, name in [(dict(seed=3), "seed"), (dict(eos=False), "eos"), (dict(amounts="64:1K"), "amounts")]:
        with pytest.raises(ValueError, match=rf"output=.* holds another corpus: {name} is"):
            make(tmp_path, **change)
    with pytest.raises(ValueError, match=r"holds another corpus: sources.a is"):
        make(tmp_path, sources={"a": Texts("a", 401), "b": Texts("b", 800)})
    other = byte_tokenizer()
    other.eos_token = "<|im_start|>"
    with pytest.raises(ValueError, match="holds another corpus: tokenizer is"):
        prepare_corpus(corpus(), other, tmp_path)
    assert files(tmp_path) == before


def test_two_runs_do_not_share_a_folder(tmp_path):
    def second(tokens: int) -> None:
        with pytest.raises(ValueError, match="another process writes to this folder"):
            make(tmp_path)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_corpus(corpus(), byte_tokenizer(), tmp_path, advance=second)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(sources={}), "sources is empty"),
        (dict(sources={"a/b": Texts("a", 1)}), "sources: 'a/b' must be a name of letters"),
        (
            dict(sources={"a": Texts("a", 1, limit=5)}),
            "sources.a: limit=5 must be null .* set amounts",
        ),
        (
            dict(sources={"a": Texts("a", 1, weight=2.0)}),
            "sources.a: weight=2.0 must be null .* set mixture",
        ),
        (dict(mixture={"a": 100}), r"mixture={'a': 100} must have a share for each of the sources a, b"),
        (dict(mixture={"a": 30, "b": 60}), "that sum to 100, not 90"),
        (dict(mixture={"a": -1, "b": 101}), "must be shares in per cent, 0 or more"),
        (dict(shortage="no"), "shortage='no' must be one of error, warn"),
        (dict(shard_tokens=0), "shard_tokens=0 must be an integer, at least 1"),
        (dict(seed=-1), "seed=-1 must be an integer, at least 0"),
        (dict(amounts=""), "amounts='' must name at least one"),
        (dict(amounts="64:1K 64:2K"), "each length must be given once, 64 is given twice"),
        *(
            (dict(amounts=bad), rf"'{bad}' must be LENGTH:AMOUNT")
            for bad in ("8192", "64:1X", "0:1K", "64:0", "64:1.5")
        ),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        corpus(**change)


def test_workers_are_checked(tmp_path):
    with pytest.raises(ValueError, match="workers=0 must be an integer, at least 1"):
        make(tmp_path, workers=0)
