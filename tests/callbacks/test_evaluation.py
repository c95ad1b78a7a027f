import json

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from beacon_lit.callbacks import EvaluationCallback
from beacon_lit.callbacks.evaluation import only_beacons_train
from beacon_lit.evaluation import Passkey, Perplexity, flat_metrics
from tests.callbacks.tiny import fit
from tests.evaluation.fakes import FakeLM

TASKS = {"perplexity": Perplexity(length=40, max_pieces=2), "passkey": Passkey(lengths=(256,), depths=(0, 100))}
FIGURES = {"perplexity_by_ratio", "perplexity_by_position", "passkey_by_depth_and_length"}


class Steps(Perplexity):
    """Perplexity that notes the ratio of each answer about the first example."""

    def __init__(self):
        super().__init__(length=40)
        object.__setattr__(self, "asked", [])

    def record(self, example, answer):
        if example.id == "a@0":
            self.asked.append(answer["ratio"])
        return super().record(example, answer)


def evaluations(folder, **settings):
    """How often each mode was evaluated in a fit of six optimizer steps."""
    trainer = settings.pop("trainer", {})
    task = Steps()
    fit(folder, [EvaluationCallback({"perplexity": task}, folder, **settings)], **trainer)
    return {mode: task.asked.count(ratio) for mode, ratio in (("dense", None), ("ratio 2", 2))}


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        (dict(), 2),
        (dict(every_n_steps=2), 4),  # at 0, 2, 4, 6: the last one is not repeated at the end
        (dict(every_n_steps=4), 3),
        (dict(at_start=False, at_end=False, every_n_steps=5), 1),
        (dict(at_start=False, at_end=False), 0),
        (dict(every_n_steps=2, trainer=dict(accumulate_grad_batches=2)), 4),  # 12 batches, 6 steps
    ],
)
def test_runs_at_the_right_optimizer_steps(tmp_path, settings, count):
    assert evaluations(tmp_path, **settings)["ratio 2"] == count


def test_what_beacons_cannot_change_is_scored_once(tmp_path):
    assert evaluations(tmp_path, every_n_steps=2) == {"dense": 1, "ratio 2": 4}


def test_a_trained_backbone_is_scored_each_time():
    lm = FakeLM()
    assert only_beacons_train(lm)
    lm.backbone.requires_grad_(True)
    assert not only_beacons_train(lm)


def test_training_is_the_same_with_and_without(tmp_path):
    torch.manual_seed(3)
    _, plain = fit(tmp_path, [])
    state = torch.get_rng_state()
    torch.manual_seed(3)
    _, watched = fit(tmp_path, [EvaluationCallback(TASKS, tmp_path, every_n_steps=1)])
    assert torch.equal(plain.lm.penalty, watched.lm.penalty) and plain.lm.penalty < 0.5
    assert torch.equal(state, torch.get_rng_state())


def test_files_table_and_results(tmp_path, capsys):
    callback = EvaluationCallback(TASKS, tmp_path, every_n_steps=4)
    fit(tmp_path, [callback])
    before = json.loads((tmp_path / "before_training" / "metrics.json").read_text())
    after = json.loads((tmp_path / "metrics.json").read_text())
    assert after["perplexity/ratio_2"] < before["perplexity/ratio_2"]
    assert after["perplexity/dense"] == before["perplexity/dense"]
    assert after["perplexity/ratio_2"] == callback.last["perplexity"]["ratio 2"].value
    for folder in (tmp_path, tmp_path / "before_training"):
        assert {path.stem for path in folder.glob("*.png")} == FIGURES
        assert (folder / "report.html").is_file()
    page = (tmp_path / "report.html").read_text()
    assert "after training</h1>" in page and page.count('<span class="soft">before training</span>') == len(TASKS)
    for folder in (tmp_path, tmp_path / "before_training"):
        assert len((folder / "predictions.jsonl").read_text().splitlines()) == 4 * 2 + 4 * 2
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if "ratio 2" in line).split()
    assert row[-4:-2] == [f"{before['perplexity/ratio_2']:.2f}", f"{after['perplexity/ratio_2']:.2f}"]
    assert printed.split().count("before") == printed.split().count("after") == 2
    costs = printed[printed.index("tokens/s") :].splitlines()
    row = next(line for line in costs if "ratio 2" in line).split()
    assert len(row) == 5 and float(row[3].replace(",", "")) > 0, "seconds, tokens a second and the size of the cache"


def test_scalars_and_figures_reach_the_loggers(tmp_path):
    loggers = [TensorBoardLogger(tmp_path, name="tb", version=0), CSVLogger(tmp_path, name="csv", version=0)]
    callback = EvaluationCallback(TASKS, tmp_path, every_n_steps=4)
    fit(tmp_path, [callback], logger=loggers)
    events = EventAccumulator(str(tmp_path / "tb" / "version_0")).Reload()
    scalars = events.Scalars("eval/perplexity/ratio_2")
    assert [event.step for event in scalars] == [0, 4, 6]
    assert scalars[-1].value == pytest.approx(callback.last["perplexity"]["ratio 2"].value)
    assert "more_eval/passkey/ratio_4/similarity" in events.Tags()["scalars"]
    assert {f"eval/{name}" for name in FIGURES} <= set(events.Tags()["images"])
    assert "eval/passkey/dense" in (tmp_path / "csv" / "version_0" / "metrics.csv").read_text()


def test_a_resumed_run_keeps_the_first_results(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=4)
    whole = EvaluationCallback(TASKS, tmp_path, every_n_steps=4)
    fit(tmp_path, [whole, checkpoint], enable_checkpointing=True)
    resumed = EvaluationCallback(TASKS, tmp_path / "resumed", every_n_steps=4)
    fit(tmp_path, [resumed], resume=tmp_path / "step=4.ckpt")
    for task, scores in whole.first.items():
        assert {mode: score.value for mode, score in scores.items()} == {
            mode: score.value for mode, score in resumed.first[task].items()
        }
    assert flat_metrics(resumed.last) == flat_metrics(whole.last)
    assert not (tmp_path / "resumed" / "before_training").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(tasks={}), r"tasks=\[\] is not allowed"),
        (dict(tasks=TASKS, every_n_steps=0), "every_n_steps=0 is not allowed; allowed: at least 1"),
    ],
)
def test_bad_settings_are_named(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        EvaluationCallback(folder=tmp_path, **settings)
