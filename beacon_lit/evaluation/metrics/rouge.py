"""ROUGE-L: the words of a reference that a text has in the same order.

What LongBench and the paper's code report is not the ROUGE-L of Google's rouge-score (stemmed words, one subsequence of
the whole text), but that of the package `rouge` 1.0.1 (https://github.com/pltrdy/rouge): texts are cut into sentences
at full stops, matches of all sentences are united, and a word counts once. That package is no longer maintained and
runs into Python's recursion limit on long sentences, which LongBench's scorer takes for a score of 0; here such a text
has its score. Elsewhere both give the same.
"""

from collections.abc import Sequence
from typing import NamedTuple

from beacon_lit.evaluation.metrics.text import chinese_words


class Rouge(NamedTuple):
    """Shares of the words that match, 0..1: of the prediction's, of the reference's, and their harmonic mean."""

    precision: float = 0.0
    recall: float = 0.0
    f: float = 0.0


def rouge_l(prediction: str, reference: str) -> Rouge:
    """ROUGE-L on the level of summaries, each different word counted once; zeros if one of both is empty.

    Words are what white space parts, case and punctuation count.
    """
    said, wanted = _sentences(prediction), _sentences(reference)
    if not said or not wanted:
        return Rouge()
    found = {word for right in wanted for left in said for word in _common(right, left)}
    words = [len({word for sentence in sentences for word in sentence}) for sentences in (said, wanted)]
    precision, recall = (len(found) / count for count in words)
    # The small number is the package's.
    return Rouge(precision, recall, 2 * precision * recall / (precision + recall + 1e-8))


def rouge_l_chinese(prediction: str, reference: str) -> Rouge:
    """`rouge_l` of the words that jieba finds.

    Source: LongBench (arXiv 2308.14508). Raises ValueError if jieba is missing.
    """
    return rouge_l(*(" ".join(chinese_words(text)) for text in (prediction, reference)))


def _sentences(text: str) -> list[list[str]]:
    """White space between two full stops is a sentence, too, of one empty word."""
    return [sentence.split() or [""] for sentence in text.split(".") if sentence]


def _common(x: Sequence[str], y: Sequence[str]) -> list[str]:
    """A longest common subsequence, reversed. Where there are several, the one that keeps the later words of `x`."""
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
