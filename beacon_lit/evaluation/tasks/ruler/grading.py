"""RULER's rules for its five families of subsets: the room for an answer, and which answers count."""

from collections.abc import Sequence

from beacon_lit.evaluation.task import mean

NEW_TOKENS = {"niah": 128, "vt": 30, "cwe": 120, "fwe": 50, "qa": 32}  # family -> maximum number of tokens of an answer


def family(subset: str) -> str:
    """Return the family of a subset, such as "niah" of "niah_single_1". Raises ValueError for an unknown family."""
    name = subset.partition("_")[0]
    if name not in NEW_TOKENS:
        raise ValueError(f"{subset} is not a subset of RULER; allowed: names that begin with {', '.join(NEW_TOKENS)}")
    return name


def contained(prediction: str, answers: Sequence[str], any_answer: bool) -> float:
    """Return the share of answers that a prediction contains, ignoring case; with `any_answer` whether it has any."""
    said = [answer.lower() in prediction.lower() for answer in answers]
    return float(any(said)) if any_answer else mean(said)
