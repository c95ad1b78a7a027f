"""InfiniteBench: 12 subsets of questions about texts of about 100,000 words, tables and programs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from beacon_lit.evaluation.checks import check_at_least, check_limits
from beacon_lit.evaluation.plots import bars, titled
from beacon_lit.evaluation.prompts import AUTO, check_template, make_prompt
from beacon_lit.evaluation.requests import Generate
from beacon_lit.evaluation.rows import read_rows
from beacon_lit.evaluation.task import Example, ModeScores, Record, Score, Subject, Task, mean, mean_score
from beacon_lit.evaluation.tasks.infinitebench.prompts import write_prompt
from beacon_lit.evaluation.tasks.infinitebench.subsets import SUBSETS, choose_subsets

_FIELDS = ("id", "context", "input", "answer", "options")
_FETCH = (
    "InfiniteBench: fetch the files from https://huggingface.co/datasets/xinrongzhang2022/InfiniteBench into the "
    "folder that `path` names, as <subset>.jsonl"
)


@dataclass(frozen=True)
class InfiniteBench(Task):
    """The score is the mean over subsets of their mean scores, 0..1; `Score.details` has the score of each subset.

    Prompts are in our own words. Source: InfiniteBench (arXiv 2402.13718).

    Args:
        path: folder of the files, `<subset>.jsonl`, also packed as .gz or .zst.
        data_root: the folder that a leading `long-llm:` stands for.
        subsets: names of subsets, "all", or "paper": the two that the code of the paper on beacons asks by default.
        max_examples: maximum number of examples of each subset; None = all.
        max_length: maximum tokens of a prompt before the chat template; a longer prompt loses its middle.
        template: "auto" (a chat if the tokenizer has a chat template), "chat" or "plain".

    Raises:
        ValueError: a setting out of range; on evaluation, a missing file or a malformed record.
    """

    path: str
    data_root: str | None = None
    subsets: Sequence[str] = ("all",)
    max_examples: int | None = None
    max_length: int = 128_000
    template: str = AUTO
    metric = "score"

    def __post_init__(self) -> None:
        choose_subsets(self.subsets)
        check_template(self.template)
        check_limits(max_examples=self.max_examples)
        check_at_least(2, max_length=self.max_length)

    def examples(self, subject: Subject) -> Sequence[Example]:
        """See Task."""
        return [example for name in choose_subsets(self.subsets) for example in self._of(name)]

    def _of(self, name: str) -> Sequence[Example]:
        rows = read_rows(f"{self.path}/{name}.jsonl*", self.data_root, _FIELDS, _FETCH, limit=self.max_examples)
        examples = []
        for number, (where, row) in enumerate(rows):
            if not all(isinstance(row[field], str) for field in ("context", "input")):
                raise ValueError(f"{where}: context and input must be strings")
            try:
                labels = list(SUBSETS[name].labels(row))
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
            about = {"subset": name, "row": row["id"], "answers": labels}
            examples.append(Example(f"{name}/{number}", about, write_prompt(name, row, where)))
        return examples

    def request(self, subject: Subject, example: Example) -> Generate:
        """See Task."""
        prompt = make_prompt(subject.tokenizer, example.content, self.template, self.max_length)
        return Generate(prompt, SUBSETS[example.about["subset"]].new_tokens)

    def grade(self, record: Record) -> Record:
        """See Task."""
        return {"score": SUBSETS[record["subset"]].grade(record["prediction"], record["answers"])}

    def score(self, records: Sequence[Record]) -> Score:
        """See Task."""
        groups = {name: [record for record in records if record["subset"] == name] for name in SUBSETS}
        means = {name: mean_score(of_subset).value for name, of_subset in groups.items() if of_subset}
        return Score(mean(means.values()), means)

    def figures(self, runs: Mapping[str, ModeScores]) -> Mapping[str, Figure]:
        """See Task."""
        label, newest = list(runs.items())[-1]
        percent = {mode: {name: 100 * x for name, x in score.details.items()} for mode, score in newest.items()}
        return {"by_subset": bars(percent, "score (%)", titled("InfiniteBench", label))}
