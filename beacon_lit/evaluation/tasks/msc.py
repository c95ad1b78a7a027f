"""MemGPT's multi-session chat (Packer et al., 2023, arXiv 2310.08560): what was said in an earlier session?"""

import string
from collections.abc import Sequence
from dataclasses import dataclass

from beacon_lit.evaluation.conversations import FETCH, check_max_examples
from beacon_lit.evaluation.metrics import rouge_l
from beacon_lit.evaluation.prompts import PLAIN, Prompt
from beacon_lit.evaluation.requests import Generate
from beacon_lit.evaluation.rows import read_rows
from beacon_lit.evaluation.task import Example, Record, Score, Subject, Task, mean_score

_FIELDS = ("context", "input", "output")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class MultiSessionChat(Task):
    """ROUGE-L recall of short answers: how much of what was said they repeat, in lower case and without punctuation.

    The prompt is plain: the earlier sessions, a line break, the question.

    Args:
        path: JSON records of `context`, `input` and `output`, strings; see `rows.read_rows`.
        data_root: the folder that `long-llm:` stands for.
        max_examples: the first so many records; None = all.
        max_tokens: of a longer prompt the last so many tokens are kept, a bos not counted; None = all.
        max_new_tokens: of an answer.

    Raises:
        ValueError: settings out of range; on evaluation, files that are missing or malformed.
    """

    path: str = "long-llm:memgpt/msc.json"
    data_root: str | None = None
    max_examples: int | None = None
    max_tokens: int | None = None
    max_new_tokens: int = 20
    metric = "ROUGE-L recall"

    def __post_init__(self) -> None:
        check_max_examples(self.max_examples)
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens: got {self.max_tokens}; must be at least 1, or null for all")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: got {self.max_new_tokens}; must be at least 1")

    def examples(self, subject: Subject) -> Sequence[Example]:
        """See Task."""
        examples: list[Example] = []
        for where, row in read_rows(self.path, self.data_root, _FIELDS, FETCH, self.max_examples):
            if bad := [field for field in _FIELDS if not isinstance(row[field], str)]:
                raise ValueError(f"{where}: {', '.join(bad)} must be a string")
            about = {"answer": row["output"]}
            examples.append(Example(str(len(examples)), about, f"{row['context']}\n{row['input']}"))
        return examples

    def request(self, subject: Subject, example: Example) -> Generate:
        """See Task."""
        return Generate(self._prompt(subject, example), self.max_new_tokens)

    def _prompt(self, subject: Subject, example: Example) -> Prompt:
        ids = subject.tokenizer(example.content, add_special_tokens=False, verbose=False)["input_ids"]
        kept = ids if self.max_tokens is None else ids[-self.max_tokens :]
        return Prompt([*subject.prefix, *kept], PLAIN, len(ids) - len(kept))

    def grade(self, record: Record) -> Record:
        """See Task."""
        said, wanted = (record[name].lower().translate(_NO_PUNCTUATION) for name in ("prediction", "answer"))
        return {"score": rouge_l(said, wanted).recall}

    def score(self, records: Sequence[Record]) -> Score:
        """See Task."""
        return mean_score(records)
