import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beacon_lit.data.sources.compressed import BrokenFileError
from beacon_lit.data.sources.json_records import RawRecord, elements, lines

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.sampled_from('a"\\[]{},:\n\té\U0001f600')),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


def loaded(pieces: Iterator[RawRecord]) -> list[Any]:
    return [json.loads(piece.data) for piece in pieces if piece.data is not None]


def collect(pieces: Iterator[RawRecord]) -> tuple[list[RawRecord], BrokenFileError | None]:
    found = []
    try:
        for piece in pieces:
            found.append(piece)
    except BrokenFileError as error:
        return found, error
    return found, None


@given(
    values=st.lists(VALUES, max_size=4), size=st.integers(1, 40), indent=st.sampled_from([None, 1]), ascii=st.booleans()
)
def test_any_array_in_chunks_of_any_size(values: list[Any], size: int, indent: int | None, ascii: bool) -> None:
    data = json.dumps(values, indent=indent, ensure_ascii=ascii).encode() + b" \n"
    pieces = list(elements(cut(data, size), 10**6))
    assert loaded(iter(pieces)) == values
    assert [piece.number for piece in pieces] == list(range(1, len(values) + 1))


def test_structure_inside_of_strings_is_text_wherever_a_chunk_ends() -> None:
    values = ['"],[', "\\", '\\"],', {"[": ["}", "\\\\,"]}, '\\",']
    data = json.dumps(values).encode()
    for size in range(1, len(data) + 1):
        assert loaded(elements(cut(data, size), 100)) == values


@given(
    values=st.lists(VALUES, min_size=1, max_size=4), size=st.integers(1, 40), share=st.floats(0, 1, exclude_max=True)
)
def test_an_array_that_is_cut_anywhere_gives_a_prefix(values: list[Any], size: int, share: float) -> None:
    data = json.dumps(values).encode()
    data = data[: max(1, int(share * len(data)))]
    pieces, broken = collect(elements(cut(data, size), 10**6))
    assert broken is not None and broken.kind == "truncated"
    whole = [piece for piece in pieces if piece.ended]
    assert loaded(iter(whole)) == values[: len(whole)]
    assert len(pieces) <= len(whole) + 1


@given(texts=st.lists(st.text(st.sampled_from("ab \r\té"), max_size=5), max_size=6), size=st.integers(1, 9))
def test_any_lines_in_chunks_of_any_size(texts: list[str], size: int) -> None:
    expected = [(i, text.encode()) for i, text in enumerate(texts, 1) if text.strip(" \t\r\n")]
    pieces = list(lines(cut("\n".join(texts).encode(), size), 100))
    assert [(piece.number, piece.data) for piece in pieces] == expected
    assert all(piece.ended for piece in pieces if piece.number < len(texts))
    assert not any(piece.ended for piece in pieces if piece.number == len(texts))


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_piece_that_is_too_long_is_counted_and_not_kept(size: int) -> None:
    array = b'["' + b"a" * 98 + b'","' + b"b" * 99 + b'",1]'
    assert [(p.data is None, p.size) for p in elements(cut(array, size), 100)] == [
        (False, 100),
        (True, 101),
        (False, 1),
    ]
    text = b"a" * 100 + b"\n" + b"b" * 101 + b"\nc"
    assert [(p.data is None, p.size) for p in lines(cut(text, size), 100)] == [(False, 100), (True, 101), (False, 1)]
