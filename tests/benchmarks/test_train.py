"""The training benchmark on a shape of a second."""

import sys

import pytest

from benchmarks.train import main


def test_every_objective_is_measured_beside_the_dense_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    line = "train --shapes tiny --ratios 2 8 --tokens 300 --window 64 --repeats 1 --warmup 0 --objective lm distill"
    monkeypatch.setattr(sys, "argv", line.split())
    main()
    rows = [row.split() for row in capsys.readouterr().out.splitlines() if row.strip().startswith("tiny")]
    labels = [" ".join(row[2:-3]) for row in rows]
    assert labels == ["ratio 2", "ratio 2 distill", "ratio 8", "ratio 8 distill", "dense"]
    assert all(float(row[-2]) > 0 for row in rows)
