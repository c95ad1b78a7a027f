"""F1 of words that an answer shares with a reference."""

from collections import Counter
from collections.abc import Sequence

from beacon_lit.evaluation.metrics.text import chinese_words, normalized, normalized_chinese


def token_f1(prediction: Sequence[str], reference: Sequence[str]) -> float:
    """Return the harmonic mean of both shares of common tokens, counted as often as both have them; 0 without any."""
    shared = sum((Counter(prediction) & Counter(reference)).values())
    return 2 * shared / (len(prediction) + len(reference)) if shared else 0.0


def qa_f1(prediction: str, reference: str) -> float:
    """Return the F1 over normalised words.

    Source: the scorer of SQuAD (arXiv 1606.05250), as LongBench (arXiv 2308.14508) uses it: without SQuAD's exception
    for yes, no and no answer.
    """
    return token_f1(normalized(prediction).split(), normalized(reference).split())


def qa_f1_chinese(prediction: str, reference: str) -> float:
    """Return the F1 over the words that jieba finds, each normalised, without empty ones.

    Source: LongBench (arXiv 2308.14508). Raises ValueError if jieba is missing.
    """
    words = ([normalized_chinese(word) for word in chinese_words(text)] for text in (prediction, reference))
    return token_f1(*([word for word in of_text if word] for of_text in words))
