"""Normalises texts for metrics, and splits Chinese text into words."""

import logging
import re
import string

from beacon_lit.evaluation.metrics.packages import package

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
# Code points that LongBench's scorer removes: most Chinese marks, but not 〈, 〉, 《 and the full-width dot.
_CHINESE_MARKS = [
    *range(0xFF01, 0xFF0E), 0xFF0F, *range(0xFF1A, 0xFF21), *range(0xFF3B, 0xFF41), *range(0xFF5B, 0xFF65),
    *range(0x3001, 0x3004), *range(0x300B, 0x3012), *range(0x3014, 0x3020), 0x3030, 0x303E, 0x303F,
    0x2013, 0x2014, 0x2018, 0x2019, 0x201B, 0x201C, 0x201D, 0x201E, 0x201F, 0x2026, 0x2027, 0xFE4F,
]  # fmt: skip
_CHINESE_PUNCTUATION = _PUNCTUATION | dict.fromkeys(_CHINESE_MARKS)


def normalized(text: str) -> str:
    """Lower a text, remove ASCII punctuation and the articles a, an and the, and separate words by one space.

    Source: the scorer of SQuAD (Rajpurkar et al., arXiv 1606.05250), which LongBench and InfiniteBench use.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def normalized_chinese(text: str) -> str:
    """Lower a text, and remove ASCII and Chinese punctuation and all white space.

    Source: LongBench (arXiv 2308.14508).
    """
    return "".join(text.lower().translate(_CHINESE_PUNCTUATION).split())


def chinese_words(text: str) -> list[str]:
    """Split a text into words and marks with jieba; joined they are the text again.

    Raises:
        ValueError: jieba is missing.
    """
    jieba = package("jieba")
    jieba.setLogLevel(logging.WARNING)  # without it, jieba reports on stderr that it loads its dictionary
    return list(jieba.cut(text, cut_all=False))
