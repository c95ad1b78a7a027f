"""Grades answers that name one of several classes."""

from collections.abc import Sequence


def classification(prediction: str, reference: str, classes: Sequence[str]) -> float:
    """Return 1 / number of classes that the prediction names if the reference is among them, else 0.

    A class whose name is part of the reference does not count: "Sports" is not a second class beside "Water Sports".
    The official scorer removes such classes from the list it iterates over and so skips the next class; scores differ
    only where two such names follow each other.

    Source: LongBench (arXiv 2308.14508), trec and lsht.
    """
    named = [name for name in classes if name in prediction and (name == reference or name not in reference)]
    return 1 / len(named) if reference in named else 0.0
