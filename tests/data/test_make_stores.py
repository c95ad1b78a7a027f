"""The stores of several sources are the same however many processes make them, and whoever else makes them as well."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from beacon_lit.data import make_stores as module
from beacon_lit.data.length_rule import LengthRule
from beacon_lit.data.make_stores import make_stores
from beacon_lit.data.records import MalformedRecord, Tolerance
from beacon_lit.data.sources import SyntheticSource
from beacon_lit.data.store import ABOUT, SAMPLES
from beacon_lit.tiny import byte_tokenizer
from tests.configs import ROOT
from tests.data.elsewhere import all_elsewhere
from tests.data.lists import ListSource, texts
from tests.data.retrieval.making import prose
from tests.warm import warm_python

RULE = LengthRule(min_length=9, max_length=2000, window=8)
ASK = {"role": "user", "content": "why"}
ANSWER = {"role": "assistant", "content": "because"}


def mixed(count: int) -> list:
    """Texts, conversations, some of which the template refuses, and malformed records."""
    records: list[Any] = []
    for i, text in enumerate(texts(count)):
        records.append(text)
        if i % 3 == 0:
            turns = [ASK, ANSWER] if i % 2 else [ANSWER, ASK]
            records.append({"id": f"c{i}", "conversations": turns})
        if i % 50 == 7:
            records.append(MalformedRecord("invalid_json", f"a.jsonl, line {i}", "no JSON"))
    return records


def sources() -> list:
    """Several sources, of which one occurs twice."""
    synthetic = [SyntheticSource(kind, 40, (1500, 1700), haystack=prose(7)) for kind in ("codes", "copy")]
    chat = SyntheticSource("passkey", 40, (1500, 1700), chat=True)
    first = ListSource(mixed(700), name="first")
    return [first, *synthetic, chat, ListSource(first.records, name="again", weight=2.0)]


def made(folder: Path, count: int, given: list | None = None, **tolerance) -> list[dict[str, bytes]]:
    """The files of the stores."""
    stores = make_stores(given or sources(), byte_tokenizer(), RULE, Tolerance(**tolerance), folder, count)
    return [{name: (store.folder / name).read_bytes() for name in (SAMPLES, ABOUT)} for store in stores]


def test_stores_do_not_depend_on_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    with caplog.at_level("INFO"):
        alone = made(tmp_path / "alone", 1, max_bad=400)
    assert alone[0] == alone[-1] and len({part[SAMPLES] for part in alone}) == 4
    about = json.loads(alone[0][ABOUT])
    assert about == {"source": "first", "left_out": {"invalid_json": 14, "template": 117}}
    assert re.findall(r"tokenised (.*)", caplog.text) == [
        "1 of 4: first", "2 of 4: codes in texts", "3 of 4: copy in texts", "4 of 4: passkey in filler",
    ]  # fmt: skip
    all_elsewhere(monkeypatch)
    assert made(tmp_path / "two", 2, max_bad=400) == alone
    monkeypatch.setattr(module, "_parts", None)
    assert made(tmp_path / "two", 2, max_bad=400) == alone  # nothing is made again


def test_errors_are_the_same_in_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(count: int) -> str:
        with pytest.raises(ValueError) as error:
            made(tmp_path / str(count), count, [ListSource(texts(300)), ListSource(mixed(700)), *sources()], max_bad=99)
        return str(error.value)

    alone = refused(1)
    assert "malformed record 100 of list, max_bad=99" in alone
    all_elsewhere(monkeypatch)
    assert refused(2) == alone
    for count in ("1", "2"):  # the source before is finished
        assert len([folder for folder in (tmp_path / count).iterdir() if (folder / ABOUT).exists()]) == 1


def test_a_source_that_cannot_be_read_is_an_error_in_its_turn(tmp_path: Path) -> None:
    class Unreadable(ListSource):
        def documents(self, tokenizer: Any) -> Iterator[Any]:
            yield from self.records
            raise ValueError("a.jsonl cannot be read")

    with pytest.raises(ValueError, match=r"a\.jsonl cannot be read"):
        made(tmp_path, 1, [ListSource(texts(300)), Unreadable(texts(200)), ListSource(texts(100))])
    assert len(list(tmp_path.glob(f"*/{ABOUT}"))) == 1


# Makes the stores, pausing at each record of the first source, and prints how often that source was read.
CODE = """
import sys, time
from pathlib import Path
from tests.data import test_make_stores as t

class Slow(t.ListSource):
    def documents(self, tokenizer):
        for record in super().documents(tokenizer):
            time.sleep(float(sys.argv[2]))
            yield record

first = Slow(t.mixed(700), name="first")
again = t.ListSource(first.records, name="first", weight=2.0, read=first.read)  # a store names the source it is made of
t.made(Path(sys.argv[1]), 1, [first, *t.sources()[1:-1], again][:: int(sys.argv[3])], max_bad=400)
print(len(first.read))
"""


def started(folder: Path, pause: float, step: int = 1) -> subprocess.Popen:
    line = [warm_python(), "-c", CODE, str(folder), str(pause), str(step)]
    return subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_processes_wait_for_each_other_and_take_over_from_one_that_is_killed(tmp_path: Path) -> None:
    killed = started(tmp_path, 0.5)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*.partial")):
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    others = [started(tmp_path, 0.001, step) for step in (1, -1)]  # the same sources in another order
    time.sleep(1)
    killed.kill()
    killed.communicate()
    reads = [int(process.communicate(timeout=240)[0]) for process in others]
    assert sum(reads) == 1 and not list(tmp_path.glob("*.partial"))
    assert made(tmp_path, 1, max_bad=400) == made(tmp_path / "alone", 1, max_bad=400)
