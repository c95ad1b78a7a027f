"""Samples that others generated: files of RULER's scripts, old and new, and the table of kvpress."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beacon_lit.cli.evaluate import evaluate
from beacon_lit.evaluation import Subject, parse_mode, run
from beacon_lit.evaluation.tasks import RulerFiles, RulerKvpress
from tests.configs import composed, small_backbone, small_model
from tests.evaluation.fakes import AnsweringLM, FakeLM, byte_tokenizer

CHAT = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}"
    "[ai]{% if enable_thinking is false %}<no-thought>{% endif %}{% endif %}"
)
NIAH = "A number hides below.\nRain falls.\nThe number of kiwi is 17.\nRain falls.\nWhat is the number of kiwi?"
NIAH_STEM = " The special magic number of kiwi is"
QA = "Read the documents.\n\nDocument 1:\nOslo is cold.\n\nQuestion: How is Oslo?"
NEW = {
    "niah_single_1": [{"index": 0, "input": NIAH, "outputs": ["17"], "length": 200, "answer_prefix": NIAH_STEM}],
    "qa_1": [
        {"index": i, "input": QA, "outputs": ["warm", "cold"], "length": 99, "answer_prefix": " Answer:"}
        for i in (0, 1)
    ],
}
OLD = {
    name: [
        {"index": row["index"], "input": row["input"] + row["answer_prefix"], "outputs": row["outputs"]} for row in rows
    ]
    for name, rows in NEW.items()
}
TABLE = [
    dict(
        context="Rain falls.\n17 is it.\n",
        question="What is it? ",
        answer_prefix="It is",
        answer=["17", "x"],
        task="vt",
    ),
    dict(context="Oslo is cold.\n\n", question="How? ", answer_prefix="Answer:", answer=["cold", "x"], task="qa_2"),
]


def subject(chat=False, bos=False, **model):
    tokenizer = byte_tokenizer(bos)
    tokenizer.chat_template = CHAT if chat else None
    return Subject(FakeLM(**model), tokenizer)


def write(folder, files):
    for name, rows in files.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def table(path, rows=TABLE, **more):
    pq.write_table(pa.Table.from_pylist([{"max_new_tokens": 7, **row, **more} for row in rows]), path)
    return str(path)


def prompts(task, of):
    requests = [task.request(of, example) for example in task.examples(of)]
    return [of.tokenizer.decode(request.prompt.ids) for request in requests], requests


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("files", [NEW, OLD])
def test_files_are_asked_as_they_are(tmp_path, files, bos):
    texts, requests = prompts(RulerFiles(write(tmp_path, files)), subject(bos=bos))
    assert texts == ["<s>" * bos + text for text in (NIAH + NIAH_STEM, QA + " Answer:", QA + " Answer:")]
    assert [request.max_new_tokens for request in requests] == [128, 32, 32]
    assert {request.prompt.template for request in requests} == {"plain"}


@pytest.mark.parametrize("files", [NEW, OLD])
def test_the_beginning_of_an_answer_stands_behind_a_chat_template(tmp_path, files):
    texts, _ = prompts(RulerFiles(write(tmp_path, files), template="chat"), subject(chat=True))
    assert texts[0] == f"[user] {NIAH}\n[ai]{NIAH_STEM}" and texts[1] == f"[user] {QA}\n[ai] Answer:"


@pytest.mark.parametrize("bos", [False, True])
def test_a_template_in_a_file_and_a_tokenizer_give_one_bos_token(tmp_path, bos):
    rows = [{"input": f"<s>[user] {QA}\n[ai]", "outputs": ["cold"], "answer_prefix": " Answer:"}]
    (text, *_), (request, *_) = prompts(RulerFiles(write(tmp_path, {"qa_1": rows})), subject(bos=bos))
    assert text == f"<s>[user] {QA}\n[ai] Answer:" and request.prompt.ids.count(0) == 1


def test_files_are_those_of_a_folder_or_a_glob(tmp_path):
    write(tmp_path, NEW)
    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / "qa_1" / "validation.jsonl").rename(tmp_path / "qa_1" / "test.jsonl")

    def ids(path, **settings):
        return [example.id for example in RulerFiles(path, str(tmp_path), **settings).examples(subject())]

    assert ids("long-llm:") == ["niah_single_1/0"] == ids("long-llm:niah_single_1/*.jsonl")
    assert ids(f"{tmp_path}/*/*.jsonl") == ["niah_single_1/0", "qa_1/0", "qa_1/1"]
    assert ids(f"{tmp_path}/*/*.jsonl", max_examples=1) == ["niah_single_1/0", "qa_1/0"]


@pytest.mark.parametrize("chat", [False, True])
def test_the_context_of_the_table_is_tokenised_apart_and_the_question_is_the_tail(tmp_path, chat):
    of = subject(chat, bos=not chat)
    texts, requests = prompts(RulerKvpress(table(tmp_path / "a.parquet")), of)
    end = "\n[ai]<no-thought>" if chat else "\n"
    assert texts[0] == ("[user] " if chat else "<s>") + f"Rain falls.\n17 is it.\nWhat is it? {end}It is"
    for request, row in zip(requests, TABLE, strict=True):
        prompt = request.prompt
        assert of.tokenizer.decode(prompt.ids[-prompt.tail :]) == f"{row['question']}{end}{row['answer_prefix']}"
        assert of.tokenizer.decode(prompt.ids[: -prompt.tail]).endswith(row["context"]) and request.max_new_tokens == 7


@pytest.mark.parametrize(
    ("subset", "said", "files", "kvpress"),
    [
        ("vt", "abc", 0.5, 0.5),
        ("vt", "ABC de", 1, 1),
        ("qa_1", "it is DE", 1, 1),
        ("qa_1", "nothing", 0, 0),
        ("vt", " a\nbc", 0, 0.5),  # kvpress's scorer deletes control characters, RULER's writes line breaks
        ("qa_1", "x\ty", 0, 0),
    ],
)
def test_answers_are_graded_by_the_rules_of_each(subset, said, files, kvpress):
    answers = ["x\ty"] if said == "x\ty" else ["Abc", "de"]
    record = {"subset": subset, "prediction": said, "answers": answers, "any_answer": subset == "qa_1"}
    assert RulerFiles("x").grade(record) == {"score": files} and RulerKvpress("x").grade(record) == {"score": kvpress}


class Reader(AnsweringLM):
    """Says the number or the weather that the text has."""

    tokenizer = byte_tokenizer()

    def said(self, text):
        return "".join(re.findall(r"\b(17|cold)\b", text)[:1])


def test_the_value_is_the_mean_over_subsets(tmp_path):
    task, asked = RulerFiles(write(tmp_path, NEW)), Subject(Reader(window=64), byte_tokenizer())
    scores = run({"r": task}, asked, [parse_mode(mode) for mode in ("dense", "window-only")], progress=False)["r"]
    assert scores["dense"].value == 1 and scores["dense"].details == {"niah_single_1": 1, "qa_1": 1}
    assert scores["window-only"].details["niah_single_1"] == 0
    records = [{"subset": "vt", "score": 1.0}] * 3 + [{"subset": "cwe", "score": 0.0}]
    assert task.score(records).value == 0.5 and set(task.figures({"": scores})) == {"by_subset"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"poems": NEW["qa_1"]},
            r"validation\.jsonl, line 1: poems is not a subset of RULER; allowed: names that begin",
        ),
        ({"vt": [{"input": "x", "outputs": "17"}]}, "line 1: the reference answers must be a list"),
        ({"vt": [{"input": "x"}]}, "line 1: the record lacks outputs"),
        ({}, r"must name a folder with SUBSET/validation\.jsonl in it"),
    ],
)
def test_malformed_files_are_named(tmp_path, files, message):
    with pytest.raises(ValueError, match=message):
        RulerFiles(write(tmp_path, files)).examples(subject())


def test_malformed_tables_are_named(tmp_path):
    path = tmp_path / "a.parquet"
    with pytest.raises(ValueError, match=r"row 1: shortdep_qa is not a subset of RULER"):
        RulerKvpress(table(path, task="shortdep_qa")).examples(subject())
    with pytest.raises(ValueError, match=r"a\.parquet, row 1: the record lacks question"):
        RulerKvpress(table(path, [{"context": "a", "task": "vt", "answer_prefix": "", "answer": ["a"]}])).examples(
            subject()
        )
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"a\.parquet, after row 0.*cannot be read"):
        RulerKvpress(str(path)).examples(subject())
    with pytest.raises(ValueError, match=r"huggingface.co/datasets/simonjegou/ruler"):
        RulerKvpress(f"{tmp_path}/b.parquet").examples(subject())


@pytest.mark.parametrize("settings", [dict(max_examples=0), dict(template="none")])
def test_bad_settings_are_named(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}="):
        RulerFiles("x", **settings)


def test_the_configs_evaluate(tmp_path):
    overrides = [*small_model(small_backbone(tmp_path / "backbone")), "ratio=4", "task=[ruler_files,ruler_kvpress]"]
    overrides += [f"task.ruler_files.path={write(tmp_path / 'data', NEW)}", "task.ruler_files.max_examples=1"]
    overrides += [f"task.ruler_kvpress.path={table(tmp_path / 'a.parquet')}", f"run_folder={tmp_path}/out"]
    metrics = evaluate(composed("evaluate", *overrides))
    assert {"ruler_files/ratio_4/qa_1", "ruler_kvpress/dense/vt", "ruler_kvpress/window-only/qa_2"} <= metrics.keys()
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 3 * (2 + 2) and not any("context" in line or "input" in line for line in lines)
