"""Checks of settings. Each raises a ValueError that names the setting, its value and what is allowed."""

from collections.abc import Sequence
from typing import Any


def check_at_least(least: int, **settings: int) -> None:
    """Check that every setting is at least `least`."""
    for name, value in settings.items():
        if value < least:
            raise ValueError(f"{name}={value} is not allowed; allowed: at least {least}")


def check_limits(**settings: int | None) -> None:
    """Check that every limit is None (no limit) or at least 1."""
    for name, value in settings.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} is not allowed; allowed: at least 1, or null for no limit")


def check_distinct(least: int | None = None, **settings: Sequence[Any]) -> None:
    """Check that every list has at least one value, none of them twice, and none below `least`."""
    for name, values in settings.items():
        if not values or len(set(values)) < len(values) or (least is not None and min(values) < least):
            limits = "" if least is None else f" of at least {least}"
            raise ValueError(f"{name}={list(values)} is not allowed; allowed: one or more values{limits}, each once")


def check_depths(depths: Sequence[float]) -> None:
    """Check that there is at least one depth, each between 0 and 100 per cent, none of them twice."""
    if not depths or len(set(depths)) < len(depths) or not all(0 <= depth <= 100 for depth in depths):
        raise ValueError(
            f"depths={list(depths)} is not allowed; allowed: one or more values between 0 and 100 (per cent), each once"
        )


def check_names(allowed: Sequence[str], **settings: Sequence[str]) -> None:
    """Check that every name in every list is one of the allowed ones."""
    for name, values in settings.items():
        if unknown := [value for value in values if value not in allowed]:
            raise ValueError(f"{name}={unknown} is not allowed; allowed: {', '.join(allowed)}")


def check_choice(allowed: Sequence[str], **settings: str) -> None:
    """Check that every setting is one of the allowed values."""
    for name, value in settings.items():
        if value not in allowed:
            raise ValueError(f"{name}={value!r} is not allowed; allowed: {', '.join(allowed)}")
