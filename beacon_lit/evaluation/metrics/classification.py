"""Answers that name one of several classes."""

from collections.abc import Sequence


def classification(prediction: str, reference: str, classes: Sequence[str]) -> float:
    """1 / number of the classes that are named in the prediction if the reference is among them, else 0.

    A class whose name is a part of the reference's does not count: "Sports" says no other than "Water Sports". (The
    official scorer leaves out the one behind each that it removes from the list it walks through; scores differ only
    where two such names follow each other. Its comparison of unlike names is never reached, and so is not here.)

    Source: LongBench (arXiv 2308.14508), trec and lsht.
    """
    named = [name for name in classes if name in prediction and (name == reference or name not in reference)]
    return 1 / len(named) if reference in named else 0.0
