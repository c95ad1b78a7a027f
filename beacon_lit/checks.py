"""Check and convert simple values, for every part of the package."""

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryFile


def is_count(value: object, least: int = 0) -> bool:
    """Whether `value` is an integer (not a bool) of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_counts(least: int, **settings: object) -> None:
    """Raise a ValueError unless every setting is an integer of at least `least`."""
    for name, value in settings.items():
        if not is_count(value, least):
            raise ValueError(f"{name}={value!r} is not allowed; allowed: an integer, at least {least}")


def as_tuple(value: object) -> tuple:
    """Return a list or other collection as a tuple, and a single value (a string too) as a tuple of one."""
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)


def check_writable(name: str, folder: str | Path) -> None:
    """Create a folder if necessary, and check that files can be written to the folder.

    Args:
        name: the setting that gives the folder.
        folder: the folder.

    Raises:
        ValueError: the folder cannot be created or written to.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{name}={folder}: {error.strerror}; allowed: a folder that can be written to") from error
