"""ROUGE-L: words of a reference that a text has in the same order.

LongBench and the paper's code do not report the ROUGE-L of Google's rouge-score (stemmed words, one subsequence of the
whole text), but that of the package `rouge` 1.0.1 (https://github.com/pltrdy/rouge): texts are cut into sentences at
full stops, the matches of all sentences are united, and a word counts once. That package is no longer maintained. On
long sentences it exceeds Python's recursion limit, which LongBench's scorer counts as a score of 0; here such a text
gets its score. Otherwise both agree.
"""

from collections.abc import Sequence
from typing import NamedTuple

from beacon_lit.evaluation.metrics.text import chinese_words


class Rouge(NamedTuple):
    """Shares of matching words in 0..1: among the prediction's, among the reference's, and their harmonic mean."""

    precision: float = 0.0
    recall: float = 0.0
    f: float = 0.0


def rouge_l(prediction: str, reference: str) -> Rouge:
    """Return the summary-level ROUGE-L, with each different word counted once; zeros if a text is empty.

    Words are separated by white space; case and punctuation matter.
    """
    said, wanted = _sentences(prediction), _sentences(reference)
    if not said or not wanted:
        return Rouge()
    found = {word for right in wanted for left in said for word in _common(right, left)}
    words = [len({word for sentence in sentences for word in sentence}) for sentences in (said, wanted)]
    precision, recall = (len(found) / count for count in words)
    # The package adds the small number, too.
    return Rouge(precision, recall, 2 * precision * recall / (precision + recall + 1e-8))


def rouge_l_chinese(prediction: str, reference: str) -> Rouge:
    """Return `rouge_l` of the words that jieba finds.

    Source: LongBench (arXiv 2308.14508). Raises ValueError if jieba is missing.
    """
    return rouge_l(*(" ".join(chinese_words(text)) for text in (prediction, reference)))


def _sentences(text: str) -> list[list[str]]:
    """Split a text into sentences of words; white space between two full stops is a sentence of one empty word."""
    return [sentence.split() or [""] for sentence in text.split(".") if sentence]


def _common(x: Sequence[str], y: Sequence[str]) -> list[str]:
    """Return a longest common subsequence, reversed; of several the one with the later words of `x`."""
    lengths = [[0] * (len(y) + 1)]
    for word in x:
        above, row = lengths[-1], [0]
        for j, other in enumerate(y):
            row.append(above[j] + 1 if word == other else max(above[j + 1], row[j]))
        lengths.append(row)
    i, j, common = len(x), len(y), []
    while i and j:
        if x[i - 1] == y[j - 1]:
            i, j = i - 1, j - 1
            common.append(x[i])
        elif lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return common
