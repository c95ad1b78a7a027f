"""Samples on disk are those of the source, made once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beacon_lit.data.length_rule import LengthRule
from beacon_lit.data.records import MalformedRecord
from beacon_lit.data.store import spans
from tests.data.lists import ListSource, store, texts


@given(st.lists(st.sampled_from([0.0, 1.0, 2.5]), max_size=20))
def test_weights_come_back_from_their_spans(weights: list[float]) -> None:
    array = np.array(weights, np.float32)
    back = np.zeros_like(array)
    for start, end, weight in zip(*spans(array), strict=True):
        assert weight and not back[start:end].any() and start < end
        back[start:end] = weight
    assert back.tolist() == array.tolist()


def test_a_store_holds_every_sample_and_is_made_once(tokenizer, tmp_path: Path) -> None:
    source = ListSource([*texts(200), {"id": "r", "input_ids": np.arange(20), "trained": np.arange(20) > 9}])
    first = store(source, tokenizer, tmp_path)
    again = store(source, tokenizer, tmp_path)
    assert len(source.read) == 1 and first.folder == again.folder and len(again) == 201
    for i in range(200):
        expected = [*tokenizer.encode(source.records[i]["text"]), tokenizer.eos_token_id]
        assert again[i].id == f"d{i}" and again[i].input_ids.tolist() == expected
        assert again[i].input_ids.dtype == np.int32 and again.lengths[i] == len(expected)
    assert again[200].weights.tolist() == [0] * 10 + [1] * 10
    assert not list(tmp_path.glob("*.partial"))


def test_whatever_changes_samples_makes_another_store(tokenizer, tmp_path: Path) -> None:
    base = store(ListSource(texts(9)), tokenizer, tmp_path).folder
    others = [
        store(ListSource(texts(8)), tokenizer, tmp_path).folder,
        store(ListSource(texts(9), answer_share=0.5), tokenizer, tmp_path).folder,
        store(ListSource(texts(9)), tokenizer, tmp_path, LengthRule(4, 64, 3, seed=1)).folder,
        store(ListSource(texts(9)), tokenizer, tmp_path, LengthRule(4, 63, 3)).folder,
    ]
    tokenizer.chat_template = "{{ messages }}"
    others.append(store(ListSource(texts(9)), tokenizer, tmp_path).folder)
    assert len({base, *others}) == 6


def test_an_interrupted_store_is_made_anew(tokenizer, tmp_path: Path) -> None:
    class Failing(ListSource):
        def documents(self, tokenizer: Any) -> Iterator[Any]:
            yield from self.records
            raise KeyboardInterrupt

    records = texts(300)
    with pytest.raises(KeyboardInterrupt):
        store(Failing(records), tokenizer, tmp_path)
    assert len(store(ListSource(records), tokenizer, tmp_path)) == 300


def test_malformed_records_are_skipped_and_counted_up_to_a_limit(tokenizer, tmp_path: Path, caplog) -> None:
    bad = [MalformedRecord("invalid_json", f"a.jsonl, line {i}", "no JSON") for i in (3, 7)]
    source = ListSource([*texts(5), *bad])
    assert store(source, tokenizer, tmp_path, max_bad=2).left_out["invalid_json"] == 2
    assert "a.jsonl, line 3: no JSON" in caplog.text
    with pytest.raises(ValueError, match=r"line 7: no JSON; malformed record 2 of list, max_bad=1"):
        store(ListSource([*texts(4), *bad]), tokenizer, tmp_path, max_bad=1)
    with pytest.raises(ValueError, match=r"line 3: no JSON; all 2 records of list are malformed: 2 invalid_json"):
        store(ListSource(bad), tokenizer, tmp_path)
    with pytest.raises(ValueError, match=r"line 3: no JSON.*strict"):
        store(ListSource([*texts(3), *bad]), tokenizer, tmp_path, strict=True)
