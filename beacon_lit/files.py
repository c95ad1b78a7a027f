"""Write files in one step, so that a failed or killed run leaves the previous file as it was."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, which replaces `file` at the end of the block.

    After an error in the block the temporary file is deleted, and `file` is as it was.
    """
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        yield partial
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    r"""Write a text in UTF-8, in one step. Half of a surrogate pair, which UTF-8 cannot encode, becomes `\ud800`."""
    with replacing(file) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
