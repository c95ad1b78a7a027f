"""Whether an answer equals or contains the reference."""

from beacon_lit.evaluation.metrics.text import normalized


def exact_match(prediction: str, reference: str) -> float:
    """Return 1 if both are equal after `normalized`, else 0. Source: the scorer of SQuAD (arXiv 1606.05250)."""
    return float(normalized(prediction) == normalized(reference))


def substring_match(prediction: str, reference: str) -> float:
    """Return 1 if the normalised prediction contains the normalised reference, else 0. Source: arXiv 2410.02694."""
    return float(normalized(reference) in normalized(prediction))
