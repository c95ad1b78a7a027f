"""Where a question ends on a window's border, an overlap keeps the answer right; without one there is a hole.

The models of `tests/fixtures/border` are those of `python -m benchmarks.border` (seed 0), trained on the same rows.
"""

import random
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from beacon_lit import BeaconLM
from benchmarks import border
from benchmarks.recall import METHODS, Accuracy, Recall, Study, build, measure
from benchmarks.recall.training import draw

STUDY = Study()
TASK = STUDY.task
PARTED = TASK.parted(STUDY.window)
MODELS = Path(__file__).parent / "fixtures" / "border"
SAMPLES = 24  # per length: one answer more or less moves a share by 0.04


@cache
def accuracy(trained: int, overlap: int, method: str) -> Accuracy:
    """Of the model trained with one overlap, read with another."""
    beacon = None if trained == overlap else STUDY.beacon(overlap)
    lm = BeaconLM.from_pretrained(str(MODELS / f"overlap-{trained}"), beacon, dtype=torch.float32)
    assert lm.beacon.overlap == overlap
    return measure(lm, TASK, method, STUDY.shortest, SAMPLES, seed=1)


def assert_even(curve: Accuracy) -> None:
    """Answers are right wherever in a window the question ends."""
    assert curve.besides(PARTED) >= 0.9
    assert curve.at(PARTED) >= curve.besides(PARTED) - 0.1
    assert min(curve.complete) >= curve.besides(PARTED) - 0.2


@pytest.mark.parametrize("method", METHODS)
def test_without_overlap_there_is_a_hole_at_the_border(method: str) -> None:
    curve = accuracy(0, 0, method)
    assert curve.besides(PARTED) >= 0.9
    assert all(curve.complete[place] <= curve.besides(PARTED) - 0.2 for place in PARTED)
    assert curve.complete[0] <= 0.5
    assert min(curve.complete[place] for place in range(STUDY.window) if place not in PARTED) >= 0.75


@pytest.mark.parametrize("method", METHODS)
def test_without_overlap_only_tokens_after_the_border_are_wrong(method: str) -> None:
    curve = accuracy(0, 0, method)
    for written, place in enumerate(PARTED):  # tokens of the answer before the border; the next still sees the question
        seen, unseen = curve.tokens[place][: written + 1], curve.tokens[place][written + 1 :]
        assert min(seen) >= 0.85
        assert unseen[0] <= 0.75


@pytest.mark.parametrize("method", METHODS)
def test_with_overlap_there_is_none(method: str) -> None:
    assert_even(accuracy(8, 8, method))


@pytest.mark.parametrize("method", METHODS)
def test_that_is_the_overlaps_doing(method: str) -> None:
    """Negative control: the same weights without their overlap."""
    without = accuracy(8, 0, method)
    with pytest.raises(AssertionError):
        assert_even(without)
    assert without.at(PARTED) <= 0.5
    assert without.besides(PARTED) >= 0.75  # it is not that they no longer recall anything


def test_an_overlap_helps_a_model_that_was_trained_without() -> None:
    """When it generates. In one pass, scored tokens of closed windows see tail and beacons together, new to it."""
    assert_even(accuracy(0, 8, "generate"))


def test_where_a_border_parts_question_and_answer() -> None:
    assert Recall(answer=4).parted(32) == [0, 31, 30]
    assert Recall(answer=4).parted(32, overlap=2) == [31, 30]
    assert Recall(answer=4).parted(32, overlap=4) == []
    assert Recall(answer=1).parted(32) == []


def test_rows_tell_every_answer_before_it_is_asked_for() -> None:
    ids, labels = TASK.batch(random.Random(0), 20, 100, 4, at_end=True)
    assert ids.shape == labels.shape == (20, 100)
    for row, scored in zip(ids.tolist(), labels.tolist(), strict=True):
        told: dict[int, list[int]] = {}
        asked = []
        for i, token in enumerate(row):
            if token == TASK.key_mark:
                told[row[i + 1]] = row[i + 2 : i + 6]
            elif token == TASK.ask_mark:
                assert scored[i + 2 : i + 6] == row[i + 2 : i + 6] == told[row[i + 1]]
                asked.append(row[i + 1])
        assert sorted(asked) == sorted(told) and len(told) == 4
        assert sum(label != -100 for label in scored) == 16
        assert row[-6] == TASK.ask_mark


def test_models_differ_in_overlap_alone() -> None:
    one, other = (build(STUDY, overlap).state_dict() for overlap in (0, 8))
    assert all(torch.equal(one[name], other[name]) for name in one)
    study = replace(STUDY, rows=1)
    lengths = {draw(study, random.Random(0), study.steps)[0].shape[1] for _ in range(3)}
    assert len(lengths) == 1  # rows depend on the seed and the step
    rng = random.Random(0)
    drawn = {draw(study, rng, study.steps)[0].shape[1] for _ in range(400)}
    assert {length % STUDY.window for length in drawn} == set(range(STUDY.window))
    assert max(drawn) >= STUDY.shortest + STUDY.window  # no prompt is longer than what was trained on


def test_command_trains_saves_and_draws(tmp_path: Path) -> None:
    study = replace(STUDY, steps=2, samples=1, rows=1)
    results = {overlap: border.run(study, tmp_path, overlap) for overlap in study.overlaps}
    assert {path.parent.name for path in tmp_path.glob("*/model.safetensors")} == {"overlap-0", "overlap-8"}
    lines = border.table(study, results).splitlines()
    assert len(lines) == 1 + STUDY.window + 2
    assert [int(line.split()[0]) for line in lines if "*" in line and "mean" not in line] == sorted(PARTED)
    assert len(border.figure(study, results).axes[0].lines) == 4


def test_results_are_not_overwritten(tmp_path: Path) -> None:
    border.prepare(tmp_path / "new" / "folder")
    border.prepare(tmp_path / "new" / "folder")
    with pytest.raises(ValueError, match=r"out=.*new'"):
        border.prepare(tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"out=.*file'"):
        border.prepare(tmp_path / "file")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("steps", 0),
        ("samples", 0),
        ("seed", -1),
        ("window", 16),
        ("longest", 100),
        ("hidden", 60),
        ("rate", 0.0),
        ("overlaps", ()),
        ("overlaps", (8, 8)),
        ("device", "abacus"),
    ],
)
def test_bad_settings_are_named(setting: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{setting}=.*allowed"):
        Study(**{setting: value})  # type: ignore[arg-type]


def test_bad_tasks_and_measurements_are_named() -> None:
    with pytest.raises(ValueError, match="records=17"):
        Recall(records=17)
    with pytest.raises(ValueError, match="length=40"):
        TASK.batch(random.Random(0), 1, 40, 4)
    lm = build(STUDY, 0)
    with pytest.raises(ValueError, match="method='guess'"):
        measure(lm, TASK, "guess", 96, 1)
    with pytest.raises(ValueError, match="shortest=97"):
        measure(lm, TASK, "generate", 97, 1)
