import json

import pytest

from beacon_lit.cli.evaluate import evaluate
from beacon_lit.evaluation import Subject, parse_mode, run
from beacon_lit.evaluation.tasks import InfiniteBench
from beacon_lit.evaluation.tasks.infinitebench.prompts import PROMPTS, write_prompt
from beacon_lit.evaluation.tasks.infinitebench.subsets import SUBSETS
from tests.configs import composed, small_backbone, small_model
from tests.evaluation.fakes import FakeLM, byte_tokenizer

OPTIONS = ["Anna", "Bert", "Carl", "Dora"]
ROWS = {
    "passkey": dict(context="The pass key is 12345.", input="What is the pass key?", answer=["12345"]),
    "number_string": dict(context="The digits are 33344.", input="What are the digits?", answer=["33344"]),
    "kv_retrieval": dict(context='JSON: {"a": "b-c"}', input='Key: "a"', answer=["b-c"]),
    "longbook_sum_eng": dict(context="A book.", input="", answer=["It is a book. The end."]),
    "longbook_choice_eng": dict(context="A book.", input="Who?", answer=["Carl"], options=OPTIONS),
    "longbook_qa_eng": dict(context="A book.", input="Who is it?", answer=["The old man", "Carl"]),
    "longbook_qa_chn": dict(context="书。", input="谁？", answer=["老人"]),  # noqa: RUF001
    "longdialogue_qa_eng": dict(context="$$MASK$$: Hello {you}.", input="", answer=["ANNA"]),
    "math_find": dict(
        context="[3, 1, 2]",
        input="You should answer with a number. The second largest number of the list is:",
        answer=2,
    ),
    "math_calc": dict(context="1 + 2 - 3", input="", answer=[1, 3, 0]),
    "code_run": dict(context="def func_7(x): ...", input="Please tell the value of func_7(-3).", answer=-12),
    "code_debug": dict(context="def Anna(): ...", input="Which?", answer=["Dora", "D"], options=OPTIONS),
}


def write(folder, rows=ROWS):
    folder.mkdir(exist_ok=True)
    for name, row in rows.items():
        records = [{"id": i, "options": [], **row} for i in range(2)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(folder)


def graded(subset, said, **row):
    labels = list(SUBSETS[subset].labels({"options": [], **ROWS[subset], **row}))
    record = json.loads(json.dumps({"subset": subset, "prediction": said, "answers": labels}))
    return InfiniteBench("x").grade(record)["score"]


@pytest.mark.parametrize(
    ("subset", "said", "score"),
    [
        ("passkey", " 12345. Then 6", 1),
        ("passkey", "6 12345", 0),
        ("number_string", "33344", 1),
        ("number_string", "333445", 0),
        ("kv_retrieval", '"b-c".', 1),  # of a list of answers, which the official scorer never finds
        ("kv_retrieval", "b c", 0),
        ("longbook_sum_eng", "It is a book. The end.", pytest.approx(1, abs=1e-6)),
        ("longbook_sum_eng", "It is", pytest.approx(2 * 1 * (2 / 6) / (1 + 2 / 6), abs=1e-6)),
        ("longbook_choice_eng", "C", 1),
        ("longbook_choice_eng", "B. Bert, not C", 0),
        ("longbook_choice_eng", "Carl", 1),  # though it begins with a C
        ("longbook_choice_eng", "I say the answer is: C.", 1),
        ("longbook_choice_eng", "I say the answer is\nCarl.", 1),
        ("longbook_choice_eng", "the answer is D, or C", 0),
        ("longbook_choice_eng", "it is C or D", 1),
        ("longbook_choice_eng", "it is Dora", 0),
        ("longbook_qa_eng", "An old man!", 1),
        ("longbook_qa_eng", "Carl Miller", pytest.approx(2 / 3)),
        ("longbook_qa_chn", "老 人。", 1),
        ("longbook_qa_chn", "老虎", 0.5),
        ("longdialogue_qa_eng", "Anna: yes", 1),
        ("longdialogue_qa_eng", "Annabel", 0),
        ("math_find", " 2, or 3", 1),
        ("math_find", "2.5", 0),  # the official scorer stops with an error
        ("math_calc", "[1, 3, 0]", 1),
        ("math_calc", "[1, 2, 0]", pytest.approx(1 / 3)),
        ("math_calc", "1, 3", pytest.approx(2 / 3)),
        ("math_calc", "1, 3, 0, 4", 1),
        ("math_calc", "1, " + "3" * 5000, pytest.approx(1 / 3)),
        ("code_run", "it is `-12`.", 1),
        ("code_run", "-12 is it", 0),
        ("code_run", "12", 0),
        ("code_debug", " D. Dora", 1),
        ("code_debug", "D", 1),
        ("code_debug", "Dora", 0),
        ("code_debug", "The answer is: `Dora`", 1),
        ("code_debug", "Option is: D", 1),
        ("code_debug", "answer: A", 0),
    ],
)
def test_answers_are_graded_by_the_rules(subset, said, score):
    assert graded(subset, said) == score


@pytest.mark.parametrize("subset", SUBSETS)
def test_no_answer_is_worth_nothing(subset):
    assert graded(subset, "") == 0


def test_answers_of_other_forms():
    assert graded("longdialogue_qa_eng", "it is Dr. Evil!", answer=["DR. EVIL"]) == 1
    assert graded("longdialogue_qa_eng", "it is Evil", answer=["DR. EVIL"]) == 0
    assert graded("longbook_choice_eng", "C", answer=["C"]) == 1 and graded("code_debug", "D:", answer=["Dora"]) == 1
    assert graded("math_find", "2.5", answer=["2.5"]) == 1 and graded("code_run", "-12", answer=["-12"]) == 1
    assert graded("math_calc", "1, 3", answer=[[1, 3]]) == 1 and graded("passkey", "5", answer="5") == 1


def test_the_letter_of_a_row_counts_where_options_are_equal():
    row = dict(options=["foo", "foo", "x", "y"])
    assert graded("code_debug", "B.", answer=["foo", "B"], **row) == 1
    assert graded("code_debug", "B.", answer=["B"], **row) == 1
    assert graded("code_debug", "A.", answer=["foo", "B"], **row) == 0
    assert graded("longbook_choice_eng", "B", answer=["foo", "B"], **row) == 1
    assert graded("code_debug", "A.", answer=["foo"], **row) == graded("code_debug", "A.", answer="foo", **row) == 1
    assert graded("code_debug", "B.", answer=["B"], options=["B", "A", "x", "y"]) == 0, "a text, not a letter"


def test_prompts_ask_what_records_ask():
    def prompt(name):
        return write_prompt(name, {"options": [], **ROWS[name]}, "here")

    for name, row in ROWS.items():
        assert row["context"] in prompt(name)
        assert row["input"] in prompt(name) or name in ("math_find", "code_run", "code_debug")
    assert set(PROMPTS) == set(SUBSETS) == set(ROWS)
    assert prompt("math_find").startswith("What is the second largest number in this list?")
    assert "named func_7." in prompt("code_run") and prompt("code_run").endswith("The value of func_7(-3) is")
    for name in ("longbook_choice_eng", "code_debug"):
        assert "A. Anna\nB. Bert\nC. Carl\nD. Dora\n" in prompt(name)


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("passkey", dict(answer=[]), "answer must be a string or a list"),
        ("passkey", dict(context=3), "context and input must be strings"),
        ("math_find", dict(answer="two"), "answer must be a number"),
        ("math_find", dict(input="Which?"), "input must name what is wanted"),
        ("code_run", dict(input="Which?"), "input must have a call"),
        ("code_debug", dict(options=["a"]), "options must be a list of four"),
        ("code_debug", dict(answer=["E"]), "answer must be one of the options"),
        ("code_debug", dict(answer=["Dora", "E"]), "answer must be one of the options"),
        ("code_debug", dict(answer=["Dora", "D", "D"]), "answer must be one of the options"),
        ("passkey", dict(context="cut \ud83d"), "context has half of a surrogate pair"),
    ],
)
def test_bad_records_are_named(tmp_path, name, changed, message):
    folder = write(tmp_path, {name: {**ROWS[name], **changed}})
    with pytest.raises(ValueError, match=rf"{name}\.jsonl, line 1.*{message}"):
        InfiniteBench(folder, subsets=[name]).examples(Subject(FakeLM(), byte_tokenizer()))


def test_missing_files_say_what_to_fetch(tmp_path):
    with pytest.raises(ValueError, match=r"passkey\.jsonl.*huggingface.co/datasets/xinrongzhang2022/InfiniteBench"):
        InfiniteBench(str(tmp_path)).examples(Subject(FakeLM(), byte_tokenizer()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(subsets=[]), "subsets="),
        (dict(subsets=["passkeys"]), r"subsets=\['passkeys'\] is not allowed; allowed: all, paper, passkey, "),
        (dict(max_examples=0), "max_examples=0"),
        (dict(max_length=1), "max_length=1"),
        (dict(template="none"), "template='none'"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        InfiniteBench("x", **settings)


def test_a_model_that_copies_finds_the_key_unless_it_is_cut_out(tmp_path):
    filler = "Nothing is here. " * 40
    row = {**ROWS["passkey"], "context": f"{filler}The pass key is 12345. {filler}"}
    task = InfiniteBench(write(tmp_path, {"passkey": row}), subsets=["passkey"])
    subject, modes = Subject(FakeLM(), byte_tokenizer()), [parse_mode("dense")]
    cut = InfiniteBench(task.path, subsets=["passkey"], max_length=400)
    found, again, lost = (run({"x": t}, subject, modes, progress=False)["x"]["dense"] for t in (task, task, cut))
    assert found.value == 1 and found.details == {"passkey": 1} and lost.value == 0
    assert [r["prediction"] for r in found.predictions] == [r["prediction"] for r in again.predictions]
    assert found.costs["tokens_dropped"] == 0
    assert all(record["tokens_dropped"] > 0 and record["tokens_in"] <= 402 for record in lost.predictions)


def test_the_value_is_the_mean_over_subsets():
    records = [{"subset": "passkey", "score": 1.0}] * 3 + [{"subset": "math_calc", "score": 0.0}]
    score = InfiniteBench("x").score(records)
    assert score.value == 0.5 and score.details == {"passkey": 1, "math_calc": 0}


def test_the_config_evaluates_every_subset(tmp_path, monkeypatch):
    monkeypatch.setitem(SUBSETS, "longbook_sum_eng", SUBSETS["longbook_qa_eng"])
    monkeypatch.setitem(SUBSETS, "math_calc", SUBSETS["math_find"])  # not 30,000 tokens
    backbone = small_backbone(tmp_path / "backbone")
    overrides = [*small_model(backbone), "ratio=4", "batch_size=3", "dense=false", "window_only=false"]
    overrides += ["task=[infinitebench]", f"task.infinitebench.data_root={tmp_path}"]
    write(tmp_path / "infbench")
    assert composed("evaluate", "task=[infinitebench]").task.infinitebench.max_length == 128_000
    metrics = evaluate(composed("evaluate", *overrides, f"run_folder={tmp_path}/out"))
    assert {f"infinitebench/ratio_4/{name}" for name in ROWS} <= metrics.keys()
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 24 and (tmp_path / "out" / "infinitebench_by_subset.png").is_file()
    assert all("context" not in line for line in lines)
    rescored = [*overrides, f"rescore={tmp_path}/out", f"run_folder={tmp_path}/out"]
    assert evaluate(composed("evaluate", *rescored)) == metrics
