"""Figures are drawn."""

import pytest


@pytest.fixture
def blank_figures() -> None:
    """Replace the fixture that leaves figures blank."""
