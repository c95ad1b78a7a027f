"""MMLU (Hendrycks et al., 2021, arXiv 2009.03300): which of four answers to an exam question is right?"""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

from beacon_lit.evaluation.checks import check_at_least, check_limits
from beacon_lit.evaluation.conversations import FETCH
from beacon_lit.evaluation.prompts import AUTO, check_template, make_options
from beacon_lit.evaluation.requests import Answer, ScoreOptions
from beacon_lit.evaluation.rows import Row, read_rows
from beacon_lit.evaluation.task import Example, Record, Score, Subject, Task, mean, mean_score

LETTERS = "ABCD"

# The authors' categories. Subjects of no category count only in the mean over all subjects.
CATEGORIES: Mapping[str, tuple[str, ...]] = {
    "STEM": (
        "abstract_algebra", "astronomy", "college_biology", "college_chemistry", "college_computer_science",
        "college_mathematics", "college_physics", "computer_security", "conceptual_physics", "electrical_engineering",
        "elementary_mathematics", "high_school_biology", "high_school_chemistry", "high_school_computer_science",
        "high_school_mathematics", "high_school_physics", "high_school_statistics", "machine_learning",
    ),
    "social_sciences": (
        "econometrics", "high_school_geography", "high_school_government_and_politics", "high_school_macroeconomics",
        "high_school_microeconomics", "high_school_psychology", "human_sexuality", "professional_psychology",
        "public_relations", "security_studies", "sociology", "us_foreign_policy",
    ),
    "humanities": (
        "formal_logic", "high_school_european_history", "high_school_us_history", "high_school_world_history",
        "international_law", "jurisprudence", "logical_fallacies", "moral_disputes", "moral_scenarios", "philosophy",
        "prehistory", "professional_law", "world_religions",
    ),
    "others": (
        "anatomy", "business_ethics", "clinical_knowledge", "college_medicine", "global_facts", "human_aging",
        "management", "marketing", "medical_genetics", "miscellaneous", "nutrition", "professional_accounting",
        "professional_medicine", "virology",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Mmlu(Task):
    """Scores the share of questions whose right answer is the most likely of the four letters, averaged over subjects.

    A prompt has the authors' head line, which names the subject, `shots` solved questions of this subject, and the
    question with its choices up to "Answer:". The letters are compared by their negative log likelihood. If each letter
    is one token, they are compared in the distribution of the first token of the answer, and the prompt is read once.

    `Score.details` has the accuracy of each subject, the mean over the subjects of each category ("category_STEM" ...),
    and "by_question", the share over all questions, which the authors' own code calls the average.

    Args:
        path: questions: JSON records with `query` (or `question`), `choices` (four), `answer` (0 to 3 or A to D),
            `subject`, and optionally `query_id`, see `rows.read_rows`; or the folder of the authors' archive with files
            SUBJECT_test.csv.
        dev: solved questions in the same form; read if `shots` is not 0.
        data_root: the folder that `long-llm:` stands for.
        max_examples: maximum number of questions of each subject; None = all.
        shots: solved questions in the prompt, the first of the subject.
        template: "auto", "chat" (all of it is one turn of the user) or "plain".

    Raises:
        ValueError: a setting out of range; on evaluation, a missing file, a malformed record, or a subject with fewer
            solved questions than `shots`.
    """

    path: str = "long-llm:mmlu/test.json"
    dev: str = "long-llm:mmlu/dev.json"
    data_root: str | None = None
    max_examples: int | None = None
    shots: int = 0
    template: str = AUTO
    metric = "accuracy"

    def __post_init__(self) -> None:
        check_template(self.template)
        check_limits(max_examples=self.max_examples)
        check_at_least(0, shots=self.shots)

    def examples(self, subject: Subject) -> Sequence[Example]:
        """See Task."""
        solved: dict[str, list[str]] = {}
        for row in read_questions(self.dev, self.data_root) if self.shots else ():
            solved.setdefault(row["subject"], []).append(f"{row['text']} {row['answer']}\n\n")
        examples: list[Example] = []
        asked: Counter[str] = Counter()
        for row in read_questions(self.path, self.data_root):
            asked[row["subject"]] += 1
            if self.max_examples is not None and asked[row["subject"]] > self.max_examples:
                continue
            shots = solved.get(row["subject"], [])[: self.shots]
            if len(shots) < self.shots:
                raise ValueError(
                    f"shots={self.shots} is not allowed with dev={self.dev!r}; allowed: at most {len(shots)}, its "
                    f"questions of {row['subject']!r}"
                )
            about = {"subject": row["subject"], "answer": row["answer"]}
            head = f"The following are multiple choice questions (with answers) about {_in_words(row['subject'])}.\n\n"
            examples.append(Example(row["id"], about, "".join([head, *shots, row["text"]])))
        return examples

    def request(self, subject: Subject, example: Example) -> ScoreOptions:
        """See Task."""
        return ScoreOptions(*make_options(subject.tokenizer, example.content, LETTERS, self.template))

    def record(self, example: Example, answer: Answer) -> Record:
        """See Task. The record has the loss of each letter."""
        costs = {name: answer[name] for name in ("tokens_in", "template", "ratio", "cache_bytes", "seconds")}
        return {"nll": dict(zip(LETTERS, answer["nll"], strict=True)), **costs}

    def grade(self, record: Record) -> Record:
        """See Task. The earlier letter wins a tie; with a NaN no letter wins."""
        nll = record["nll"]
        prediction = "" if any(map(isnan, nll.values())) else min(nll, key=lambda letter: nll[letter])
        return {"prediction": prediction, "score": float(prediction == record["answer"])}

    def score(self, records: Sequence[Record]) -> Score:
        """See Task."""
        score = mean_score(records, by=("subject",))
        of_subject = {name.removeprefix("subject_"): value for name, value in score.details.items()}
        details = {"by_question": score.value}
        for category, subjects in CATEGORIES.items():
            if known := [of_subject[subject] for subject in subjects if subject in of_subject]:
                details[f"category_{category}"] = mean(known)
        return Score(mean(of_subject.values()), {**details, **score.details})


def read_questions(path: str, data_root: str | None = None) -> list[dict[str, str]]:
    """Read questions of MMLU.

    Args:
        path, data_root: see `Mmlu`.

    Returns:
        Mappings with `id`, `subject`, `text` (question and choices, up to "Answer:") and `answer` (a letter).

    Raises:
        ValueError: a missing file or a malformed record.
    """
    folder = Path(path).expanduser()
    fields = ("choices", "answer", "subject")
    rows = _of_archive(folder) if folder.is_dir() else read_rows(path, data_root, fields, FETCH)
    return [_question(where, row, number) for number, (where, row) in enumerate(rows)]


def _question(where: str, row: Mapping[str, Any], number: int) -> dict[str, str]:
    question, choices, answer = row.get("query", row.get("question")), row["choices"], row["answer"]
    if not isinstance(question, str) or not isinstance(row["subject"], str):
        raise ValueError(f"{where}: query (or question) and subject must be strings")
    if not isinstance(choices, list) or len(choices) != len(LETTERS):
        raise ValueError(f"{where}: choices={choices!r:.80} must be a list of four")
    letter = LETTERS[answer] if isinstance(answer, int) and 0 <= answer < len(LETTERS) else answer
    if not isinstance(letter, str) or letter not in tuple(LETTERS):
        raise ValueError(f"{where}: answer={answer!r} must be 0, 1, 2, 3 or one of A, B, C, D")
    lines = [question.strip(), *(f"{name}. {choice}" for name, choice in zip(LETTERS, choices, strict=True)), "Answer:"]
    subject = row["subject"].strip().replace(" ", "_")
    return {
        "id": f"{subject}/{row.get('query_id', number)}",
        "subject": subject,
        "text": "\n".join(lines),
        "answer": letter,
    }


def _of_archive(folder: Path) -> Iterator[tuple[str, Row]]:
    """Yield the records of files SUBJECT_test.csv (_dev, _val): question, four choices, letter, without a header."""
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise ValueError(
            f"path={str(folder)!r}: there is no SUBJECT_test.csv in this folder; allowed: the authors' archive"
        )
    for file in files:
        subject = file.stem.rpartition("_")[0]
        with file.open(newline="", encoding="utf-8") as stream:
            for number, cells in enumerate(csv.reader(stream), 1):
                where = f"{file}, record {number}"
                if len(cells) != len(LETTERS) + 2:
                    raise ValueError(f"{where}: {len(cells)} cells; needed: a question, four choices and a letter")
                question, *choices, answer = cells
                row = {"question": question, "choices": choices, "answer": answer}
                yield where, {**row, "subject": subject, "query_id": number}


def _in_words(subject: str) -> str:
    return subject.replace("_", " ")
