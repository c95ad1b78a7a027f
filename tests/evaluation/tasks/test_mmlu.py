"""MMLU on files as they are published, with a model that knows some of the answers."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from beacon_lit.cli import resolvers
from beacon_lit.cli.evaluate import evaluate
from beacon_lit.evaluation import Subject, parse_mode, run
from beacon_lit.evaluation.runner import rescore
from beacon_lit.evaluation.tasks import Mmlu
from beacon_lit.evaluation.tasks.mmlu import CATEGORIES, read_questions
from beacon_lit.tiny import byte_tokenizer as chat_tokenizer
from tests.configs import composed
from tests.evaluation.fakes import FakeLM, byte_tokenizer

resolvers.register()
HEAD = "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
ROWS = [
    ("abstract_algebra", "What is 1 + 1?", 1),
    ("abstract_algebra", "What is 2 + 2?", 3),
    ("abstract_algebra", "What is 3 + 3?", 0),
    ("astronomy", "How far is the moon?", 2),
    ("jurisprudence", "Who may judge?", 2),
    ("cooking", "How long do eggs boil?", 1),
]


class Knowing(FakeLM):
    """Its next token is the letter that it has for the question at the prompt's end; and it remembers what it read."""

    def __init__(self, answers: dict[str, str], tokenizer, space: str = " ") -> None:
        super().__init__()
        self.answers, self.tokenizer, self.space, self.read = answers, tokenizer, space, []

    def dense(self, input_ids, attention_mask, position_ids, logits_to_keep, use_cache):
        return SimpleNamespace(logits=self._next(input_ids, attention_mask, logits_to_keep), past_key_values=None)

    def forward(self, input_ids, attention_mask, ratios, logits_to_keep, use_cache):
        logits = self._next(input_ids, attention_mask, logits_to_keep)
        return SimpleNamespace(logits=logits, past_key_values=self._cache(attention_mask.sum(1).tolist(), ratios))

    def _next(self, input_ids, mask, keep):
        logits = torch.zeros(len(input_ids), keep, self.vocabulary)
        for row, (ids, real) in enumerate(zip(input_ids, mask, strict=True)):
            text = self.tokenizer.decode(ids[real == 1])
            self.read.append(text)
            asked = max(self.answers, key=text.rfind)
            letter = self.tokenizer(self.space + self.answers[asked], add_special_tokens=False)["input_ids"]
            logits[row, -1, letter[0] if self.space == "" else letter[-1]] = 5.0
            if len(letter) > 1:  # the space is a token of its own: the first of every option
                logits[row, -2:, letter[0]] = 2.0
        return logits


def write(file: Path, rows=ROWS, **more) -> str:
    choices = ["one", "two", "three", "four"]
    records = [
        {"query": query, "choices": choices, "answer": answer, "subject": subject, "query_id": i, **more}
        for i, (subject, query, answer) in enumerate(rows)
    ]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(file)


def asked(task: Mmlu, answers: dict[str, str], mode: object = "dense", tokenizer=None, space=" ", batch_size: int = 4):
    tokenizer = tokenizer or byte_tokenizer()
    lm = Knowing(answers, tokenizer, space)
    results = run({"mmlu": task}, Subject(lm, tokenizer), [parse_mode(mode)], batch_size=batch_size, progress=False)
    (score,) = results["mmlu"].values()
    return score, lm.read


RIGHT = {query: "ABCD"[answer] for _, query, answer in ROWS}


def test_subjects_count_alike_in_their_category_and_in_all(tmp_path):
    answers = {**RIGHT, "What is 2 + 2?": "A", "Who may judge?": "D"}
    score, _ = asked(Mmlu(write(tmp_path / "test.json")), answers)
    assert [record["prediction"] for record in score.predictions] == ["B", "A", "A", "C", "D", "B"]
    assert score.details == pytest.approx({
        "by_question": 4 / 6, "category_STEM": (2 / 3 + 1) / 2, "category_humanities": 0, "subject_astronomy": 1,
        "subject_abstract_algebra": 2 / 3, "subject_jurisprudence": 0, "subject_cooking": 1,
    })  # fmt: skip
    assert score.value == pytest.approx((2 / 3 + 1 + 0 + 1) / 4)


@pytest.mark.parametrize("mode", ["dense", 2])
@pytest.mark.parametrize("tokenizer", [byte_tokenizer(), byte_tokenizer(bos=True)])
def test_who_knows_all_scores_one_and_who_knows_nothing_zero(tmp_path, mode, tokenizer):
    task = Mmlu(write(tmp_path / "test.json"))
    assert asked(task, RIGHT, mode, tokenizer)[0].value == 1
    wrong = {query: "ABCD"[(answer + 1) % 4] for _, query, answer in ROWS}
    assert asked(task, wrong, mode, tokenizer)[0].value == 0


def test_a_question_is_written_as_its_authors_do(tmp_path):
    _, read = asked(Mmlu(write(tmp_path / "test.json")), RIGHT, batch_size=1)
    question = "What is 1 + 1?\nA. one\nB. two\nC. three\nD. four\nAnswer:"
    assert read[0].rstrip() == HEAD + question


def test_solved_questions_of_the_subject_come_first(tmp_path):
    solved = [("abstract_algebra", f"Solved {i}?", i) for i in range(3)] + [("cooking", "Solved, too?", 0)]
    task = Mmlu(write(tmp_path / "test.json", ROWS[:1]), write(tmp_path / "dev.json", solved), shots=2)
    choices = "\nA. one\nB. two\nC. three\nD. four\nAnswer:"
    _, read = asked(task, RIGHT, batch_size=1)
    assert read[0].rstrip() == f"{HEAD}Solved 0?{choices} A\n\nSolved 1?{choices} B\n\nWhat is 1 + 1?{choices}"
    with pytest.raises(
        ValueError, match=r"shots=4 is not allowed with dev='.*dev.json'; allowed: at most 3, its .* 'abstract_algebra'"
    ):
        asked(Mmlu(task.path, task.dev, shots=4), RIGHT)


def test_in_a_chat_the_letter_is_the_assistants_first_token(tmp_path):
    score, read = asked(Mmlu(write(tmp_path / "test.json")), RIGHT, tokenizer=chat_tokenizer(), space="", batch_size=2)
    assert score.value == 1 and len(read) == len(ROWS)  # one reading for four letters
    assert read[0].startswith(f"<|im_start|>user\n{HEAD}") and read[0].endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert {record["template"] for record in score.predictions} == {"chat"}


def test_the_layouts_of_the_hub_and_of_the_authors_archive(tmp_path):
    path = write(tmp_path / "test.json")
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    for number, row in enumerate(rows):
        row["question"] = row.pop("query")
        del row["query_id"]
        row["answer"] = "ABCD"[row["answer"]] if number % 2 else row["answer"]
    (tmp_path / "hub.json").write_text(json.dumps(rows))
    archive = tmp_path / "archive"
    archive.mkdir()
    for subject in {row["subject"] for row in rows}:
        with (archive / f"{subject}_test.csv").open("w", newline="") as file:
            own = [row for row in rows if row["subject"] == subject]
            letters = ["ABCD"[answer] for of_subject, _, answer in ROWS if of_subject == subject]
            writer = csv.writer(file)
            writer.writerows([row["question"], *row["choices"], x] for row, x in zip(own, letters, strict=True))

    def seen(path: str) -> set[tuple[str, ...]]:
        return {(row["subject"], row["text"], row["answer"]) for row in read_questions(path)}

    assert seen(path) == seen(str(tmp_path / "hub.json")) == seen(str(archive)) and len(seen(path)) == len(ROWS)
    assert len({row["id"] for row in read_questions(str(archive))}) == len(ROWS)


def test_the_first_questions_of_each_subject(tmp_path):
    score, _ = asked(Mmlu(write(tmp_path / "test.json"), max_examples=1), RIGHT)
    assert [record["id"] for record in score.predictions] == [
        "abstract_algebra/0", "astronomy/3", "jurisprudence/4", "cooking/5"
    ]  # fmt: skip


def test_the_categories_are_those_of_57_subjects():
    """The counts are the published ones."""
    assert {name: len(subjects) for name, subjects in CATEGORIES.items()} == {
        "STEM": 18, "social_sciences": 12, "humanities": 13, "others": 14
    }  # fmt: skip
    assert len({subject for subjects in CATEGORIES.values() for subject in subjects}) == 57


def test_numbers_that_are_none_are_wrong_and_a_tie_goes_to_the_earlier_letter():
    task = Mmlu()
    assert task.grade({"nll": dict.fromkeys("ABCD", 1.0), "answer": "A"}) == {"prediction": "A", "score": 1.0}
    assert task.grade({"nll": dict.fromkeys("ABCD", float("nan")), "answer": "A"}) == {"prediction": "", "score": 0.0}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"answer": 4}, r"test.json, line 1: answer=4 must be 0, 1, 2, 3 or one of A, B, C, D"),
        ({"choices": ["a", "b"]}, r"line 1: choices=\['a', 'b'\] must be a list of four"),
        ({"query": 3}, r"line 1: query \(or question\) and subject must be strings"),
    ],
)
def test_a_malformed_record_is_named(tmp_path, record, message):
    with pytest.raises(ValueError, match=message):
        read_questions(write(tmp_path / "test.json", **record))


def test_missing_files_and_bad_settings_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"mmlu/test.json does not.*unpack long-llm.tar.gz .* set `data_root`"):
        read_questions("long-llm:mmlu/test.json", str(tmp_path))
    with pytest.raises(ValueError, match=r"there is no SUBJECT_test\.csv in this folder"):
        read_questions(str(tmp_path))
    with pytest.raises(ValueError, match="shots=-1"):
        Mmlu(shots=-1)
    with pytest.raises(ValueError, match="max_examples=0 is not allowed; allowed: at least 1"):
        Mmlu(max_examples=0)


def test_through_the_config_twice_and_graded_anew(tmp_path):
    (tmp_path / "mmlu").mkdir()
    write(tmp_path / "mmlu" / "test.json")
    overrides = ["model=tiny", "beacon.window=32", "task=[mmlu]", f"task.mmlu.data_root={tmp_path}", "ratio=4"]
    overrides += ["batch_size=2"]
    found = [evaluate(composed("evaluate", *overrides, f"run_folder={tmp_path / name}")) for name in "ab"]
    assert found[0] == found[1] and {"mmlu/dense", "mmlu/window-only/by_question", "mmlu/ratio_4"} <= found[0].keys()
    again = evaluate(composed("evaluate", *overrides, f"run_folder={tmp_path / 'a'}", f"rescore={tmp_path / 'a'}"))
    assert again == found[0]
    results = rescore({"mmlu": Mmlu()}, tmp_path / "a")
    assert results["mmlu"]["ratio 4"].value == found[0]["mmlu/ratio_4"]
