"""A dataset is its stores, one behind the other."""

from pathlib import Path

import numpy as np

from beacon_lit.data.dataset import Part, SampleDataset, drawn
from tests.data.lists import ListSource, store, texts


def test_a_limit_draws_rows_by_the_seed(tokenizer, tmp_path: Path) -> None:
    source = ListSource(texts(40), limit=5)
    rows = drawn(40, source, 0)
    assert len(set(rows)) == 5 and sorted(rows) == list(rows)
    assert list(rows) == list(drawn(40, source, 0)) != list(drawn(40, source, 1))
    assert list(drawn(4, source, 0)) == [0, 1, 2, 3]


def test_a_dataset_is_its_stores_end_to_end(tokenizer, tmp_path: Path) -> None:
    one, two = (store(ListSource(texts(count)), tokenizer, tmp_path) for count in (5, 9))
    rows = (one, np.array([1, 3])), (two, np.array([0, 8])), (one, np.array([], int))
    dataset = SampleDataset([Part(str(number), *part) for number, part in enumerate(rows)])
    assert [sample.id for sample in dataset] == ["d1", "d3", "d0", "d8"] and len(dataset) == 4
    assert [part.tolist() for part in dataset.lengths] == [
        one.lengths[[1, 3]].tolist(), two.lengths[[0, 8]].tolist(), []
    ]  # fmt: skip
