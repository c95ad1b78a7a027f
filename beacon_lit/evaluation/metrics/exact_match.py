"""Whether an answer is, or has in it, the reference."""

from beacon_lit.evaluation.metrics.text import normalized


def exact_match(prediction: str, reference: str) -> float:
    """1 where both are the same once normalised. Source: the scorer of SQuAD (arXiv 1606.05250)."""
    return float(normalized(prediction) == normalized(reference))


def substring_match(prediction: str, reference: str) -> float:
    """1 where the normalised prediction has the normalised reference in it. Source: HELMET (arXiv 2410.02694)."""
    return float(normalized(reference) in normalized(prediction))
