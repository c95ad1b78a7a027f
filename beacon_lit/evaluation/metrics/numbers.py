"""Grades answers that are a number."""

import re

_PARAGRAPH = re.compile(r"(?:Paragraph |段落)(\d+)")


def number_share(prediction: str, reference: str) -> float:
    """Return the share of the prediction's numbers (runs of digits) that equal the reference; 0 without numbers.

    Source: LongBench (arXiv 2308.14508), passage_count.
    """
    numbers = re.findall(r"\d+", prediction)
    return numbers.count(reference) / len(numbers) if numbers else 0.0


def paragraph_share(prediction: str, reference: str) -> float:
    """Return `number_share` of the number in a reference such as "Paragraph 12" or "段落12".

    Source: LongBench (arXiv 2308.14508), passage_retrieval_en and passage_retrieval_zh.

    Raises:
        ValueError: the reference has another form.
    """
    if not (paragraph := _PARAGRAPH.search(reference)):
        raise ValueError(f"the answer {reference!r} must name a paragraph, as in 'Paragraph 12' or '段落12'")
    return number_share(prediction, paragraph[1])
