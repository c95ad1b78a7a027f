import json

import pytest

from beacon_lit.cli.evaluate import evaluate
from beacon_lit.evaluation import Subject, choose_modes, make_figures, run
from beacon_lit.evaluation.tasks import LongBenchV2
from beacon_lit.evaluation.tasks.longbench.v2 import OWN_PROMPT, chosen_letter
from tests.configs import composed
from tests.evaluation.fakes import FakeLM, byte_tokenizer


def row(name, answer="B", said="The correct answer is (B).", difficulty="easy", length="short", **fields):
    """A record whose context has the end of its own prompt, and behind it what a model that copies then says."""
    record = {"_id": name, "domain": "Books", "sub_domain": "Novels", "difficulty": difficulty, "length": length}
    record |= {"question": f"Which of {name}?", **{f"choice_{c}": f"the {c}" for c in "ABCD"}, "answer": answer}
    end = OWN_PROMPT.partition("$DOC$")[2].replace("$Q$", record["question"])
    for letter in "ABCD":
        end = end.replace(f"$C_{letter}$", f"the {letter}")
    return record | {"context": f"Some text. {end}{said}</s> And more."} | fields


ROWS = [
    row("a"),
    row("b", difficulty="hard", length="medium"),
    row("c", answer="C", difficulty="hard", length="medium"),  # it says (B)
    row("d", said="Perhaps B", length="long"),
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps(ROWS))
    return str(path)


def results(task, modes=("dense",)):
    lm = FakeLM()
    return run({"v2": task}, Subject(lm, byte_tokenizer()), choose_modes(lm, modes), batch_size=2, progress=False)


def test_accuracy_in_all_by_difficulty_and_by_length(file):
    found = results(task := LongBenchV2(file), modes=("dense", "window-only"))
    score = found["v2"]["dense"]
    assert score.value == 50 and score.details == {
        "answered": 75,
        "difficulty_easy": 50, "difficulty_hard": 50,
        "length_short": 100, "length_medium": 50, "length_long": 0,
    }  # fmt: skip
    assert [record["letter"] for record in score.predictions] == ["B", "B", "B", None]
    assert score.predictions[0]["prediction"] == "The correct answer is (B)."
    assert score.predictions[0]["prompts"] == "own" and "context" not in score.predictions[0]
    assert found["v2"]["window-only"].value == 0
    axes = make_figures({"v2": task}, {"": found})["v2_by_kind"].axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["all", "easy", "hard", "short", "medium", "long"]
    assert [bar.get_height() for bar in axes.containers[0]] == [50, 50, 50, 100, 50, 0]
    assert axes.get_title() == "LongBench v2, own prompts"


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("The correct answer is (A)", "A"),
        ("**The correct answer is (C)**, since (A) is not", "C"),
        ("The correct answer is **(C)**", "C"),
        ("The correct answer is D.", "D"),
        ("The correct answer is A. No: The correct answer is (B)", "B"),  # brackets come first
        ("the correct answer is (A)", None),
        ("(A)", None),
        ("The correct answer is (E)", None),
        ("", None),
    ],
)
def test_the_letter_of_an_answer(said, letter):
    assert chosen_letter(said) == letter


def test_texts_of_some_lengths_and_the_first_of_them(file):
    ids = [r["id"] for r in results(LongBenchV2(file, lengths=["medium", "long"]))["v2"]["dense"].predictions]
    assert ids == ["b", "c", "d"]
    ids = [r["id"] for r in results(LongBenchV2(file, lengths=["long"], max_examples=1))["v2"]["dense"].predictions]
    assert ids == ["d"]


def test_the_prompt_of_a_file_is_filled_in_at_once_and_named(tmp_path, file):
    (tmp_path / "0shot.txt").write_text("$DOC$|$Q$|$C_A$|$C_B$|$C_C$|$C_D$")
    lines = tmp_path / "one.jsonl"
    lines.write_text(json.dumps(row("a", context=" price: $Q$ \n", question="$C_A$?")) + "\n")
    task = LongBenchV2(str(lines), prompts_file=f"{tmp_path}/0shot.txt")
    (example,) = task.examples(Subject(FakeLM(), byte_tokenizer()))
    assert example.content == "price: $Q$|$C_A$?|the A|the B|the C|the D" and example.about["prompts"] == "0shot.txt"


def test_a_long_text_loses_its_middle_and_answers_are_short(file):
    task = LongBenchV2(file, max_length=60, max_new_tokens=3)
    record = results(task)["v2"]["dense"].predictions[0]
    assert record["tokens_dropped"] > 0 and record["tokens_in"] == 60 and record["tokens_out"] <= 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(lengths=["tiny"]), r"lengths=\['tiny'\] is not allowed; allowed: short, medium, long"),
        (dict(lengths=[]), r"lengths=\[\]"),
        (dict(max_examples=0), "max_examples=0"),
        (dict(max_length=1), "max_length=1"),
        (dict(max_new_tokens=0), "max_new_tokens=0"),
        (dict(template="raw"), "template='raw'"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LongBenchV2("unread", **options)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(answer="E"), "line 1: answer='E' is not allowed; allowed: A, B, C, D"),
        (dict(length="huge"), "line 1: length='huge' is not allowed; allowed: short, medium, long"),
        (dict(choice_C=3), "line 1: choice_C must be a string, not 3"),
    ],
)
def test_a_bad_record_is_named(fields, message, tmp_path):
    (tmp_path / "data.jsonl").write_text(json.dumps(row("a", **fields)) + "\n")
    with pytest.raises(ValueError, match=message):
        results(LongBenchV2(f"{tmp_path}/data.jsonl"))


def test_missing_files_are_named(tmp_path, file):
    with pytest.raises(ValueError, match=r"data.json does not. Fetch data.json of https://"):
        results(LongBenchV2(f"{tmp_path}/none/data.json"))
    with pytest.raises(ValueError, match=r"prompts_file='none.txt' cannot be read"):
        results(LongBenchV2(file, prompts_file="none.txt"))
    (tmp_path / "p.txt").write_text("$DOC$ $Q$ $C_A$ $C_B$ $C_C$")
    with pytest.raises(ValueError, match=r"p.txt' lacks \$C_D\$; allowed: a prompt with \$DOC\$"):
        results(LongBenchV2(file, prompts_file=f"{tmp_path}/p.txt"))


def test_on_the_command_line(file, tmp_path):
    overrides = ["model=tiny", "beacon.window=32", "task=[longbench_v2]", "ratio=2", f"run_folder={tmp_path}/run"]
    metrics = evaluate(
        composed("evaluate", *overrides, f"task.longbench_v2.path={file}", "task.longbench_v2.max_new_tokens=8")
    )
    assert metrics["longbench_v2/ratio_2"] == 0 and metrics["longbench_v2/dense/answered"] == 0
    assert (tmp_path / "run" / "longbench_v2_by_kind.png").is_file()
