import csv

import pytest
from lightning.pytorch.loggers import CSVLogger

from beacon_lit.callbacks import ThroughputCallback, throughput
from tests.callbacks.tiny import fit


@pytest.fixture
def clock(monkeypatch):
    """A clock that advances by two seconds at each look."""
    times = iter(range(0, 10_000, 2))
    monkeypatch.setattr(throughput, "perf_counter", lambda: next(times))


def logged(folder, every_n_steps, **trainer):
    callback = ThroughputCallback(every_n_steps)
    trained, _ = fit(folder, [callback], logger=CSVLogger(folder, name="csv", version=0), **trainer)
    with (folder / "csv" / "version_0" / "metrics.csv").open() as file:
        return trained, list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("every_n_steps", "trainer", "steps", "rate"),
    [
        (1, {}, [1, 2, 3, 4, 5, 6], 4),  # 8 tokens that are no padding, in 2 seconds
        (3, {}, [3, 6], 12),
        (2, dict(accumulate_grad_batches=2), [2, 4, 6], 16),
        (4, {}, [4], 16),
    ],
)
def test_tokens_per_second_over_spans_of_optimizer_steps(tmp_path, clock, every_n_steps, trainer, steps, rate):
    _, rows = logged(tmp_path, every_n_steps, **trainer)
    rows = [row for row in rows if row["train/tokens_per_second"]]
    assert [int(row["step"]) for row in rows] == steps
    assert all(float(row["train/tokens_per_second"]) == rate for row in rows)
    assert all(0.05 < float(row["train/peak_memory_gib"]) < 500 for row in rows)


def test_shown_on_the_progress_bar(tmp_path):
    trainer, _ = logged(tmp_path, 4)
    assert {"tok/s", "GiB"} <= set(trainer.progress_bar_metrics)


def test_bad_setting_is_named():
    with pytest.raises(ValueError, match="every_n_steps: got 0; must be at least 1"):
        ThroughputCallback(0)
