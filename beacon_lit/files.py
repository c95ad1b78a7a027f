"""Write files in one step, so that a failed or killed run leaves the previous file as it was."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PARTIAL = ".partial"


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, which replaces `file` at the end of the block.

    After an error in the block, the temporary file is deleted and `file` is as it was. A killed process leaves the
    temporary file behind; see `remove_partials`.
    """
    partial = file.with_name(f".{file.name}.{os.getpid()}{_PARTIAL}")
    try:
        yield partial
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def remove_partials(folder: Path) -> None:
    """Delete the temporary files that killed processes left behind in `replacing`.

    Call this only while no other process can write to the folder.
    """
    for partial in folder.glob(f".*{_PARTIAL}"):
        partial.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    r"""Write a text in UTF-8, in one step. Half of a surrogate pair, which UTF-8 cannot encode, becomes `\ud800`."""
    with replacing(file) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def check_new(name: str, target: Path) -> None:
    """Raise a ValueError, which names the setting, unless `target` does not exist or is an empty folder."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{name}={str(target)!r} is not allowed, it exists; allowed: a new or an empty folder")


@contextmanager
def new_folder(name: str, target: Path) -> Iterator[Path]:
    """Yield a folder beside `target` that becomes `target` at the end of the block, or vanishes after an error.

    Args:
        name: the setting that gives `target`, for messages.
        target: a folder that does not exist yet, or is empty.

    Raises:
        ValueError: `target` has files in it, or cannot be written.
    """
    check_new(name, target)
    folder = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise ValueError(f"{name}={str(target)!r}: {error.strerror}; allowed: a folder to write to") from error
    try:
        yield folder
        try:
            folder.replace(target)
        except OSError as error:  # another process has filled the folder meanwhile
            raise ValueError(f"{name}={str(target)!r} is not allowed, it exists; allowed: a new folder") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
