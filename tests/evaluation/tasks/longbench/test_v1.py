import gzip
import json
from copy import deepcopy

import pytest

from beacon_lit.cli.evaluate import evaluate
from beacon_lit.evaluation import Subject, choose_modes, make_figures, rescore, run, save
from beacon_lit.evaluation.tasks import LongBench
from beacon_lit.evaluation.tasks.longbench.prompts import read_prompts
from beacon_lit.evaluation.tasks.longbench.subsets import GROUPS, SUBSETS, choose_subsets
from tests.configs import composed
from tests.evaluation.fakes import FakeLM, byte_tokenizer

CLASSES = ["Sports", "Water Sports", "Politics"]
ANSWERS = {
    **{name: "red wine" for name in SUBSETS},
    **{name: "北京" for name, subset in SUBSETS.items() if subset.category.startswith("zh_")},
    "trec": "Water Sports",
    "lsht": "Sports",
    "passage_count": "7",
    "passage_retrieval_en": "Paragraph 12",
    "passage_retrieval_zh": "段落12",
    "lcc": "return x",
    "repobench-p": "return x",
}


def row(subset, answer=None, said=None, length=5000, question="Which?", **fields):
    """A record whose context has the end of its own prompt, and behind it what a model that copies then says."""
    answer = ANSWERS[subset] if answer is None else answer
    end = read_prompts(None)[1][subset].partition("{context}")[2].format(input=question)
    context = f"Some text. {end}{answer if said is None else said}</s> And more text."
    classes = CLASSES if SUBSETS[subset].has_classes else None
    record = dict(
        input=question, context=context, answers=[answer], length=length, dataset=subset, language="en",
        all_classes=classes, _id=f"id-{subset}",
    )  # fmt: skip
    return record | fields


def write(folder, rows, suffix=""):
    """{subset: its records} -> files."""
    folder.mkdir(exist_ok=True)
    for name, records in rows.items():
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        (folder / f"{name}{suffix}.jsonl").write_text(text, encoding="utf-8")
    return str(folder)


def results(task, modes=("dense",), lm=None, tokenizer=None, batch_size=4):
    lm = lm or FakeLM()
    subject = Subject(lm, tokenizer or byte_tokenizer())
    return run({"longbench": task}, subject, choose_modes(lm, modes), batch_size=batch_size, progress=False)


def score(task, **options):
    (found,) = results(task, **options)["longbench"].values()
    return found


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    folder = write(tmp_path_factory.mktemp("longbench"), {name: [row(name)] for name in SUBSETS})
    return results(LongBench(folder), modes=("dense", "window-only"))


@pytest.mark.parametrize("subset", SUBSETS)
def test_a_model_that_copies_answers_every_subset(everything, subset):
    dense, without_memory = everything["longbench"].values()
    assert dense.details[subset] == pytest.approx(100)
    assert without_memory.details[subset] < 100
    (record,) = [record for record in dense.predictions if record["subset"] == subset]
    assert record["prediction"] == ANSWERS[subset] and record["ended_by"] == "</s>"
    assert (record["id"], record["_id"], record["prompts"]) == (f"{subset}/0", f"id-{subset}", "own")
    assert "context" not in record and ("all_classes" in record) == (subset in ("trec", "lsht"))


def test_figures_are_those_of_the_official_tables(everything):
    figures = make_figures({"longbench": LongBench("unread")}, {"after": everything})
    assert list(figures) == ["longbench_by_category", "longbench_by_chinese_category", "costs_by_length"]
    axes = figures["longbench_by_category"].axes[0]
    assert axes.get_title() == "LongBench by category, own prompts, after"
    kinds = ["single-doc QA", "multi-doc QA", "summarization", "few-shot", "synthetic", "code"]
    assert [label.get_text() for label in axes.get_xticklabels()] == kinds
    dense, without_memory = axes.containers
    assert (dense.get_label(), without_memory.get_label()) == ("dense", "window-only")
    assert [bar.get_height() for bar in dense] == pytest.approx([100] * 6)
    assert max(bar.get_height() for bar in without_memory) < 100


def test_averages_over_subsets_categories_and_languages():
    """Worked out by hand: subsets of unlike size weigh the same, and categories of unlike size, too."""
    scores = {
        "narrativeqa": [40, 60], "qasper": [20], "hotpotqa": [10], "multifieldqa_zh": [70], "lcc": [30],
    }  # fmt: skip
    records = [{"subset": name, "length": 1, "score": s} for name, values in scores.items() for s in values]
    found = LongBench("unread").score(records)
    assert found.value == (50 + 20 + 10 + 70 + 30) / 5
    assert found.details == {
        "narrativeqa": 50, "qasper": 20, "hotpotqa": 10, "multifieldqa_zh": 70, "lcc": 30,
        "category/single_doc_qa": 35, "category/zh_single_doc_qa": 70, "category/multi_doc_qa": 10, "category/code": 30,
        "average/en": (35 + 10 + 30) / 3, "average/zh": (70 + 30) / 2,
    }  # fmt: skip


def test_the_split_by_length(tmp_path):
    lengths = (3999, 4000, 7999, 8000)
    right = [row("qasper", length=length, question=f"Q{length}?") for length in lengths]
    right[1] = row("qasper", length=4000, said="something else", question="Q4000?")
    folder = write(tmp_path, {"qasper": right, "lcc": [row("lcc", length=9000)]}, "_e")
    found = results(task := LongBench(folder, subsets=["qasper", "lcc"], e_split=True))
    details = found["longbench"]["dense"].details
    assert {name: details[name] for name in details if "k" in name.partition("/")[2]} == {
        "length/0-4k": 100, "length/4-8k": 50, "length/8k+": 100,
        "qasper/0-4k": 100, "qasper/4-8k": 50, "qasper/8k+": 100, "lcc/8k+": 100,
    }  # fmt: skip
    assert details["qasper"] == 75
    figures = make_figures({"longbench": task}, {"": found})
    assert list(figures) == ["longbench_by_category", "longbench_by_length", "costs_by_length"]
    assert figures["longbench_by_length"].axes[0].get_title() == "LongBench-E by length, own prompts"


def test_the_best_of_several_references_counts(tmp_path):
    folder = write(tmp_path, {"qasper": [row("qasper", answers=["white", "red wine", "wine"])]})
    assert score(LongBench(folder, subsets=["qasper"])).value == 100


@pytest.mark.parametrize("subset", ["trec", "triviaqa", "samsum", "lsht", "qasper"])
def test_the_first_line_of_few_shot_answers_counts(subset):
    record = {"subset": subset, "prediction": f"\n{ANSWERS[subset]}\nPolitics", "answers": [ANSWERS[subset]]}
    graded = LongBench("unread").grade({**record, "all_classes": CLASSES})["score"]
    assert (graded == pytest.approx(100)) == (subset != "qasper")


class Recorder(FakeLM):
    def __init__(self):
        super().__init__()
        self.generation_config.eos_token_id = [1]  # a list: the reference added the newline to it
        self.settings = []

    def dense_generate(self, input_ids, attention_mask, generation_config, **options):
        self.settings.append(generation_config)
        return super().dense_generate(input_ids, attention_mask, generation_config, **options)


def test_a_newline_ends_samsum_alone_and_the_model_keeps_its_own_settings(tmp_path):
    rows = {name: [row(name, said="one\ntwo")] for name in ("gov_report", "samsum")}
    folder, lm = write(tmp_path, rows), Recorder()
    before = deepcopy(vars(lm.generation_config))
    records = score(LongBench(folder, subsets=["samsum", "gov_report"]), lm=lm).predictions
    assert [record["prediction"] for record in records] == ["one", "one\ntwo"]
    assert [record["ended_by"] for record in records] == ["Ċ", "</s>"]
    newline = byte_tokenizer().encode("\n")[-1]
    assert [newline in settings.eos_token_id for settings in lm.settings] == [True, False]
    assert [settings.min_new_tokens for settings in lm.settings] == [1, None]
    assert [settings.max_new_tokens for settings in lm.settings] == [128, 512]
    assert vars(lm.generation_config) == before
    records = score(LongBench(folder, subsets=["samsum"], newline_ends=["gov_report"])).predictions
    assert records[0]["prediction"] == "one\ntwo"


def test_a_chat_is_for_all_but_few_shot_and_code(tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    names = ["qasper", "trec", "triviaqa", "samsum", "lsht", "gov_report", "lcc", "repobench-p", "passage_count"]
    folder = write(tmp_path, {name: [row(name)] for name in names})
    records = score(LongBench(folder, subsets=names), tokenizer=tokenizer).predictions
    chats = [record["subset"] for record in records if record["template"] == "chat"]
    assert chats == ["qasper", "gov_report", "passage_count"]
    records = score(LongBench(folder, subsets=["qasper"], template="plain"), tokenizer=tokenizer).predictions
    assert records[0]["template"] == "plain"


def test_a_long_prompt_loses_its_middle(tmp_path):
    folder = write(tmp_path, {"qasper": [row("qasper", context="far " * 500)]})
    whole = score(LongBench(folder, subsets=["qasper"])).predictions[0]
    cut = score(LongBench(folder, subsets=["qasper"], max_length=100)).predictions[0]
    assert whole["tokens_dropped"] == 0 and cut["tokens_dropped"] == whole["tokens_in"] - 100


def test_prompts_of_a_file_are_used_and_named(tmp_path):
    (tmp_path / "dataset2prompt.json").write_text(json.dumps({"qasper": "{{}} {context} Q: {input} A:"}))
    record = row("qasper", context="Q: Which? A: a blue one</s>", answers=["blue one"])
    task = LongBench(
        write(tmp_path, {"qasper": [record]}), subsets=["qasper"], prompts_file=f"{tmp_path}/dataset2prompt.json"
    )
    found = results(task)
    (prediction,) = found["longbench"]["dense"].predictions
    assert (prediction["prediction"], prediction["prompts"]) == (" a blue one", "dataset2prompt.json")
    (figure,) = task.figures(found).values()
    assert figure.axes[0].get_title() == "LongBench by category, dataset2prompt.json prompts, longbench"
    subject = Subject(FakeLM(), byte_tokenizer())
    assert task.examples(subject)[0].content == "{} Q: Which? A: a blue one</s> Q: Which? A:"


def test_batches_and_runs_agree_and_records_can_be_graded_anew(tmp_path):
    rows = {name: [row(name, question=f"Which {i}?") for i in range(3)] for name in ("qasper", "trec", "hotpotqa")}
    task = LongBench(write(tmp_path / "data", rows), subsets=["hotpotqa", "trec", "qasper"], max_examples=2)
    one, four = results(task, batch_size=1)["longbench"]["dense"], results(task, batch_size=4)
    assert [r["id"] for r in one.predictions] == [f"{n}/{i}" for n in ("hotpotqa", "trec", "qasper") for i in (0, 1)]
    said = [[r["prediction"] for r in found.predictions] for found in (one, four["longbench"]["dense"])]
    assert said[0] == said[1] and one.value == four["longbench"]["dense"].value
    save(tmp_path / "run", {"longbench": task}, {"": four}, {}, {})
    again = rescore({"longbench": LongBench("gone")}, tmp_path / "run")
    assert again["longbench"]["dense"].details == one.details


def test_packed_files_are_read(tmp_path):
    with gzip.open(tmp_path / "qasper.jsonl.gz", "wt") as file:
        file.write(json.dumps(row("qasper")))
    assert score(LongBench(str(tmp_path), subsets=["qasper"])).value == 100
    write(tmp_path, {"qasper": [row("qasper")]})
    with pytest.raises(ValueError, match=r"must be one file, but there are .*qasper.jsonl, .*qasper.jsonl.gz"):
        score(LongBench(str(tmp_path), subsets=["qasper"]))


def test_groups():
    assert len(SUBSETS) == 21 and len(GROUPS["paper"]) == 14
    assert not {"passage_count", "lsht", "vcsum"} & set(GROUPS["paper"])
    assert len(choose_subsets(["all"], by_length=True)) == 13
    assert [subset.name for subset in choose_subsets(["code", "musique", "lcc"], False)] == [
        "lcc",
        "repobench-p",
        "musique",
    ]
    assert set(read_prompts(None)[1]) == set(SUBSETS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(subsets=["narrative"]), "subsets='narrative' is not allowed; allowed: all, paper, single_doc_qa"),
        (dict(subsets=["musique"], e_split=True), "subsets='musique' is not allowed; allowed"),
        (dict(subsets=[]), r"subsets=\[\] is not allowed; allowed: at least one"),
        (dict(max_examples=0), "max_examples=0 is not allowed; allowed: at least 1"),
        (dict(max_length=1), "max_length=1 is not allowed; allowed: at least 2"),
        (dict(template="raw"), "template='raw' is not allowed"),
        (dict(newline_ends=["all"]), "newline_ends=\\['all'\\] is not allowed; allowed: narrativeqa"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LongBench("unread", **options)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(answers=[]), r"trec.jsonl, line 2: answers must be a list of one or more strings, not \[\]"),
        (dict(answers="red"), "trec.jsonl, line 2: answers must be"),
        (dict(all_classes=None), "trec.jsonl, line 2: all_classes must be"),
        (dict(context=None), "trec.jsonl, line 2: input and context must be strings"),
        (dict(length="9"), "trec.jsonl, line 2: length must be an integer, not '9'"),
    ],
)
def test_a_bad_record_is_named(fields, message, tmp_path):
    folder = write(tmp_path, {"trec": [row("trec"), row("trec", **fields)]})
    with pytest.raises(ValueError, match=message):
        score(LongBench(folder, subsets=["trec"]))
    assert score(LongBench(folder, subsets=["trec"], max_examples=1)).value == 100


def test_a_paragraph_without_a_number_is_named(tmp_path):
    folder = write(tmp_path, {"passage_retrieval_en": [row("passage_retrieval_en", answer="the last")]})
    with pytest.raises(ValueError, match=r"retrieval_en.jsonl, line 1: the answer 'the last' must name a paragraph"):
        score(LongBench(folder, subsets=["passage_retrieval_en"]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"input": "a"}\n', "qasper.jsonl, line 1: the record lacks context, answers, length, all_classes"),
        ("[1]\n", "qasper.jsonl, record 1: a record must be an object, not int"),
        ('{"input": \n', "qasper.jsonl, line 1: invalid JSON"),
        ("", "qasper.jsonl: the file has no records"),
    ],
)
def test_a_bad_file_is_named(text, message, tmp_path):
    (tmp_path / "qasper.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        score(LongBench(str(tmp_path), subsets=["qasper"]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"lcc": "{context}"}', "prompts_file=p.json has no prompt for qasper; allowed: lcc"),
        (
            '{"qasper": "{context} {text}"}',
            "prompts_file=p.json: .* in the prompt for qasper; allowed: the places {context}",
        ),
        ('{"qasper": "{context"}', "prompts_file=p.json: .* in the prompt for qasper; allowed: the places {context}"),
        ("[]", "allowed: a JSON object of subset -> prompt"),
        ("{", "p.json' cannot be read"),
    ],
)
def test_bad_prompts_are_named(text, message, tmp_path):
    (tmp_path / "p.json").write_text(text)
    folder = write(tmp_path, {"qasper": [row("qasper")]})
    with pytest.raises(ValueError, match=message):
        score(LongBench(folder, subsets=["qasper"], prompts_file=f"{tmp_path}/p.json"))


def test_missing_data_are_named_with_what_to_fetch(tmp_path):
    with pytest.raises(ValueError, match=r"narrativeqa.jsonl.* does not. Fetch LongBench's data.zip \(https://"):
        score(LongBench(str(tmp_path)))


def test_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setenv("BEACON_DATA", str(tmp_path))
    write(tmp_path / "longbench", {name: [row(name)] for name in ("hotpotqa", "samsum", "multifieldqa_zh")})
    overrides = ["model=tiny", "beacon.window=32", "task=[longbench]", "ratio=2", f"run_folder={tmp_path}/run"]
    overrides += ["task.longbench.subsets=[hotpotqa,samsum,multifieldqa_zh]", "task.longbench.max_examples=1"]
    metrics = evaluate(composed("evaluate", *overrides, "batch_size=2"))
    for mode in ("dense", "window-only", "ratio_2"):
        assert 0 <= metrics[f"longbench/{mode}"] <= 100 and f"longbench/{mode}/category/few_shot" in metrics
    first = (tmp_path / "run" / "predictions.jsonl").read_text()
    assert evaluate(composed("evaluate", *overrides, f"rescore={tmp_path}/run")) == metrics
    again = evaluate(composed("evaluate", *overrides, "batch_size=2", f"run_folder={tmp_path}/again"))
    said = [
        [json.loads(line)["prediction"] for line in text.splitlines()]
        for text in (first, (tmp_path / "again" / "predictions.jsonl").read_text())
    ]
    assert said[0] == said[1] and len(said[0]) == 9 and again == metrics
    assert (tmp_path / "run" / "longbench_by_category.png").is_file()
