"""Imports packages that only metrics need."""

from importlib import import_module
from typing import Any


def package(name: str) -> Any:
    """Import a module of the extra `evaluation`.

    Raises:
        ValueError: the package is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ValueError(f"the package {name} is missing: pip install 'beacon_lit[evaluation]'") from error
