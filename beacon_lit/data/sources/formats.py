"""The formats of files by suffix: each is a function that yields the records of a file."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from beacon_lit.data.sources.arrow_files import read_arrow
from beacon_lit.data.sources.columns import Columns
from beacon_lit.data.sources.compressed import OPENERS
from beacon_lit.data.sources.csv_files import read_csv
from beacon_lit.data.sources.files import Rows
from beacon_lit.data.sources.json_files import read_json
from beacon_lit.data.sources.parquet_files import read_parquet
from beacon_lit.data.sources.text_files import read_text

Format = Callable[[Path, Columns], Rows]

_STREAMED: dict[str, Format] = {
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), read_json),
    **dict.fromkeys((".txt", ".text", ".md", ".markdown"), read_text),
    ".csv": read_csv,
    ".tsv": partial(read_csv, delimiter="\t"),
}
_MAPPED: dict[str, Format] = {".parquet": read_parquet, ".arrow": read_arrow}  # not read from start to end
FORMATS = _STREAMED | _MAPPED | {name + packed: _STREAMED[name] for name in _STREAMED for packed in OPENERS}


def suffix(file: Path) -> str:
    """Return the suffix of a file in lower case, with that of the compression: ".jsonl.gz"."""
    *_, last = ["", *file.suffixes]
    before = file.suffixes[-2:-1] if last.lower() in OPENERS else []
    return "".join([*before, last]).lower()


def format_of(file: Path) -> Format:
    """Return the format of a file.

    Raises:
        ValueError: no format has the file's suffix.
    """
    if suffix(file) not in FORMATS:
        raise ValueError(
            f"{file}: the suffix {suffix(file)!r} is of no format that is read; allowed: {', '.join(_STREAMED)} (also "
            f"with {', '.join(OPENERS)}), {', '.join(_MAPPED)}. Convert the file, or, if it is JSON, give it a suffix: "
            "ln -s OLD NEW.jsonl"
        )
    return FORMATS[suffix(file)]
