"""The 21 subsets of LongBench v1, how each is asked and graded. Source: https://github.com/THUDM/LongBench."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from beacon_lit.evaluation.metrics import (
    classification,
    code_similarity,
    number_share,
    paragraph_share,
    qa_f1,
    qa_f1_chinese,
    rouge_l,
    rouge_l_chinese,
)
from beacon_lit.evaluation.prompts import PLAIN

FEW_SHOT, CODE, CHINESE = "few_shot", "code", "zh_"
Metric = Callable[[str, str, Sequence[str]], float]


@dataclass(frozen=True)
class LongBenchSubset:
    """One data set of LongBench.

    Attributes:
        name: name of its file, without `.jsonl`.
        category: category in the official tables, with "zh_" before those of Chinese subsets.
        metric: (prediction, reference, classes) -> 0..1.
        max_new_tokens: maximum number of tokens of an answer.
        has_classes: whether a record must list the classes to choose from.
        by_length: whether LongBench-E has this subset.
    """

    name: str
    category: str
    metric: Metric
    max_new_tokens: int
    has_classes: bool = False
    by_length: bool = False

    @property
    def is_few_shot(self) -> bool:
        """Whether the prompt has solved examples, so that only the first line of an answer counts."""
        return self.category.removeprefix(CHINESE) == FEW_SHOT

    def template(self, wanted: str) -> str:
        """Return the template to use: "plain" for few-shot and code prompts, which a model continues, else `wanted`."""
        return PLAIN if self.is_few_shot or self.category == CODE else wanted

    def grade(self, prediction: str, answers: Sequence[str], classes: Sequence[str] | None) -> float:
        """Return the best score over all reference answers, in per cent."""
        counted = prediction.lstrip("\n").split("\n")[0] if self.is_few_shot else prediction
        return 100 * max(self.metric(counted, answer, classes or ()) for answer in answers)


def _of_two(metric: Callable[[str, str], float]) -> Metric:
    return lambda prediction, reference, classes: metric(prediction, reference)


_F1, _F1_CHINESE = _of_two(qa_f1), _of_two(qa_f1_chinese)
_ROUGE = _of_two(lambda prediction, reference: rouge_l(prediction, reference).f)
_ROUGE_CHINESE = _of_two(lambda prediction, reference: rouge_l_chinese(prediction, reference).f)
_NUMBER, _PARAGRAPH, _CODE = _of_two(number_share), _of_two(paragraph_share), _of_two(code_similarity)

SUBSETS = {
    subset.name: subset
    for subset in (
        LongBenchSubset("narrativeqa", "single_doc_qa", _F1, 128),
        LongBenchSubset("qasper", "single_doc_qa", _F1, 128, by_length=True),
        LongBenchSubset("multifieldqa_en", "single_doc_qa", _F1, 64, by_length=True),
        LongBenchSubset("multifieldqa_zh", "zh_single_doc_qa", _F1_CHINESE, 64),
        LongBenchSubset("hotpotqa", "multi_doc_qa", _F1, 32, by_length=True),
        LongBenchSubset("2wikimqa", "multi_doc_qa", _F1, 32, by_length=True),
        LongBenchSubset("musique", "multi_doc_qa", _F1, 32),
        LongBenchSubset("dureader", "zh_multi_doc_qa", _ROUGE_CHINESE, 128),
        LongBenchSubset("gov_report", "summarization", _ROUGE, 512, by_length=True),
        LongBenchSubset("qmsum", "summarization", _ROUGE, 512),
        LongBenchSubset("multi_news", "summarization", _ROUGE, 512, by_length=True),
        LongBenchSubset("vcsum", "zh_summarization", _ROUGE_CHINESE, 512),
        LongBenchSubset("trec", "few_shot", classification, 64, has_classes=True, by_length=True),
        LongBenchSubset("triviaqa", "few_shot", _F1, 32, by_length=True),
        LongBenchSubset("samsum", "few_shot", _ROUGE, 128, by_length=True),
        LongBenchSubset("lsht", "zh_few_shot", classification, 64, has_classes=True),
        LongBenchSubset("passage_count", "synthetic", _NUMBER, 32, by_length=True),
        LongBenchSubset("passage_retrieval_en", "synthetic", _PARAGRAPH, 32, by_length=True),
        LongBenchSubset("passage_retrieval_zh", "zh_synthetic", _PARAGRAPH, 32),
        LongBenchSubset("lcc", "code", _CODE, 64, by_length=True),
        LongBenchSubset("repobench-p", "code", _CODE, 64, by_length=True),
    )
}
CATEGORIES = tuple(dict.fromkeys(subset.category for subset in SUBSETS.values()))
_PAPER_CATEGORIES = ("single_doc_qa", "multi_doc_qa", "summarization", FEW_SHOT, CODE)
GROUPS = {
    "all": tuple(SUBSETS),
    "paper": tuple(name for name, subset in SUBSETS.items() if subset.category in _PAPER_CATEGORIES),
    **{category: tuple(n for n, subset in SUBSETS.items() if subset.category == category) for category in CATEGORIES},
}
"""Names of groups: "all", "paper" (the 14 English subsets that the paper on beacons reports) and categories."""


def choose_subsets(names: Sequence[str], by_length: bool) -> tuple[LongBenchSubset, ...]:
    """Choose subsets by name, in the order of the names, each once.

    Args:
        names: names of subsets or groups.
        by_length: whether to choose from the subsets of LongBench-E alone.

    Raises:
        ValueError: no name, an unknown name, or a name that stands for no subset of LongBench-E.
    """
    chosen: dict[str, LongBenchSubset] = {}
    for name in names:
        members = [SUBSETS[member] for member in GROUPS.get(name, (name,)) if member in SUBSETS]
        members = [subset for subset in members if subset.by_length or not by_length]
        if not members:
            allowed = [n for n, subset in SUBSETS.items() if subset.by_length or not by_length]
            raise ValueError(f"subsets={name!r} is not allowed; allowed: {', '.join([*GROUPS, *allowed])}")
        chosen |= {subset.name: subset for subset in members}
    if not chosen:
        raise ValueError("subsets=[] is not allowed; allowed: at least one")
    return tuple(chosen.values())
