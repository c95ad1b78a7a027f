"""ROUGE-L's recall: how much of a reference an answer repeats in the reference's order."""

import re

_WORDS = re.compile(r"\w+")


def rouge_l_recall(prediction: str, reference: str) -> float:
    """Length of the longest common subsequence of words over the reference's words: 0..1; 0 without words.

    Words are in lower case, without punctuation (Lin, 2004, as Google's rouge_score without stemming).
    """
    said, wanted = (_WORDS.findall(text.lower()) for text in (prediction, reference))
    row = [0] * (len(said) + 1)
    for word in wanted:
        before = row
        row = [0]
        for i, other in enumerate(said):
            row.append(before[i] + 1 if word == other else max(row[i], before[i + 1]))
    return row[-1] / len(wanted) if wanted else 0.0
