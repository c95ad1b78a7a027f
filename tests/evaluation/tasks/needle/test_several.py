"""Several needles in one text: asked for at once, and in turns."""

import json

import pytest
import torch

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.cli import resolvers
from beacon_lit.cli.earlier import of_earlier_run
from beacon_lit.cli.evaluate import evaluate
from beacon_lit.evaluation import Converse, Reader, Subject, execute, parse_mode, run
from beacon_lit.evaluation.tasks import MultiNeedle, MultiTurnNeedle
from tests.configs import composed, small_backbone, small_model, small_text
from tests.evaluation.fakes import byte_tokenizer
from tests.evaluation.finding import FindingLM, documents, tokenizer
from tests.evaluation.judges import judging


def scores_of(task, chat=False, **model):
    tokens = tokenizer(chat, bos=chat)
    lm = FindingLM(tokens, **model)
    subject = Subject(lm, tokens, lambda: documents(tokens))
    modes = [parse_mode(mode) for mode in ("dense", 2, "window-only")]
    return lm, run({"t": task}, subject, modes, batch_size=2, progress=False)["t"]


@pytest.mark.parametrize("chat", [False, True])
def test_all_needles_are_told_at_once_or_none(chat):
    task = MultiNeedle(lengths=(1500,), samples=2)
    _, scores = scores_of(task, chat, window=128)
    assert [score.value for score in scores.values()] == [1, 1, 0]
    assert [score.details["all_found"] for score in scores.values()] == [1, 1, 0]
    record = scores["dense"].predictions[0]
    graded = task.grade({**record, "prediction": f"{record['answers'][1]}, {record['answers'][0]}"})
    assert graded["score"] == pytest.approx(2 / 3) and graded["all_found"] == 0


@pytest.mark.parametrize("chat", [False, True])
def test_every_turn_finds_its_needle_over_one_cache(chat):
    lm, scores = scores_of(MultiTurnNeedle(lengths=(1500,), samples=2, max_new_tokens=99), chat, window=128)
    assert [score.value for score in scores.values()] == [1, 1, 0]
    for reads in zip(*[iter(lm.read)] * 3, strict=True):  # the text is read in the first turn alone
        assert reads[0] == 1500 and max(reads[1:]) < 250
    for score in scores.values():
        details, record = score.details, score.predictions[0]
        assert [details[f"turn_{i}/score"] for i in (1, 2, 3)] == [score.value] * 3
        assert 0 < details["turn_1/seconds"] < details["turn_2/seconds"] < details["turn_3/seconds"]
        assert record["seconds"] == pytest.approx(sum(turn["seconds"] for turn in record["turns"]))
        assert record["tokens_in"] == sum(turn["tokens_in"] for turn in record["turns"]) > 1500
        assert len(set(record["answers"])) == 3 and len(record["turns"]) == 3


def test_needles_lie_in_parts_of_their_own():
    tokens = tokenizer()
    task = MultiTurnNeedle(lengths=(1500,), samples=5, needles=4)
    orders = set()
    for example in task.examples(Subject(None, tokens, lambda: documents(tokens))):
        depths = example.about["depths"]
        assert sorted(int(depth // 25) for depth in depths) == [0, 1, 2, 3]
        order = sorted(range(4), key=depths.__getitem__)
        assert order == sorted(range(4), key=example.about["positions"].__getitem__)
        orders.add(tuple(order))
        ids = example.content[1][0]
        for position, needle in zip(example.about["positions"], example.about["needles"], strict=True):
            assert tokens.decode(ids[position:]).startswith(f"\n\n{needle}\n\n")
    assert len(orders) > 1


@pytest.mark.parametrize("kind", [MultiNeedle, MultiTurnNeedle])
@pytest.mark.parametrize("count", [1, 99])
def test_a_count_of_needles_that_cannot_be_is_named(kind, count):
    with pytest.raises(ValueError, match=f"needles={count} is not allowed; allowed: between 2 and"):
        kind(lengths=(900,), needles=count)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    torch.manual_seed(3)
    return small_backbone(tmp_path_factory.mktemp("model") / "backbone")


@pytest.mark.parametrize("mode", ["dense", "window-only", 2, 4])
def test_a_conversation_over_a_cache_is_that_of_whole_passes(backbone, mode):
    lm = BeaconLM.from_pretrained(
        str(backbone), BeaconConfig(window=16, ratios=(2, 4), sink=1, placement="interleave")
    ).eval()
    turns = [torch.arange(40) % 50 + 40, torch.arange(7) + 60, torch.arange(21) + 70]
    mode = parse_mode(mode)
    reader = Reader(Subject(lm, byte_tokenizer()), mode)
    (found,) = execute(reader, [Converse([turn.tolist() for turn in turns], 6)])
    said = found["turns"]
    ids = torch.zeros(1, 0, dtype=torch.int64)
    for turn, output in zip(turns, said, strict=True):
        ids = torch.cat([ids, turn[None]], 1)
        start = ids.shape[1]
        for _ in range(output["tokens_out"]):
            with torch.no_grad():
                logits = lm.dense(ids).logits if mode.is_dense else lm(ids, ratios=mode.ratio).logits
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
        assert output["prediction"] == byte_tokenizer().decode(ids[0, start:], skip_special_tokens=True)
    assert [output["tokens_in"] for output in said] == [40, 8, 22]  # one more: the last token of a cut answer


def test_configs_run_end_to_end_and_a_judge_comes_later(backbone, tmp_path):
    resolvers.register()
    text = small_text(tmp_path / "text.jsonl")
    folder = tmp_path / "run"
    names = ["needle", "multi_needle", "multi_turn_needle"]
    settings = [*small_model(backbone), "ratio=[4]", "accelerator=cpu"]
    settings += ["data=text", f"data.train=[{text}]", f"data.validation=[{text}]", f"data.cache={tmp_path}/tokens"]
    settings += [f"task=[{','.join(names)}]", f"run_folder={folder}", "data.max_length=160", "data.num_workers=0"]
    settings += [f"task.{name}.lengths=[1200]" for name in names] + [f"task.{n}.max_new_tokens=4" for n in names]
    settings += ["task.needle.depths=[50]"]
    metrics = evaluate(composed("evaluate", *settings))
    assert {"needle/dense", "multi_needle/ratio_4/all_found", "multi_turn_needle/window-only/turn_3/seconds"} <= {
        *metrics
    }
    assert evaluate(composed("evaluate", *settings, f"run_folder={folder}2"))["needle/dense"] == metrics["needle/dense"]
    first, again = ((tmp_path / name / "predictions.jsonl").read_text() for name in ("run", "run2"))

    def said(lines):
        return [json.loads(line)["prediction"] for line in lines.splitlines()]

    assert said(first) == said(again) and "brown fox" not in first

    with judging(lambda _: "Score: 6") as (url, requests):
        judge = [f"task.{name}.judge.{key}={value}" for name in names for key, value in (("url", url), ("model", "m"))]
        judge += [f"task.{name}.metric=judge" for name in names]
        chosen = [f"rescore={folder}", *judge]
        rescored = evaluate(of_earlier_run(composed("evaluate", f"rescore={folder}"), chosen))
    assert all(rescored[f"{name}/{mode}"] == 6 for name in names for mode in ("dense", "window-only", "ratio_4"))
    assert len(requests) == 3 * (1 + 2 + 2 * 3) and rescored["needle/dense/judge_failed"] == 0
    assert (folder / "needle_judge_by_depth_and_length.png").is_file()
