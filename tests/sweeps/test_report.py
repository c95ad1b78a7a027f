"""Runs' folders into one table and one figure."""

import csv
import sys
from pathlib import Path

import pytest
from PIL import Image

from beacon_lit.sweeps import report
from beacon_lit.sweeps.__main__ import main
from beacon_lit.sweeps.differences import swept
from beacon_lit.sweeps.jobs import find_jobs
from tests.sweeps.folders import done, run_folder

pytestmark = pytest.mark.usefixtures("drawn_figures")

LOSSES = {(2, 1e-4): 3.0, (2, 1e-3): 2.5, (8, 1e-4): 3.5, (8, 1e-3): 2.75}


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two ratios by two learning rates, one that failed, one under way and one that was stopped."""
    tmp_path = tmp_path / "sweep"
    for i, ((ratio, lr), loss) in enumerate(LOSSES.items()):
        overrides = [f"ratio={ratio}", f"optimizer.lr={lr}", "++trainer.max_steps=7"]
        record = done(train__loss=9.0, val__loss=loss, perplexity__dense=20.0, perplexity__ratio_2__window_1=i)
        run_folder(tmp_path / str(i), {"ratio": ratio, "optimizer": {"lr": lr}}, overrides, record)
    failed = {"state": "failed", "seconds": 1.0, "error": "ValueError: ratios=3 is [not] allowed"}
    run_folder(tmp_path / "9", {"ratio": 3}, ["ratio=3"], failed)
    run_folder(tmp_path / "10", {"ratio": 16}, ["ratio=16"], {"state": "running", "started": "2026-11-23T17:00:00"})
    run_folder(tmp_path / "11", {"ratio": 32}, ["ratio=32"], {"state": "stopped", "seconds": 2.0})
    return tmp_path


def test_a_row_for_each_run(sweep: Path, capsys: pytest.CaptureFixture) -> None:
    report([sweep])
    rows = list(csv.DictReader((sweep / "summary.csv").open()))
    assert [row["run"] for row in rows] == ["0", "1", "2", "3", "9", "10", "11"]
    assert [row["state"] for row in rows] == ["done"] * 4 + ["failed", "unfinished", "stopped"]
    assert [row["val/loss"] for row in rows] == ["3.0", "2.5", "3.5", "2.75", "", "", ""]
    assert [(row["ratio"], row["optimizer.lr"]) for row in rows[:2]] == [("2", "0.0001"), ("2", "0.001")]
    assert rows[0]["seconds"] == "83.4" and rows[4]["error"] == "ValueError: ratios=3 is [not] allowed"
    assert set(rows[0]) == {
        "run", "state", "ratio", "optimizer.lr", "train/loss", "val/loss", "perplexity/dense",
        "perplexity/ratio_2/window_1", "seconds", "error",
    }  # fmt: skip
    shown = capsys.readouterr().out
    assert "9 failed: ValueError: ratios=3 is [not] allowed" in shown and "10 unfinished" in shown
    assert "11 stopped: by a signal or Ctrl-C" in shown
    assert "best by val/loss: 1" in shown and "1:23" in shown
    assert str(sweep) in shown.splitlines()  # not broken at the width of the table


def test_markdown_shows_what_differs_and_the_best_in_bold(sweep: Path) -> None:
    report([sweep])
    header, line, *rows = (sweep / "summary.md").read_text().splitlines()
    assert header == "| run | ratio | optimizer.lr | val/loss | time | state |"
    assert line == "| --- | ---: | ---: | ---: | ---: | --- |"
    assert rows[0] == "| 0 | 2 | 0.0001 | 3 | 1:23 | done |"
    assert rows[1] == "| **1** | **2** | **0.001** | **2.5** | **1:23** | **done** |"
    assert rows[4] == "| 9 | 3 | 0.0001 | - | 0:01 | failed |"
    report([sweep], maximize=True)
    assert "| **2** | **8** |" in (sweep / "summary.md").read_text()


def test_the_figure_has_a_line_for_each_learning_rate(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, *args, **kwargs: figures.append(self))
    report([sweep])
    (axes,) = figures[0].axes
    assert axes.get_xlabel() in ("ratio", "optimizer.lr") and figures[0].get_supylabel() == "val/loss"
    lines = {tuple(zip(*line.get_data(), strict=True)) for line in axes.lines if line.get_linestyle() == "-"}
    by_ratio = {tuple((ratio, LOSSES[ratio, lr]) for ratio in (2, 8)) for lr in (1e-4, 1e-3)}
    by_rate = {tuple((lr, LOSSES[ratio, lr]) for lr in (1e-4, 1e-3)) for ratio in (2, 8)}
    assert lines == (by_ratio if axes.get_xlabel() == "ratio" else by_rate)
    (ring,) = [line for line in axes.lines if line.get_markersize() > 10]
    assert ring.get_ydata() == [2.5]


def test_more_settings_have_a_panel_each_and_names_an_axis_of_names(tmp_path: Path) -> None:
    for i in range(12):
        config = {"ratio": 2 + i % 3, "seed": i, "optimizer": {"lr": 10.0 ** -(1 + i % 4)}, "beacon": {"window": [i]}}
        run_folder(tmp_path / str(i), config, ["ratio", "optimizer.lr"], done(train__loss=i % 5))
    report([tmp_path])
    with Image.open(tmp_path / "summary.png") as image:
        assert image.width > image.height and len(image.convert("RGB").getcolors(2**24)) > 20


def test_runs_are_found_at_any_depth_and_once(sweep: Path) -> None:
    (sweep / "latest").symlink_to(sweep / "0")
    assert [job.name for job in find_jobs([sweep.parent])] == [f"sweep/{name}" for name in (0, 1, 2, 3, 9, 10, 11)]
    assert [job.name for job in find_jobs([sweep / "0", sweep / "1", sweep / "0", sweep / "latest"])] == ["0", "1"]


def test_a_run_folder_of_its_own_is_read(tmp_path: Path) -> None:
    own = tmp_path / "elsewhere"
    own.mkdir()
    (own / "run.json").write_text('{"state": "done", "metrics": {"train/loss": 1.5}}')
    run_folder(tmp_path / "run", {"run_folder": str(own)}, [f"run_folder={own}"], None)
    (job,) = find_jobs([tmp_path / "run"])
    assert job.state == "done" and job.metrics == {"train/loss": 1.5}


def test_settings_that_follow_from_a_choice_are_left_out(tmp_path: Path) -> None:
    distill = {"objective": {"_target_": "beacon_lit.objectives.Distillation", "alpha": 0.5}}
    more = {"objective": {"_target_": "beacon_lit.objectives.Distillation", "alpha": 0.9}}
    run_folder(tmp_path / "0", {}, ["objective=lm"], None)
    run_folder(tmp_path / "1", distill, ["objective=distill"], None, {"objective": "distill"})
    assert swept(find_jobs([tmp_path])) == {"objective": ["lm", "distill"]}
    run_folder(tmp_path / "2", more, ["objective=distill"], None, {"objective": "distill"})
    expected = {"objective": ["lm", "distill", "distill"], "objective.alpha": ["-", "0.5", "0.9"]}
    assert swept(find_jobs([tmp_path])) == expected
    (tmp_path / "3").mkdir()
    given = ["objective=distill", "seed=1"]  # says itself what would follow from the choice
    run_folder(tmp_path / "3" / "a", {"seed": 1}, given, None, {"objective": "distill"})
    run_folder(tmp_path / "3" / "b", {}, [], None)
    assert swept(find_jobs([tmp_path / "3"])) == {"objective": ["distill", "lm"], "seed": ["1", "0"]}


def test_the_metric_that_was_searched_for_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for i in range(2):
        record = done(val__loss=float(i), passkey__ratio_8=float(i))
        run_folder(tmp_path / str(i), {"ratio": i, "optimized_metric": "passkey/ratio_8"}, [], record)
    report([tmp_path])
    assert "best by passkey/ratio_8: 0" in capsys.readouterr().out


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_run_that_diverged_is_not_the_best(value: float, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for i, loss in enumerate([value, 2.0, 1.0]):
        run_folder(tmp_path / str(i), {"ratio": i}, [], done(train__loss=loss))
    report([tmp_path])
    assert "best by train/loss: 2" in capsys.readouterr().out


def test_runs_of_different_ratios_are_compared_at_their_own(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    speed = {"ktok/s": 9.0, "GiB": 1.0}
    for i, ratio in enumerate([2, 4, 8]):
        scores = {f"perplexity__ratio_{ratio}": 20.0 - i, f"passkey__ratio_{ratio}": 0.5 + i / 10}
        record = done(train__loss=3.0 - i, perplexity__dense=9.0, **scores)
        record["metrics"] |= {name: value - i for name, value in speed.items()}
        run_folder(tmp_path / str(i), {"ratio": ratio}, [f"ratio={ratio}"], record)
    report([tmp_path])
    header, _, *rows = (tmp_path / "summary.md").read_text().splitlines()
    names = "| run | ratio | perplexity/own_ratio | train/loss | passkey/own_ratio | time | state |"
    assert header == names and rows[0] == "| 0 | 2 | 20 | 3 | 0.5 | 1:23 | done |"
    assert "best by perplexity/own_ratio: 2" in capsys.readouterr().out
    with (tmp_path / "summary.csv").open() as file:
        assert [row["perplexity/ratio_4"] for row in csv.DictReader(file)] == ["", "19.0", ""]


def test_a_run_of_several_ratios_counts_with_its_largest_unless_all_share_one(tmp_path: Path) -> None:
    for name, ratios in {"a": [2, 4], "b": [8], "c": [2, 8]}.items():
        metrics = {f"perplexity__ratio_{ratio}": float(ratio) for ratio in ratios}
        run_folder(tmp_path / name, {"ratio": ratios}, [], done(**metrics))
    assert [job.metrics["perplexity/own_ratio"] for job in find_jobs([tmp_path])] == [4.0, 8.0, 8.0]
    shared = find_jobs([tmp_path / "b", tmp_path / "c"])
    assert not any("perplexity/own_ratio" in job.metrics for job in shared)


def test_the_best_score_is_the_highest(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for i, score in enumerate([0.5, 0.75]):
        run_folder(tmp_path / str(i), {"seed": i}, [], done(passkey__ratio_8=score, train__loss=float(i)))
    report([tmp_path])
    assert "best by passkey/ratio_8: 1" in capsys.readouterr().out


def test_a_narrow_terminal_shows_settings_state_and_the_metric(sweep: Path, capsys: pytest.CaptureFixture) -> None:
    for i in range(2):
        metrics = {f"perplexity__ratio_{ratio}": 20.0 + i for ratio in range(2, 30)}
        run_folder(sweep / f"wide{i}", {"ratio": i}, [], done(val__loss=float(i), **metrics))
    report([sweep])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[:14])) <= 80 and any("loss" in line for line in lines)
    assert len((sweep / "summary.md").read_text().splitlines()[0].split("|")) > 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/empty"], "empty has no run in it; allowed: the folder of a run"),
        (["{tmp}/runs", "--metric", "val/los"], "metric='val/los' is not allowed; allowed: train/loss"),
        (["{tmp}/runs", "{tmp}/other"], "runs of evaluate and train cannot be compared; allowed: runs of one command"),
    ],
)
def test_mistakes_on_the_command_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    run_folder(tmp_path / "runs" / "0", {}, [], done(train__loss=1.0))
    run_folder(tmp_path / "other" / "0", {}, [], None, command="evaluate")
    monkeypatch.setattr(sys, "argv", ["sweeps", *(argument.replace("{tmp}", str(tmp_path)) for argument in arguments)])
    with pytest.raises(SystemExit):
        main()
    assert message in capsys.readouterr().err


def test_the_command_writes_where_it_is_told(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "comparison"
    line = ["sweeps", str(sweep), "--metric", "train/loss", "--output", str(target)]
    monkeypatch.setattr(sys, "argv", line)
    main()
    assert {file.name for file in target.iterdir()} == {"summary.csv", "summary.md", "summary.png"}
    assert not (sweep / "summary.csv").exists()
