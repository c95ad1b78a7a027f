"""Evaluating and generating on the way leave training as it is, and find what the saved model says of itself."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from beacon_lit import BeaconCache, BeaconLM
from beacon_lit.cli.evaluate import evaluate
from beacon_lit.cli.train import train
from tests.configs import composed
from tests.distributed.generating import OPTIONS, QUESTION, generating, sampled, texts
from tests.distributed.in_turn import SCRIPT, THEN
from tests.distributed.runs import overrides, torchrun
from tests.distributed.tracing import differences, disturbing, traces, tracing

STRATEGIES = ["ddp", "deepspeed_stage2", "deepspeed_stage3", "fsdp2"]
SPREAD = STRATEGIES[2:]
RANDOM = ["ratio=[2,4]", "beacon.ratio_policy=random", "schedule.name=linear", "schedule.num_warmup_steps=0"]
DROPOUT = ["tuning=lora", "tuning.lr=1e-2", "tuning.r=4", "tuning.lora_dropout=0.1"]  # of models that are whole alone
ELSEWHERE = "of rank 1 differs from that of rank 0, with which it shares the model; allowed: the same on every rank"
REFUSED = [
    f"what generate was given {ELSEWHERE}",
    f"what dense_generate was given {ELSEWHERE}",
    f"the length of the texts {ELSEWHERE}",
    "generate is not allowed in training mode where the model is spread over ranks, each of which draws ratios of its "
    "own; allowed: lm.eval()",
]
# Three, one and five examples, two at once: neither batches nor ranks come out even.
TASKS = [
    "task=[passkey,needle,perplexity]",
    "task.passkey.lengths=[300]", "task.passkey.depths=[0,50,100]",
    "task.needle.lengths=[300]", "task.needle.depths=[40]", "task.needle.max_new_tokens=4",
    "task.perplexity.length=128", "task.perplexity.max_pieces=5",
]  # fmt: skip


def evaluating(settings: Sequence[str], text: Path, every: int) -> list[str]:
    """The settings of a run without evaluation, for one that is evaluated at its start, on the way and at its end."""
    without = ("~callbacks.evaluation", "data.validation=[]")
    kept = [setting for setting in settings if setting not in without and not setting.startswith("task.")]
    ways = ["callbacks.evaluation.batch_size=2", f"callbacks.evaluation.every_n_steps={every}"]
    return [*kept, *TASKS, *ways, f"data.validation=[{text}]"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_happens_on_the_way_disturbs_nothing_and_finds_what_a_whole_model_does(
    strategy: str, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    plain, watched = tmp_path / "plain", tmp_path / "watched"
    more = [*RANDOM, "trainer.max_steps=3", *(DROPOUT if strategy not in SPREAD else [])]
    of_watched = evaluating(overrides(strategy, *inputs, watched), inputs[1], every=2)
    torchrun(
        2, *overrides(strategy, *inputs, plain), *more, *tracing(plain),
        THEN, *of_watched, *more, *tracing(watched), *generating(watched / "texts"), script=SCRIPT,
    )  # fmt: skip
    assert not differences(plain, watched)
    rows = [row for of_rank in traces(plain) for row in of_rank[1:]]
    assert len(rows) == 2 * 3 * 2 and all(row["dropout"] == (strategy not in SPREAD) for row in rows)
    check_evaluation(watched, inputs[1], tmp_path / "after")
    check_texts(watched, strategy in SPREAD, tmp_path / "whole.cache")


def check_evaluation(run: Path, text: Path, folder: Path) -> None:
    """The last evaluation of a run found what one process finds in the saved beacons, and all of it was logged."""
    read = [f"checkpoint={run}", "data=text", f"data.validation=[{text}]", "data.max_length=160", "batch_size=2"]
    evaluate(composed("evaluate", *read, *TASKS, f"run_folder={folder}"))
    found, expected = (json.loads((path / "metrics.json").read_text()) for path in (run, folder))
    assert timeless(found) == timeless(expected)
    records = [
        [timeless(json.loads(line)) for line in (path / "predictions.jsonl").read_text().splitlines()]
        for path in (run, folder)
    ]
    assert len(records[0]) == (3 + 1 + 5) * 4, "dense, window-only and two ratios"
    assert records[0] == records[1]
    assert any(record["prediction"] for record in records[0] if "prediction" in record)
    with (run / "csv" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["eval/passkey/ratio_4"]]
    assert [row["step"] for row in rows] == ["0", "2", "3"]
    scores = {name.removeprefix("eval/"): value for name, value in rows[-1].items() if name.startswith("eval/")}
    assert len(scores) == 3 * 4 and all(float(value) == found[name] for name, value in scores.items())
    first = json.loads((run / "before_training" / "metrics.json").read_text())
    assert first["perplexity/ratio_4"] != found["perplexity/ratio_4"]


def timeless(values: dict[str, Any]) -> dict[str, Any]:
    """Without what depends on the clock."""
    return {name: value for name, value in values.items() if "seconds" not in name and "per_second" not in name}


def check_texts(run: Path, spread: bool, cache_file: Path) -> None:
    """What every rank read and wrote after the last step is what the saved beacons read and write."""
    lm = BeaconLM.from_pretrained(str(run / "beacons"), dtype=torch.float32).eval()
    expected = texts(lm, cache_file)
    for rank in range(2):
        found: dict[str, Any] = torch.load(run / "texts" / f"rank-{rank}.pt")
        for name, values in expected.items():
            assert torch.equal(found[name], values), name
        assert not found["drew"]
        if not (spread and rank):  # ranks that share a model draw what rank zero draws
            torch.set_rng_state(found["state"])
            drawn = sampled(lm)
        assert torch.equal(found["sampled"], drawn)
        assert found.get("refused", []) == (REFUSED if spread else [])
        cache = BeaconCache.load(run / "texts" / f"rank-{rank}.cache")  # refused if it is another model's
        text = lm.generate(QUESTION, cache=cache, do_sample=False, **OPTIONS)
        assert torch.equal(text, expected["from a cache"])


@pytest.fixture(scope="module")
def undisturbed(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps on one process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    train(composed("train", *overrides("cpu", *inputs, folder), *RANDOM, *DROPOUT, *tracing(folder)))
    return folder


@pytest.mark.parametrize(
    ("how", "seen"),
    [
        ("ratios", {"ratios", "losses", "weights"}),
        ("mode of one layer", {"modes", "losses", "weights"}),
        ("learning rate", {"learning rate", "losses", "weights"}),
        ("torch", {"torch"}),
        ("python", {"python"}),
        ("numpy", {"numpy"}),
    ],
)
def test_what_disturbs_is_seen(
    how: str, seen: set[str], undisturbed: Path, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    settings = [*overrides("cpu", *inputs, tmp_path), *RANDOM, *DROPOUT]
    train(composed("train", *settings, *disturbing(how), *tracing(tmp_path)))
    assert seen <= differences(undisturbed, tmp_path)
