"""Reads files of conversations for tasks. A malformed record is an error: without it scores would not compare."""

from itertools import islice

from beacon_lit.data.message_keys import meant_keys
from beacon_lit.data.records import Document, MalformedRecord
from beacon_lit.data.sources.json_files import JsonSource

FETCH = (
    "`long-llm:` is for the data published with the paper: unpack long-llm.tar.gz of the Hugging Face data set "
    "namespace-Pt/projects, and set `data_root`, or BEACON_DATA, to the folder that it makes"
)


def read_conversations(path: str, data_root: str | None, limit: int | None = None) -> list[Document]:
    """Read the conversations of JSON files.

    Args:
        path: JSON lines or JSON arrays, plain or compressed; see `FileSource` for `long-llm:` and globs.
        data_root: the folder that `long-llm:` stands for.
        limit: maximum number of conversations; None = all.

    Returns:
        Documents with `id`, and `conversations`: messages with "role" and "content"; see `data.records.Document`.

    Raises:
        ValueError: a missing file; or, with file and line, a malformed record, or one with tools or with keys of
            messages that no task asks with.
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
        if meant := meant_keys(record):
            raise ValueError(
                f"path={path!r}: record {record['id']} has {', '.join(meant)}, which tasks do not ask with"
            )
        documents.append(record)
    return documents
