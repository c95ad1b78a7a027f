"""Reads files of conversations for tasks: every record must be there and be right, else scores would not compare."""

from itertools import islice

from beacon_lit.data.records import Document, MalformedRecord
from beacon_lit.data.sources.json_files import JsonSource

FETCH = (
    "`long-llm:` is for the data published with the paper: unpack long-llm.tar.gz of the Hugging Face data set "
    "namespace-Pt/projects, and set `data_root`, or BEACON_DATA, to the folder that it makes"
)


def read_conversations(path: str, data_root: str | None, limit: int | None = None) -> list[Document]:
    """The conversations of JSON files: `id`, and `conversations`, messages of "role" and "content".

    Args:
        path: JSON lines or JSON arrays, plain, .gz or .zst; see `FileSource` for `long-llm:` and globs.
        data_root: the folder that `long-llm:` stands for.
        max_examples: the first so many; None = all.

    Raises:
        ValueError: no such file, or a record that is no conversation, with file and line.
    """
    try:
        source = JsonSource(path, data_root)
    except ValueError as error:
        raise ValueError(f"{error}. {FETCH}") from error
    documents = []
    for record in islice(source.documents(), limit):
        if isinstance(record, MalformedRecord):
            raise ValueError(str(record))
        if "conversations" not in record:
            raise ValueError(f"path={path!r}: record {record['id']} has text; allowed: conversations")
        documents.append(record)
    return documents


def check_max_examples(max_examples: int | None) -> None:
    """ValueError unless it is None or at least 1."""
    if max_examples is not None and max_examples < 1:
        raise ValueError(f"max_examples: got {max_examples}; must be at least 1, or null for all")
