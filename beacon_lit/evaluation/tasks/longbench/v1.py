"""LongBench v1 (arXiv 2308.14508): 21 subsets of questions about long texts in English, Chinese and code."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from beacon_lit.data.encoding import token_ids
from beacon_lit.evaluation.checks import check_at_least, check_limits, check_names
from beacon_lit.evaluation.plots import bars, titled
from beacon_lit.evaluation.prompts import AUTO, check_template, make_prompt
from beacon_lit.evaluation.requests import Generate
from beacon_lit.evaluation.rows import Row, read_rows
from beacon_lit.evaluation.task import Example, ModeScores, Record, Score, Subject, Task
from beacon_lit.evaluation.tasks.longbench.prompts import read_prompts, write_prompt
from beacon_lit.evaluation.tasks.longbench.subsets import CHINESE, CODE, SUBSETS, LongBenchSubset, choose_subsets
from beacon_lit.evaluation.tasks.longbench.summary import LENGTHS, summary

_FIELDS = ("input", "context", "answers", "length", "all_classes")
_FETCH = (
    "Fetch LongBench's data.zip (https://huggingface.co/datasets/THUDM/LongBench) or the long-llm data and set `path` "
    "to the folder that holds narrativeqa.jsonl, narrativeqa_e.jsonl ..."
)
_CODE = f"category/{CODE}"
_KINDS = {
    "single_doc_qa": "single-doc QA",
    "multi_doc_qa": "multi-doc QA",
    "summarization": "summarization",
    "few_shot": "few-shot",
    "synthetic": "synthetic",
}
# Details that each figure shows, and their labels; the official tables put code beside both languages.
_FIGURES = {
    "category": {**{f"category/{kind}": text for kind, text in _KINDS.items()}, _CODE: "code"},
    "chinese_category": {**{f"category/{CHINESE}{kind}": text for kind, text in _KINDS.items()}, _CODE: "code"},
    "length": {f"length/{name}": f"{name} words" for name in LENGTHS},
}


@dataclass(frozen=True)
class LongBench(Task):
    """The score is the mean over subsets of their mean scores, in per cent: F1, ROUGE-L, accuracy or similarity.

    The protocol is the official one (https://github.com/THUDM/LongBench): a long prompt loses its middle; questions and
    summaries are asked in the tokenizer's chat template, few-shot and code prompts as they are; answers are greedy; the
    first line of few-shot answers counts; with several references the best counts. With `prompts_file` the prompts are
    the official ones as well.

    `Score.details` has each subset; "category/..." the mean over the subsets of a category; "average/en" and
    "average/zh" the mean over the categories of a language, code among both, which the official tables call "Avg". With
    `e_split` it also has "length/0-4k", "length/4-8k" and "length/8k+" (words), over all subsets and for each subset.

    Args:
        path: folder of the files, `<subset>.jsonl` or `<subset>_e.jsonl`, also packed as .gz or .zst.
        data_root: the folder that a leading `long-llm:` stands for.
        subsets: names of subsets or groups: "all", "paper" (the 14 that the paper on beacons reports), categories.
        e_split: whether to read LongBench-E, 13 subsets with texts of all lengths, and to score by length.
        max_examples: maximum number of examples of each subset; None = all.
        max_length: maximum tokens of a prompt before the chat template; a longer prompt loses its middle.
        template: "auto" (a chat if the tokenizer has a chat template), "chat" or "plain".
        newline_ends: subsets whose answers end at a newline, but not before one token; officially samsum alone.
        prompts_file: LongBench's dataset2prompt.json; None = our own prompts.

    Raises:
        ValueError: a setting out of range; on evaluation, a missing file or package, or a malformed record.
    """

    path: str
    data_root: str | None = None
    subsets: Sequence[str] = ("all",)
    e_split: bool = False
    max_examples: int | None = None
    max_length: int = 31500
    template: str = AUTO
    newline_ends: Sequence[str] = ("samsum",)
    prompts_file: str | None = None
    metric = "score"

    def __post_init__(self) -> None:
        choose_subsets(self.subsets, self.e_split)
        check_template(self.template)
        check_limits(max_examples=self.max_examples)
        check_at_least(2, max_length=self.max_length)
        check_names(tuple(SUBSETS), newline_ends=self.newline_ends)

    def examples(self, subject: Subject) -> Sequence[Example]:
        """See Task."""
        source, prompts = read_prompts(self.prompts_file)
        examples = []
        for subset in choose_subsets(self.subsets, self.e_split):
            file = f"{self.path}/{subset.name}{'_e' * self.e_split}.jsonl*"
            for number, (where, row) in enumerate(
                read_rows(file, self.data_root, _FIELDS, _FETCH, limit=self.max_examples)
            ):
                about = _about(subset, row, where) | {"prompts": source}
                text = write_prompt(prompts, source, subset.name, row["context"], row["input"])
                examples.append(Example(f"{subset.name}/{number}", about, text))
        return examples

    def request(self, subject: Subject, example: Example) -> Generate:
        """See Task."""
        tokenizer, subset = subject.tokenizer, SUBSETS[example.about["subset"]]
        prompt = make_prompt(tokenizer, example.content, subset.template(self.template), self.max_length)
        if subset.name not in self.newline_ends:
            return Generate(prompt, subset.max_new_tokens)
        newline = token_ids(tokenizer, "\n")[-1:]
        return Generate(prompt, subset.max_new_tokens, end_tokens=newline, min_new_tokens=1)

    def grade(self, record: Record) -> Record:
        """See Task."""
        subset = SUBSETS[record["subset"]]
        return {"score": subset.grade(record["prediction"], record["answers"], record.get("all_classes"))}

    def score(self, records: Sequence[Record]) -> Score:
        """See Task."""
        return summary(records, self.e_split)

    def figures(self, runs: Mapping[str, ModeScores]) -> Mapping[str, Figure]:
        """See Task."""
        label, newest = list(runs.items())[-1]
        some_score = next(iter(newest.values()))
        prompts = f"{some_score.predictions[0]['prompts']} prompts"
        name = f"LongBench{'-E' * self.e_split}"
        figures = {}
        for kind, details in _FIGURES.items():
            shown_alone = details.keys() - ({_CODE} if kind == "chinese_category" else set())
            if shown_alone & some_score.details.keys():
                shown = {
                    mode: {text: score.details[detail] for detail, text in details.items() if detail in score.details}
                    for mode, score in newest.items()
                }
                title = f"{name} by {kind.replace('chinese_', 'Chinese ')}"
                figures[f"by_{kind}"] = bars(shown, "score (%)", titled(title, prompts, label))
        return figures


def _about(subset: LongBenchSubset, row: Row, where: str) -> dict[str, Any]:
    """Return the fields of a record from a row, after checking their types."""
    answers, classes, length = row["answers"], row["all_classes"], row["length"]
    if not all(isinstance(row[name], str) for name in ("input", "context")):
        raise ValueError(f"{where}: input and context must be strings")
    if not isinstance(answers, list) or not answers or not all(isinstance(answer, str) for answer in answers):
        raise ValueError(f"{where}: answers must be a list of one or more strings, not {answers!r}")
    if subset.has_classes and not (isinstance(classes, list) and classes and all(isinstance(c, str) for c in classes)):
        raise ValueError(f"{where}: all_classes must be a list of one or more strings, not {classes!r}")
    if not isinstance(length, int) or isinstance(length, bool):
        raise ValueError(f"{where}: length must be an integer, not {length!r}")
    try:
        subset.grade("", answers, classes)  # answers that cannot be graded are an error now, not after an hour
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    about = {"subset": subset.name, "_id": row.get("_id"), "length": length, "answers": answers}
    return about | ({"all_classes": classes} if subset.has_classes else {})
