"""Runs tasks on a model, and leaves the model as it was."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from beacon_lit.checks import is_count
from beacon_lit.evaluation.baselines import Baseline
from beacon_lit.evaluation.costs import costs
from beacon_lit.evaluation.execution import execute
from beacon_lit.evaluation.journal import RECORDS_FILE, Journal, read_records
from beacon_lit.evaluation.modes import Mode
from beacon_lit.evaluation.ranks import Ranks
from beacon_lit.evaluation.reader import Reader, TooLong
from beacon_lit.evaluation.requests import Answer, Request
from beacon_lit.evaluation.task import Example, Record, Score, Subject, Task

Batches = Sequence[Sequence[Example]]
Ask = Callable[[Sequence[Request]], list[Answer]]


def run(
    tasks: Mapping[str, Task],
    subject: Subject,
    modes: Sequence[Mode],
    *,
    baselines: Sequence[Baseline] = (),
    batch_size: int = 1,
    ranks: Ranks = Ranks(),  # noqa: B008  # frozen
    journal: Journal | None = None,
    progress: bool = True,
) -> dict[str, dict[str, Score]]:
    """Evaluate a model on tasks under modes.

    The model is put into eval mode and back, module by module; no gradients are recorded, no random numbers drawn.

    Args:
        tasks: by the name that tables, metrics and files give them.
        subject: the model, its tokenizer, held-out texts.
        modes: how the model reads.
        baselines: further modes, for the tasks whose requests they can answer.
        batch_size: examples that are asked at once. The last bits of what the model computes may depend on it, but not
            on the number of ranks.
        ranks: the processes that share the batches. Every rank gets all scores.
        journal: keeps records as they come, and has those of an earlier run that was killed.
        progress: whether to show a bar.

    Returns:
        Scores by task name and mode name.

    Raises:
        ValueError: a batch size below 1, a task without examples, a task with two examples of one id, or a text that is
            too long for the ratio of a mode; all before the model is asked anything.
    """
    check_batch_size(batch_size)
    with evaluating(subject.lm):
        batches = {name: _batches(name, task.examples(subject), batch_size) for name, task in tasks.items()}
        asks = {name: _asks(tasks[name], subject, modes, baselines, batches[name][0][0]) for name in tasks}
        count = sum(len(ranks.own(len(batches[name]))) * len(asks[name]) for name in tasks)
        results: dict[str, dict[str, Score]] = {name: {} for name in tasks}
        with tqdm(desc="evaluation", total=count, leave=False, disable=not progress) as bar:
            for name, task in tasks.items():
                bar.set_description(f"{name}, lengths")
                own = [example for index in ranks.own(len(batches[name])) for example in batches[name][index]]
                _check_lengths(name, task, subject, modes, own)
            for name, task in tasks.items():
                for mode, ask in asks[name].items():
                    bar.set_description(f"{name}, {mode}")
                    records = []
                    for index in ranks.own(len(batches[name])):
                        about = {"task": name, "mode": mode}
                        records.append(_records(task, subject, about, ask, batches[name][index], journal))
                        bar.update()
                    parts = ranks.in_order(records, len(batches[name]))
                    results[name][mode] = scored(task, [record for part in parts for record in part])
    return results


def check(tasks: Mapping[str, Task], subject: Subject, modes: Sequence[Mode]) -> None:
    """Raise the errors that `run` would raise before the model is asked anything, such as a missing file of a task.

    Raises:
        ValueError: see `run`.
    """
    for name, task in tasks.items():
        batches = _batches(name, task.examples(subject), 1)
        _check_lengths(name, task, subject, modes, [example for batch in batches for example in batch])


def check_batch_size(batch_size: int) -> None:
    """Raise a ValueError unless the batch size is an integer of at least 1."""
    if not is_count(batch_size, 1):
        raise ValueError(f"batch_size={batch_size} is not allowed; allowed: an integer, at least 1")


def _batches(name: str, examples: Sequence[Example], size: int) -> Batches:
    ids = [example.id for example in examples]
    if not ids:
        raise ValueError(f"task={name} has no examples")
    if len(set(ids)) < len(ids):
        raise ValueError(f"task={name} has two examples with the id {next(id for id in ids if ids.count(id) > 1)!r}")
    return [examples[start : start + size] for start in range(0, len(examples), size)]


def _asks(
    task: Task, subject: Subject, modes: Sequence[Mode], baselines: Sequence[Baseline], example: Example
) -> dict[str, Ask]:
    """Return how each mode is asked, by its name; baselines only if they can answer the task's requests."""
    asks: dict[str, Ask] = {mode.name: partial(execute, Reader(subject, mode)) for mode in modes}
    request = task.request(subject, example)
    return asks | {baseline.name: baseline.ask for baseline in baselines if baseline.can_answer(request)}


def _check_lengths(name: str, task: Task, subject: Subject, modes: Sequence[Mode], examples: Sequence[Example]) -> None:
    """Raise a ValueError for an example that is too long for a mode: at the start of a run, not hours into it."""
    readers = [Reader(subject, mode) for mode in modes if mode.uses_beacons]
    for example in examples if readers else ():
        lengths = task.request(subject, example).lengths
        for reader in readers:
            try:
                reader.ratios_of(lengths)
            except TooLong as error:
                raise ValueError(f"task={name}, {reader.mode.name}, example {example.id}: {error}") from None


def _records(
    task: Task, subject: Subject, about: Mapping[str, str], ask: Ask, batch: Sequence[Example], journal: Journal | None
) -> Sequence[Record]:
    """Ask a batch and grade the answers, or take its records from the journal; `about` names the task and the mode."""
    known = journal and journal.find(about["task"], about["mode"], [example.id for example in batch])
    if known:
        return known
    answers = ask([task.request(subject, example) for example in batch])
    records = []
    for example, answer in zip(batch, answers, strict=True):
        record = {**about, "id": example.id, **example.about, **task.record(example, answer)}
        records.append({**record, **task.grade(record)})
    if journal:
        journal.add(records)
    return records


def scored(task: Task, records: Sequence[Record]) -> Score:
    """Score the records of a task under one mode, with costs and the records themselves."""
    return replace(task.score(records), costs=costs(records), predictions=records)


def rescore(tasks: Mapping[str, Task], folder: Path) -> dict[str, dict[str, Score]]:
    """Grade and score the records of a finished run again, without the model.

    Args:
        tasks: tasks by name.
        folder: the folder of the run.

    Returns:
        Scores by task name and mode name.

    Raises:
        ValueError: there are no records, or a record is of a task that is not among `tasks`.
    """
    path = folder / RECORDS_FILE
    if not path.is_file():
        raise ValueError(f"rescore={folder}: there is no {RECORDS_FILE}; allowed: the folder of a finished evaluation")
    groups: dict[str, dict[str, list[Record]]] = {}
    for record in read_records(path):
        if record["task"] not in tasks:
            raise ValueError(f"{path} has records of the task {record['task']!r}; allowed: {', '.join(tasks)}")
        graded = {**record, **tasks[record["task"]].grade(record)}
        groups.setdefault(record["task"], {}).setdefault(record["mode"], []).append(graded)
    return {
        name: {mode: scored(tasks[name], records) for mode, records in modes.items()} for name, modes in groups.items()
    }


@contextmanager
def evaluating(lm: torch.nn.Module) -> Iterator[None]:
    """Put a model into eval mode without gradients within the block; afterwards every module has its own mode again.

    This is not torch's inference mode: tensors that a model keeps, such as layouts, would be unusable in training.
    """
    training = {module: module.training for module in lm.modules()}
    lm.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in training.items():
            module.training = mode
