"""Check and convert simple values, for every part of the package."""

from collections.abc import Iterable


def is_count(value: object, least: int = 0) -> bool:
    """Whether `value` is an integer (not a bool) of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def as_tuple(value: object) -> tuple:
    """Return a list or other collection as a tuple, and a single value (a string too) as a tuple of one."""
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)
