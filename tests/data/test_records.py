"""How many malformed records are skipped, and what is said where these are too many."""

from collections import Counter
from typing import Any

import pytest

from beacon_lit.data.records import BLANK, MalformedRecord, SkippedRecords, SourceRecord, Tolerance

BAD = MalformedRecord("invalid_json", "a.jsonl, line 1", "no JSON")
EMPTY = MalformedRecord(BLANK, "a.jsonl, line 2", "the text is blank")
GOOD = {"id": "a", "text": "x"}


def read(records: list[SourceRecord], **tolerance: Any) -> tuple[int, Counter[str]]:
    """The number of documents, and what was left out."""
    skipped = SkippedRecords(Tolerance(**tolerance), "crawl", Counter(), log=False)
    return len(list(skipped.documents(records))), skipped.counts


def test_blank_records_are_counted_and_never_too_many() -> None:
    assert read([EMPTY] * 5000) == (0, {BLANK: 5000})
    assert read([EMPTY] * 500 + [GOOD], max_bad=0) == (1, {BLANK: 500})
    assert read([EMPTY, GOOD], strict=True) == (1, {BLANK: 1})


@pytest.mark.parametrize(
    ("good", "bad", "tolerance", "allowed"),
    [
        (100, 100, {}, True),
        (100, 101, {}, False),
        (20_000, 200, {}, True),
        (20_000, 203, {}, False),
        (1000, 100, {"max_bad": 0.001}, True),
        (1000, 300, {"max_bad": 0.3}, True),
        (20_000, 6, {"max_bad": 5}, False),
        (20_000, 1, {"max_bad": 0}, False),
    ],
)
def test_a_share_of_what_was_read_is_allowed_and_always_100(
    good: int, bad: int, tolerance: dict[str, Any], allowed: bool
) -> None:
    records: list[SourceRecord] = [GOOD] * good + [BAD] * bad  # type: ignore[list-item]
    if allowed:
        assert read(records, **tolerance) == (good, {"invalid_json": bad})
    else:
        with pytest.raises(ValueError, match=r"line 1: no JSON; malformed record \d+ of crawl, max_bad="):
            read(records, **tolerance)


def test_the_error_says_what_was_read_and_which_share_is_allowed() -> None:
    message = (
        r"a.jsonl, line 1: no JSON; malformed record 301 of crawl, max_bad=0.02 \(0.02 of the records read, and always "
        r"100\) allows 300 of the 15,001 records read; left out so far: 1 empty_text, 301 invalid_json"
    )
    with pytest.raises(ValueError, match=message):
        read([EMPTY, *[GOOD] * 14_699, *[BAD] * 301], max_bad=0.02)  # type: ignore[list-item]


def test_a_source_without_a_well_formed_record_is_an_error() -> None:
    with pytest.raises(ValueError, match="line 1: no JSON; all 3 records of crawl are malformed: 3 invalid_json"):
        read([BAD] * 3)
    assert read([BAD, EMPTY]) == (0, {"invalid_json": 1, BLANK: 1})


@pytest.mark.parametrize("max_bad", [-1, 1.0, 1.5, 0.0, float("nan"), True, "5"])
def test_a_wrong_setting_is_refused(max_bad: Any) -> None:
    with pytest.raises(ValueError, match=r"max_bad=.* must be"):
        Tolerance(max_bad=max_bad)
