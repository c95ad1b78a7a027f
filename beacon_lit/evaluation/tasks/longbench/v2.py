"""LongBench v2 (arXiv 2412.15204): 503 questions of four choices about texts of up to two million words."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from beacon_lit.evaluation.checks import check_at_least, check_distinct, check_limits, check_names
from beacon_lit.evaluation.plots import bars, titled
from beacon_lit.evaluation.prompts import AUTO, check_template, make_prompt
from beacon_lit.evaluation.requests import Generate
from beacon_lit.evaluation.rows import Row, read_rows
from beacon_lit.evaluation.task import Example, ModeScores, Record, Score, Subject, Task, mean_score
from beacon_lit.evaluation.tasks.longbench.prompts import OWN

_TEXTS = {"$DOC$": "context", "$Q$": "question"} | {f"$C_{letter}$": f"choice_{letter}" for letter in "ABCD"}
_PLACE = re.compile("|".join(map(re.escape, _TEXTS)))
_LABELS = {
    "answer": tuple("ABCD"),
    "difficulty": ("easy", "hard"),
    "length": ("short", "medium", "long"),
}
_ANSWER = re.compile(r"The correct answer is \(([A-D])\)")
_BARE_ANSWER = re.compile(r"The correct answer is ([A-D])")
_FETCH = "Fetch data.json of https://huggingface.co/datasets/THUDM/LongBench-v2 and set `path` to it"

OWN_PROMPT = """Below is a text. A question about it with four choices follows.

$DOC$

Question: $Q$
(A) $C_A$
(B) $C_B$
(C) $C_C$
(D) $C_D$

Exactly one choice is right. Reply with one sentence that names it, such as "The correct answer is (A)"."""


@dataclass(frozen=True)
class LongBenchV2(Task):
    """Scores the share of right letters in "The correct answer is (A)", or without brackets, in per cent.

    An answer without such a sentence is wrong. The protocol is the official one (https://github.com/THUDM/LongBench)
    without a chain of thought: a long prompt loses its middle and is then put into the tokenizer's chat template;
    answers have up to 128 tokens; asterisks are removed before the letter is looked for. Unlike in the official code,
    which samples at temperature 0.1, answers are greedy. With `prompts_file` the prompt is the official one as well.

    `Score.details` has "difficulty_easy", "difficulty_hard"; "length_short" (below 32K words), "length_medium",
    "length_long" (from 128K words); and "answered", the share of answers with a letter.

    Args:
        path: data.json, or JSON lines of the same records, also packed as .gz or .zst.
        data_root: the folder that a leading `long-llm:` stands for.
        lengths: which texts to ask about: "short", "medium", "long".
        max_examples: maximum number of examples; None = all.
        max_length: maximum tokens of a prompt before the chat template; a longer prompt loses its middle. Officially
            120,000 for models with 128K positions.
        max_new_tokens: maximum number of tokens of an answer.
        template: "auto" (a chat if the tokenizer has a chat template), "chat" or "plain".
        prompts_file: LongBench's prompts/0shot.txt; None = our own prompt.

    Raises:
        ValueError: a setting out of range; on evaluation, a missing file or a malformed record.
    """

    path: str
    data_root: str | None = None
    lengths: Sequence[str] = _LABELS["length"]
    max_examples: int | None = None
    max_length: int = 120_000
    max_new_tokens: int = 128
    template: str = AUTO
    prompts_file: str | None = None
    metric = "accuracy"

    def __post_init__(self) -> None:
        check_template(self.template)
        check_distinct(lengths=self.lengths)
        check_names(_LABELS["length"], lengths=self.lengths)
        check_limits(max_examples=self.max_examples)
        check_at_least(2, max_length=self.max_length)
        check_at_least(1, max_new_tokens=self.max_new_tokens)

    def examples(self, subject: Subject) -> Sequence[Example]:
        """See Task."""
        source, prompt = _read_prompt(self.prompts_file)
        examples = []
        for where, row in read_rows(self.path, self.data_root, ("_id", *_TEXTS.values(), *_LABELS), _FETCH):
            _check(row, where)
            if row["length"] in self.lengths:
                about = {name: row[name] for name in ("domain", "sub_domain", *_LABELS) if name in row}
                text = _PLACE.sub(lambda place, row=row: row[_TEXTS[place[0]]].strip(), prompt)  # type: ignore[misc]
                examples.append(Example(str(row["_id"]), about | {"prompts": source}, text))
        return examples[: self.max_examples]

    def request(self, subject: Subject, example: Example) -> Generate:
        """See Task."""
        prompt = make_prompt(subject.tokenizer, example.content, self.template, self.max_length)
        return Generate(prompt, self.max_new_tokens)

    def grade(self, record: Record) -> Record:
        """See Task."""
        letter = chosen_letter(record["prediction"])
        return {
            "letter": letter,
            "answered": 100.0 * (letter is not None),
            "score": 100.0 * (letter == record["answer"]),
        }

    def score(self, records: Sequence[Record]) -> Score:
        """See Task."""
        details = {"answered": mean_score(records, "answered").value}
        for label in ("difficulty", "length"):
            details |= mean_score(records, by=(label,)).details
        return Score(mean_score(records).value, details)

    def figures(self, runs: Mapping[str, ModeScores]) -> Mapping[str, Figure]:
        """See Task."""
        label, newest = list(runs.items())[-1]
        prompts = next(iter(newest.values())).predictions[0]["prompts"]
        names = [f"{kind}_{name}" for kind in ("difficulty", "length") for name in _LABELS[kind]]
        shown = {
            mode: {"all": score.value}
            | {name.partition("_")[2]: score.details[name] for name in names if name in score.details}
            for mode, score in newest.items()
        }
        return {"by_kind": bars(shown, "accuracy (%)", titled("LongBench v2", f"{prompts} prompts", label))}


def chosen_letter(prediction: str) -> str | None:
    """Return the first letter in "The correct answer is (A)", or else without brackets; None if there is none."""
    said = prediction.replace("*", "")
    found = _ANSWER.search(said) or _BARE_ANSWER.search(said)
    return found[1] if found else None


def _read_prompt(file: str | None) -> tuple[str, str]:
    """Return the prompt's name in records, and the prompt. Raises ValueError for an unreadable or malformed file."""
    if file is None:
        return OWN, OWN_PROMPT
    try:
        prompt = Path(file).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ValueError(f"prompts_file={file!r} cannot be read: {error}") from error
    if missing := [place for place in _TEXTS if place not in prompt]:
        raise ValueError(
            f"prompts_file={file!r} lacks {', '.join(missing)}; allowed: a prompt with {', '.join(_TEXTS)}"
        )
    return Path(file).name, prompt


def _check(row: Row, where: str) -> None:
    """Raise a ValueError unless the texts of a row are strings and its labels are allowed ones."""
    for name in _TEXTS.values():
        if not isinstance(row[name], str):
            raise ValueError(f"{where}: {name} must be a string, not {row[name]!r}")
    for name, allowed in _LABELS.items():
        if row[name] not in allowed:
            raise ValueError(f"{where}: {name}={row[name]!r} is not allowed; allowed: {', '.join(allowed)}")
