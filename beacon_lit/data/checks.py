"""Checks of settings, each of which raises a ValueError that names the setting."""

import math
from typing import Any

from beacon_lit.checks import is_count


def check_int(name: str, value: Any, least: int) -> None:
    """Raise a ValueError unless `value` is an integer of at least `least`."""
    if not is_count(value, least):
        raise ValueError(f"{name}={value!r} must be an integer, at least {least}")


def check_text(name: str, value: Any) -> None:
    """Raise a ValueError unless `value` is a string that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name}={value!r} must be a string that is not empty")


def check_limit(limit: int | None) -> None:
    """Raise a ValueError unless the limit of a source is None or at least 1."""
    if limit is not None:
        check_int("limit", limit, 1)


def check_shares(weight: float | None, answer_share: float | None) -> None:
    """Raise a ValueError unless a source's weight is None or > 0, and its answer_share None or in (0, 1]."""
    if weight is not None and not (_is_finite(weight) and weight > 0):
        raise ValueError(f"weight={weight!r} must be a number above 0, or None for as many samples as the source has")
    if answer_share is not None and not (_is_finite(answer_share) and 0 < answer_share <= 1):
        raise ValueError(
            f"answer_share={answer_share!r} must be above 0 and at most 1, or None for the same weight of all tokens"
        )


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
