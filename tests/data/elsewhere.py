"""Let other processes do all the work of `Workers`, from the start."""

import pytest

from beacon_lit.data import workers


def all_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start processes at once, and let this process wait for them."""
    monkeypatch.setattr(workers, "_PATIENCE", 0.0)
    monkeypatch.setattr(workers.Workers, "_is_ready", property(lambda pool: pool._pool is not None))
