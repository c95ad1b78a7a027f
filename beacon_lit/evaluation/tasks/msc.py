"""Multi-session chat of MemGPT (Packer et al., 2023, arXiv 2310.08560): is an earlier session remembered?"""

import string
from collections.abc import Sequence
from dataclasses import dataclass

from beacon_lit.data.encoding import token_ids
from beacon_lit.evaluation.checks import check_at_least, check_limits
from beacon_lit.evaluation.conversations import FETCH
from beacon_lit.evaluation.metrics import rouge_l
from beacon_lit.evaluation.prompts import PLAIN, Prompt
from beacon_lit.evaluation.requests import Generate
from beacon_lit.evaluation.rows import read_rows
from beacon_lit.evaluation.task import Example, Record, Score, Subject, Task, mean_score

_FIELDS = ("context", "input", "output")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class MultiSessionChat(Task):
    """Scores short answers by ROUGE-L recall against what was said, in lower case and without punctuation.

    The prompt is plain text: the earlier sessions, a line break, the question.

    Args:
        path: JSON records of `context`, `input` and `output`, strings; see `rows.read_rows`.
        data_root: the folder that `long-llm:` stands for.
        max_examples: maximum number of records; None = all.
        max_tokens: maximum tokens of a prompt without the bos, of which the last are kept; None = all.
        max_new_tokens: maximum number of tokens of an answer.

    Raises:
        ValueError: a setting out of range; on evaluation, a missing file or a malformed record.
    """

    path: str = "long-llm:memgpt/msc.json"
    data_root: str | None = None
    max_examples: int | None = None
    max_tokens: int | None = None
    max_new_tokens: int = 20
    metric = "ROUGE-L recall"

    def __post_init__(self) -> None:
        check_limits(max_examples=self.max_examples, max_tokens=self.max_tokens)
        check_at_least(1, max_new_tokens=self.max_new_tokens)

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
        ids = token_ids(subject.tokenizer, example.content)
        kept = ids if self.max_tokens is None else ids[-self.max_tokens :]
        return Generate(Prompt([*subject.prefix, *kept], PLAIN, len(ids) - len(kept)), self.max_new_tokens)

    def grade(self, record: Record) -> Record:
        """See Task."""
        said, wanted = (record[name].lower().translate(_NO_PUNCTUATION) for name in ("prediction", "answer"))
        return {"score": rouge_l(said, wanted).recall}

    def score(self, records: Sequence[Record]) -> Score:
        """See Task."""
        return mean_score(records)
