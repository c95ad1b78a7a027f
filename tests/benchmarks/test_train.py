"""The training benchmark on a shape of a second."""

import re
import sys
from pathlib import Path

import pytest

from benchmarks.train import main
from tests.configs import small_run
from tests.warm import warm_python


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


def test_a_run_is_measured_beside_the_bare_step(
    inputs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    steps = ["trainer.max_steps=12", "trainer.accumulate_grad_batches=2", "data.num_workers=1"]
    often = ["callbacks.evaluation.every_n_steps=6", "callbacks.checkpoint.every_n_train_steps=5"]
    monkeypatch.setattr(sys, "argv", ["train", "--run", *small_run(*inputs, tmp_path), *steps, *often])
    monkeypatch.setattr(sys, "executable", warm_python())
    main()
    shown = dict(re.findall(r"^ *(train.py|bare step|ratio) +([\d,.]+)", capsys.readouterr().out, re.M))
    whole, bare, ratio = (float(shown[name].replace(",", "")) for name in ("train.py", "bare step", "ratio"))
    assert 0 < whole < 3 * bare and ratio == pytest.approx(whole / bare, rel=0.1, abs=0.01)
