"""Finds a text that is too long for a mode before a run starts, not hours into it."""

from collections.abc import Sequence
from typing import Any, NoReturn

from beacon_lit.evaluation.modes import Mode
from beacon_lit.evaluation.reader import Reader, TooLong
from beacon_lit.evaluation.task import Example, Subject, Task


class _Measured(Exception):
    """Ends a question before the model is asked; its argument are the lengths of the texts."""


class _Measuring(Reader):
    def ratios_of(self, lengths: Sequence[int]) -> NoReturn:
        """Each way of asking begins with it."""
        raise _Measured(lengths)


def check_lengths(name: str, task: Task, subject: Subject, modes: Sequence[Mode], examples: Sequence[Example]) -> None:
    """Have a task ask its examples, up to the first question of each, which gets no answer.

    It takes what preparing the prompts under one mode does; the model is not asked.

    Raises:
        ValueError: a text with more tokens than the model's positions hold under one of the modes.
    """
    limited = [mode for mode in modes if mode.uses_beacons]
    for example in examples if limited else ():
        lengths: Any = ()
        try:
            task.predict(_Measuring(subject, limited[0]), [example])
        except _Measured as measured:
            (lengths,) = measured.args
        for mode in limited:
            try:
                Reader(subject, mode).ratios_of(lengths)
            except TooLong as error:
                raise ValueError(f"task={name}, {mode.name}, example {example.id}: {error}") from None
