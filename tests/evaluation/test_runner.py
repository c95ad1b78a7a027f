import json
import random
import re

import numpy
import pytest
import torch

from beacon_lit.evaluation import (
    Passkey,
    Perplexity,
    Subject,
    choose_modes,
    flat_metrics,
    make_figures,
    run,
    save,
    score_table,
)
from beacon_lit.evaluation.runner import evaluating
from beacon_lit.evaluation.table import cost_table
from beacon_lit.evaluation.tasks import MultiNeedle, MultiTurnNeedle, Needle, Ruler
from tests.evaluation.fakes import FakeLM, byte_tokenizer

TASKS = {"perplexity": Perplexity(length=40, max_pieces=2), "passkey": Passkey(lengths=(256, 300), depths=(0, 100))}
DOCUMENTS = [("a", list(range(100)))]


def evaluate(lm=None):
    lm = lm or FakeLM()
    return run(TASKS, Subject(lm, byte_tokenizer(), lambda: DOCUMENTS), choose_modes(lm), progress=False)


@pytest.fixture(scope="module")
def results():
    return evaluate()


def test_results_are_by_task_and_mode(results):
    assert list(results) == ["perplexity", "passkey"]
    for scores in results.values():
        assert list(scores) == ["dense", "window-only", "ratio 2", "ratio 4"]


def test_nothing_of_the_model_or_of_random_state_changes():
    lm = FakeLM()
    lm.backbone[0].eval()  # a module with a mode of its own keeps it
    modes = [module.training for module in lm.modules()]
    weights = {name: value.clone() for name, value in lm.state_dict().items()}
    states = random.getstate(), torch.get_rng_state(), numpy.random.get_state()[1].copy()
    evaluate(lm)
    assert modes == [module.training for module in lm.modules()] and modes[0] and not modes[2]
    assert all(torch.equal(value, weights[name]) for name, value in lm.state_dict().items())
    assert all(parameter.grad is None for parameter in lm.parameters())
    assert torch.is_grad_enabled()
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    assert (numpy.random.get_state()[1] == states[2]).all()


def test_training_mode_comes_back_after_an_error():
    lm = FakeLM()
    with pytest.raises(KeyError), evaluating(lm):
        raise KeyError
    assert lm.training and torch.is_grad_enabled()


def test_metric_names_are_flat(results):
    metrics = flat_metrics(results)
    assert metrics["perplexity/ratio_4"] == results["perplexity"]["ratio 4"].value
    assert metrics["perplexity/window-only/window_1"] == pytest.approx(2.718281828**3)
    assert metrics["passkey/dense"] == 1
    assert metrics["passkey/dense/length_300/depth_100"] == 1
    assert metrics["passkey/dense/similarity"] == 1
    assert set(flat_metrics(results, details=False)) == {
        f"{task}/{mode}" for task in TASKS for mode in ("dense", "window-only", "ratio_2", "ratio_4")
    }


def test_files_of_a_run(results, tmp_path):
    folder = tmp_path / "new" / "run"
    save(folder, TASKS, {"": results}, make_figures(TASKS, {"": results}), {})
    metrics = json.loads((folder / "metrics.json").read_text())
    assert flat_metrics(results).items() <= metrics.items()
    assert metrics["costs/passkey/dense/tokens_in"] == 2 * (256 + 300)
    assert metrics["costs/passkey/ratio_4/cache_mib"] < metrics["costs/passkey/ratio_2/cache_mib"]
    records = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert len(records) == 4 * 2 + 4 * 4
    assert {record["task"] for record in records} == set(TASKS) and records[0]["mode"] == "dense"
    names = {path.name for path in folder.glob("*.png")}
    assert names == {
        "perplexity_by_ratio.png",
        "perplexity_by_position.png",
        "passkey_by_depth_and_length.png",
        "costs_by_length.png",
    }
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in names)


def cells(table):
    return [[*column.cells] for column in table.columns]


def test_table_of_one_run(results):
    table = score_table({"": results})
    assert [column.header for column in table.columns] == ["", "perplexity", "passkey"]
    modes, perplexity, passkey = cells(table)
    assert modes == ["dense", "window-only", "ratio 2", "ratio 4"]
    assert perplexity == [f"{score.value:.2f}" for score in results["perplexity"].values()]
    assert passkey == ["1.00", "0.00", "1.00", "1.00"]


def test_table_of_costs_is_of_all_tasks_together(results):
    table = cost_table(results)
    assert [column.header for column in table.columns] == ["", "seconds", "tokens/s", "cache MiB"]
    modes, seconds, speed, cache = cells(table)
    assert modes == ["dense", "window-only", "ratio 2", "ratio 4"]
    records = [record for scores in results.values() for record in scores["ratio 4"].predictions]
    took = sum(record["seconds"] for record in records)
    assert seconds[3] == f"{took:,.1f}" and speed[3] == f"{(2 * 40 + 2 * 256 + 2 * 300) / took:,.0f}"
    assert cache[3] == f"{max(record['cache_bytes'] for record in records) / 2**20:,.2f}"


def test_table_of_two_runs_puts_each_task_side_by_side(results):
    after = evaluate(FakeLM(penalty=0.5))
    table = score_table({"before training": results, "after training": {"perplexity": after["perplexity"]}})
    assert [column.header for column in table.columns] == [
        "",
        "perplexity\nbefore training",
        "perplexity\nafter training",
        "passkey\nbefore training",
        "passkey\nafter training",
    ]
    columns = cells(table)
    assert columns[1][:2] == columns[2][:2] and columns[1][2] != columns[2][2]
    assert columns[4] == ["-"] * 4


def test_figures_show_every_run_and_the_newest_alone_where_there_is_one_panel(results):
    after = evaluate(FakeLM(penalty=0.5))
    figures = make_figures(TASKS, {"before": results, "after": after})
    lines = figures["perplexity_by_ratio"].axes[0].get_lines()
    by_label = {line.get_label(): list(line.get_ydata()) for line in lines}
    for label, run_results in (("before", results), ("after", after)):
        scores = run_results["perplexity"]
        assert by_label[label] == [scores["ratio 2"].value, scores["ratio 4"].value]
    positions = {line.get_label(): list(line.get_ydata()) for line in figures["perplexity_by_position"].axes[0].lines}
    details = after["perplexity"]["ratio 2"].details
    assert positions["ratio 2"] == [details[f"window_{i}"] for i in range(3)]
    panels = figures["passkey_by_depth_and_length"].axes[:4]
    assert [axes.get_title() for axes in panels] == ["dense", "window-only", "ratio 2", "ratio 4"]
    assert [[text.get_text() for text in axes.texts] for axes in panels[:2]] == [["1"] * 4, ["0"] * 4]
    assert (panels[1].images[0].get_array() == 0).all()


def test_figures_of_a_lone_run_and_of_scores_that_are_no_numbers(results):
    lone = make_figures(TASKS, {"": results})
    assert lone["perplexity_by_position"].axes[0].get_title() == "Perplexity by position"
    assert lone["passkey_by_depth_and_length"].get_suptitle() == "Passkey accuracy"
    diverged = make_figures(TASKS, {"before": results, "after": evaluate(FakeLM(penalty=float("nan")))})
    assert diverged["perplexity_by_position"].axes[0].get_title() == "Perplexity by position, after"
    for figure in [*lone.values(), *diverged.values()]:
        figure.canvas.draw()


NEEDLES = {"lengths": (600, 900), "template": "plain", "max_new_tokens": 8}


@pytest.mark.parametrize(
    ("task", "example", "length"),
    [
        (Perplexity(length=900, rest=True), "long@0", 900),
        (Passkey(lengths=(600, 900), depths=(0,)), "900/0/0", 900),
        (Needle(depths=(0,), **NEEDLES), "900/0/0", 900),
        (MultiNeedle(**NEEDLES), "900/0", 900),
        (MultiTurnNeedle(**NEEDLES), "900/0", 900),
        (Ruler((600, 900), samples=1, subsets=("niah_single_1",)), "niah_single_1/900/0", 800),
    ],
)
def test_a_text_that_is_too_long_is_found_before_the_model_is_asked(task, example, length):
    """Positions hold what ratio 4 makes of it, not what ratio 2 does; the shorter one comes first."""
    lm, tokenizer = FakeLM(), byte_tokenizer()
    text = tokenizer("All is well in the hills by the sea, says the old man. " * 40)["input_ids"]
    documents = [("short", text[:100]), ("long", text)]
    subject = Subject(lm, tokenizer, lambda: documents)
    lm.positions = 420
    with pytest.raises(
        ValueError, match=rf"task=t, ratio 2, example {example}: (\d+) tokens, .*ratio=4, the"
    ) as caught:
        run({"t": task}, subject, choose_modes(lm), batch_size=2, progress=False)
    assert int(re.search(r"(\d+) tokens", str(caught.value))[1]) >= length and not lm.calls
    lm.positions = 4096
    scores = run({"t": task}, subject, choose_modes(lm), batch_size=2, progress=False)
    assert len(scores["t"]["ratio 2"].predictions) >= 2 and lm.calls
