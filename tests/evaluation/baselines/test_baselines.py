"""Baselines in an evaluation: the rows they become, the memory they get, what is left out, and how a run resumes."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from beacon_lit.cli.earlier import of_earlier_run
from beacon_lit.cli.evaluate import evaluate
from beacon_lit.evaluation import Baseline, Generate, Kvpress, Prompt, Reader, ScoreText, Subject, execute, parse_mode
from beacon_lit.evaluation.baselines import kvpress_server
from beacon_lit.evaluation.modes import split_baseline
from tests.arch.tiny import tiny
from tests.configs import composed, small_text
from tests.evaluation.baselines.stand_in import stand_in
from tests.evaluation.fakes import byte_tokenizer, tiny_lm

TAIL = 40
SLOTS = 72  # of 300 tokens at ratio 8: sink 4, 9 windows of 4 beacons, overlap 20, and 12 tokens of the open window


def run(folder, python, *more):
    """Evaluate a tiny model in seconds."""
    settings = [
        "model=tiny", "beacon.window=32", "beacon.overlap=20", "beacon.sink=4", "ratio=[1,8]", "batch_size=2",
        "task.passkey.lengths=[300]", "task.passkey.depths=[0,100]", f"run_folder={folder}/out",
        f"kvpress.python={python}", f"kvpress.tail={TAIL}",
    ]  # fmt: skip
    return evaluate(composed("evaluate", *settings, *more))


def records(folder, name="out/predictions.jsonl"):
    return [json.loads(line) for line in (folder / name).open()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run and its metrics."""
    folder = tmp_path_factory.mktemp("run")
    text = [f"data.validation=[{small_text(folder / 'text.jsonl')}]", "data.max_length=160"]
    text += ["data=text", "task.perplexity.length=128", "task.perplexity.max_pieces=2"]
    asked = ["baselines=[streaming,kvzip]", "kvpress.budget=[slots,nominal]"]
    return folder, run(folder, stand_in(folder), *text, *asked)


def resumed(folder, setting="resume"):
    overrides = [f"{setting}={folder}/out"]
    return evaluate(of_earlier_run(composed("evaluate", *overrides), overrides))


def of_mode(folder, mode):
    return [record for record in records(folder) if (record["task"], record["mode"]) == ("passkey", mode)]


def test_baselines_are_rows_beside_the_ratios(whole):
    folder, metrics = whole
    names = {name.split("/")[1] for name in metrics if name.startswith("passkey/")}
    ours = {"dense", "window-only", "ratio_1", "ratio_8"}
    assert names - ours == {f"{m}_{r}{b}" for m in ("streaming", "kvzip") for r in (1, 8) for b in ("", "_nominal")}
    assert metrics["passkey/streaming_1"] == 1 and metrics["passkey/streaming_8"] == 0.5, "only the late key is kept"
    page = (folder / "out" / "report.html").read_text()
    assert "<th>kvzip 8 nominal</th>" in page and "are baselines: the dense backbone" in page
    assert "baselines: kvpress 9.9; the last 40 tokens of a prompt are not compressed" in page
    assert json.loads((folder / "out" / "metrics.json").read_text())["costs/passkey/kvzip_8/seconds"] == 2 * 0.5


def test_a_baseline_has_the_memory_of_its_ratio(whole):
    folder, _ = whole
    batches = [batch for batch in records(folder, "asked.jsonl") if batch["requests"]]
    assert all(len(batch["requests"]) == 2 for batch in batches), "batches are those of the evaluation"
    kept = [(batch["method"], batch["requests"][0]["keep"]) for batch in batches]
    assert kept == [
        (method, keep) for method in ("streaming", "kvzip") for keep in (260, 260, SLOTS - TAIL, (300 - TAIL) // 8)
    ]
    (ours, _), (theirs, _) = of_mode(folder, "ratio 8"), of_mode(folder, "kvzip 8")
    entry = 2 * 2 * 2 * 8 * 4  # bytes: layers, keys and values, heads, width, float32
    assert theirs["cache_bytes"] == (SLOTS + theirs["tokens_out"]) * entry
    assert theirs["cache_bytes"] - theirs["tokens_out"] * entry <= ours["cache_bytes"]
    assert ours["tokens_in"] == theirs["tokens_in"] == 300 and ours["template"] == theirs["template"]
    assert theirs["ratio"] == 8 and theirs["ended_by"] == "length"


def test_tasks_without_answers_are_left_out_with_a_reason(whole):
    folder, metrics = whole
    assert "perplexity/ratio_8" in metrics and not [m for m in metrics if m.startswith("perplexity/kvzip")]
    page = (folder / "out" / "report.html").read_text()
    assert "left out: baselines in perplexity, since they answer single prompts only" in page


def test_a_resumed_run_asks_what_is_missing(whole, tmp_path):
    folder = shutil.copytree(whole[0], tmp_path / "copy")
    (folder / "asked.jsonl").unlink()
    python = stand_in(folder)
    config = (folder / "out" / "config.yaml").read_text().replace(str(whole[0] / "python"), str(python))
    (folder / "out" / "config.yaml").write_text(config)
    assert resumed(folder) == whole[1]
    assert not (folder / "asked.jsonl").exists(), "nothing is missing, so that no process starts"
    lines = (folder / "out" / "predictions.jsonl").read_text().splitlines(keepends=True)
    lost = [i for i, line in enumerate(lines) if '"mode": "kvzip 8"' in line]
    (folder / "out" / "predictions.jsonl").write_text("".join(line for i, line in enumerate(lines) if i != lost[0]))
    assert resumed(folder) == whole[1]
    _, asked = records(folder, "asked.jsonl")
    assert asked["method"] == "kvzip" and [request["keep"] for request in asked["requests"]] == [SLOTS - TAIL] * 2
    assert resumed(folder, "rescore") == whole[1]


@pytest.mark.parametrize("has_python", [False, True])
def test_without_kvpress_they_are_left_out_with_a_reason(tmp_path, has_python, caplog):
    python = tmp_path / "python"
    if has_python:
        python.write_text("#!/bin/sh\nexit 1\n")
        python.chmod(0o755)
    metrics = run(tmp_path, python, "baselines=[kvzip]", "task=[passkey]", "ratio=8")
    assert set(metrics) >= {"passkey/ratio_8"} and not [name for name in metrics if "kvzip" in name]
    reason = (
        f"left out: kvzip, since kvpress.python={python} has no kvpress; `make peers` installs .venv-peers/bin/python"
    )
    page = (tmp_path / "out" / "report.html").read_text()
    assert reason in caplog.text and reason in page and "are baselines: the dense backbone" not in page
    stand_in(tmp_path)
    assert "passkey/kvzip_8" in resumed(tmp_path), "they are made up for once kvpress is there"


def test_a_process_that_fails_ends_the_run_with_its_last_words(tmp_path):
    python = stand_in(tmp_path, broken="kvzip")
    with pytest.raises(RuntimeError, match=r"kvpress .* has ended with code 1:(\n.*)*\nbroken: no memory left"):
        run(tmp_path, python, "baselines=[kvzip]", "task=[passkey]")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("baselines=[kvzip,h2o]", r"baselines=\['h2o'\] is not allowed; allowed: kvzip, .*snapkv"),
        ("baselines=[kvzip,kvzip]", r"baselines=\['kvzip', 'kvzip'\] is not allowed; allowed: .* each once"),
        ("kvpress.budget=bytes", "kvpress.budget=bytes is not allowed; allowed: slots, nominal"),
        ("kvpress.budget=[]", r"kvpress.budget=\[\] is not allowed; allowed: slots, nominal"),
        ("kvpress.tail=0", "kvpress.tail=0 is not allowed; allowed: an integer of at least 1"),
        ("kvpress.tail=half", "kvpress.tail=half is not allowed; allowed: an integer of at least 1"),
        ("kvpress.python=null", "kvpress.python=None is not allowed; allowed: the path of a Python"),
    ],
)
def test_bad_settings_are_named_before_anything_is_loaded(setting, message, tmp_path):
    with pytest.raises(Exception, match=message):
        run(tmp_path, "/gone", "baselines=[kvzip]", "checkpoint=/gone", setting)


def test_names_are_split_as_they_are_made():
    for budget in ("slots", "nominal"):
        for memory in (4, "adapt-64"):
            name = Baseline("kvzip_plus", parse_mode(memory), budget, TAIL, None).name
            assert split_baseline(name) == ("kvzip_plus" + " nominal" * (budget == "nominal"), parse_mode(memory).name)
    assert [split_baseline(name) for name in ("dense", "window-only", "ratio 4", "adapt-64")] == [None] * 4


class Unpressed:
    """Answers in this process, without kvpress."""

    def __init__(self, subject, folder):
        subject.lm.save_backbone(folder)
        self.subject, self.model = subject, kvpress_server.load(str(folder), "cpu", "float32")
        assert AutoModelForCausalLM.from_pretrained(folder)

    def ask(self, method, requests):
        return list(kvpress_server.answers(self.model, requests, None))


@torch.no_grad()
def test_at_ratio_1_answers_are_those_of_the_dense_model(tmp_path):
    """Their text, their end and their costs, for every way to end an answer."""
    tokenizer = byte_tokenizer()
    lm = tiny_lm(len(tokenizer)).eval()
    subject = Subject(lm, tokenizer)
    ids = [tokenizer("The river is wide and the hills are low. " * n)["input_ids"] for n in (3, 5)]
    baseline = Baseline("kvzip", parse_mode(1), "nominal", 7, Unpressed(subject, tmp_path))
    dense = Reader(subject, parse_mode("dense"))
    (whole,) = execute(dense, [Generate(Prompt(ids[0]), 12)])
    text, ways = whole["prediction"], [{}, {"min_new_tokens": 4}, {"stop": ("never said", "low")}]
    ways += [{"stop": (text[3:5],)}, {"end_tokens": (tokenizer(text[2:])["input_ids"][0],)}]
    ends = set()
    for way in ways:
        requests = [Generate(Prompt(row, dropped=3), 12, **way) for row in ids]
        for ours, theirs in zip(execute(dense, requests), baseline.ask(requests), strict=True):
            assert {**theirs, "seconds": 0, "ratio": None} == {**ours, "seconds": 0}
            ends.add(theirs["ended_by"])
    assert len(ends) >= 3 and "stop" in ends
    assert baseline.can_answer(requests[0]) and not baseline.can_answer(ScoreText([1]))


class Asked:
    """Keeps what it is asked, and answers nothing."""

    def __init__(self, subject):
        self.subject, self.requests = subject, []

    def ask(self, method, requests):
        self.requests += requests
        return [{"ids": [1], "kept": 1, "seconds": 0.0}] * len(requests)


@pytest.mark.parametrize(("budget", "kept"), [("nominal", 60 // 8), ("slots", None)])
def test_a_prompt_that_knows_its_question_has_a_tail_of_its_own(budget, kept):
    peer = Asked(Subject(tiny_lm(300), byte_tokenizer()))
    prompts = [Prompt([5] * 70, tail=10), Prompt([5] * 70), Prompt([5] * 70, tail=99)]
    Baseline("kvzip", parse_mode(8), budget, TAIL, peer).ask([Generate(prompt, 4) for prompt in prompts])
    assert [asked["tail"] for asked in peer.requests] == [10, TAIL, 69]
    assert peer.requests[0]["keep"] == (kept or peer.subject.lm.cache_slots(70, 8) - 10)


def test_settings_are_checked_without_a_run():
    peer = Asked(Subject(tiny_lm(300), byte_tokenizer()))
    assert Kvpress().version() is None and Kvpress().baselines([parse_mode(4)], peer) == ()
    made = Kvpress(["snapkv"], budget="nominal").baselines(
        [parse_mode(mode) for mode in ("dense", "window-only", 4)], peer
    )
    assert [baseline.name for baseline in made] == ["snapkv 4 nominal"]
    with pytest.raises(
        ValueError, match=r"baselines=\['snapkv'\] is not allowed with ratio=\[\]; allowed: with a ratio"
    ):
        Kvpress(["snapkv"]).baselines([parse_mode("dense")], peer)


def test_caps_of_scores_are_refused():
    peer = Asked(Subject(tiny("gemma2"), byte_tokenizer()))
    assert Kvpress().baselines([parse_mode(4)], peer) == ()
    with pytest.raises(ValueError, match=r"baselines=\['snapkv'\] .* as attn_logit_softcapping=2\.0 asks for"):
        Kvpress(["snapkv"]).baselines([parse_mode(4)], peer)
