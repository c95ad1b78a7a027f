"""Every command line of README.md and docs/ runs, with a tiny model, tiny data and a step or two.

The lines are as printed but for the model, the names of placeholders, and sizes. Lines that need several devices, a
cluster, a data set of the hub or kvpress are composed only, by `test_readme.py`.
"""

import io
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from lm_eval.tasks import TaskManager

from beacon_lit.cli import compare, convert, evaluate, generate, harness, head_budgets, look, prepare, train
from tests.configs import ROOT, WORDS, small_backbone, small_text
from tests.data.sources.writing import as_lines, turns, write
from tests.sweeps.folders import done, run_folder

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MAINS: dict[str, Callable[[], None]] = {
    "train": train.main, "evaluate": evaluate.main, "generate": generate.main, "look": look.main,
    "prepare": prepare.main, "compare": compare.main, "convert": convert.main, "harness": harness.main,
    "head_budgets": head_budgets.main,
}  # fmt: skip
LINE = re.compile(r"(?: {4}|.*`)(?:python (?P<script>\w+)\.py|beacon-(?P<name>\w+)(?= )) ?(?P<rest>[^`]*)")
# Several devices, a cluster, a network, kvpress, a judge, variables of a shell, a large model, a search (tests/sweeps).
NOT_HERE = re.compile(
    r"devices=|num_nodes=|trainer=|slurm|submitit|allenai|baselines=|judge|LongBench|experiment=|optuna|"
    r"\$|\.\.\.$"
)
GROUPS = ("model", "model.path", "trainer")  # chosen by `small`
# What the printed value of a setting becomes.
SIZES = {
    "trainer.max_steps": "1", "data.max_tokens": "256", "batch_size": "2",
    "corpus.amounts": "64:1K", "task.perplexity.length": "64",
    "task.perplexity.max_pieces": "1", "task.ruler.lengths": "[1000]", "task.ruler.samples": "1",
    "length": "64", "pieces": "2",
}  # fmt: skip
PLACES = {
    "a.jsonl": "books.jsonl", "b.jsonl": "more.jsonl", "checkpoint=...": "checkpoint=outputs/latest",
    "checkpoint=RUN": "checkpoint=outputs/latest", "[5000]": "[2]", "=256": "=64", "overlap=64": "overlap=8",
    "1024,2048": "32,64", "ratio=2,4,8": "ratio=2,4", "seed=0,1,2": "seed=0,1", "FOLDER/cache": "book-cache",
    "RUN RUN RUN": "sweep/0 sweep/1 sweep/2", "OWNER/NAME": "outputs/latest",
}  # fmt: skip


def lines(text: str) -> Iterator[tuple[str, str]]:
    """The command lines of a page: (command, arguments as printed)."""
    for line in re.sub(r"\\\n *", "", text).splitlines():
        match = LINE.match(line)
        if match and (match["script"] or match["name"]) in MAINS:
            yield match["script"] or match["name"], match["rest"].strip()


PRINTED = list(dict.fromkeys(line for page in PAGES for line in lines(page.read_text())))
HERE = [line for line in PRINTED if not NOT_HERE.search(line[1])]


def small(command: str, arguments: str, backbone: Path) -> list[str]:
    """The words of a command line, shrunk."""
    for printed, here in PLACES.items():
        arguments = arguments.replace(printed, here)
    words = shlex.split(arguments, comments=True)
    if command == "harness":  # a task here in place of one on the hub
        return [*(word.replace("hellaswag", "local") for word in words), "--include_path", "tasks", "--device", "cpu"]
    if command in ("compare", "convert"):
        return words
    words = [word for word in words if word.startswith("-") or "=" in word]
    given = [word for word in words if word.partition("=")[0] not in GROUPS]
    given = [
        f"{name}={SIZES.get(name, value)}" if value else name for name, _, value in (w.partition("=") for w in given)
    ]
    names = {word.partition("=")[0] for word in given}
    more = OF_COMMAND[command]
    if command in ("train", "evaluate"):
        more = {**more, **OF_TASKS, **({} if "task" in names else {"task": "[perplexity,passkey]"})}
    tasks = next((word for word in given if word.startswith("task=")), "task=[perplexity,passkey]")
    more = {name: value for name, value in more.items() if not name.startswith("task.") or name.split(".")[1] in tasks}
    if "checkpoint" not in names and command != "prepare":
        more |= {"model": "llama3", "model.path": str(backbone), "beacon.window": "32", "beacon.overlap": "0"}
    if "data" in names:
        more = {name: value for name, value in more.items() if name not in ("data", "data.train", "data.validation")}
    if "data=retrieval" in given:
        more |= {"beacon.window": "480", "data.max_length": "1600", "data.max_tokens": "1600"}
        more |= {f"data.train.{i}.count": "3" for i in range(1, 8)}
    if "resume" in names:
        given = [word for word in given if not word.startswith("trainer.max_steps=")]
        names -= {"trainer.max_steps"}
        more = {**more, "trainer.max_steps": "3"} if command == "train" else {"accelerator": "cpu"}
    if "rescore" in names:
        more = {}
    if command == "prepare":
        more |= {"tokenizer": str(backbone)}
    return [*given, *(f"{name}={value}" for name, value in more.items() if name not in names)]


DATA = {"data": "text", "data.train": "[books.jsonl]", "data.validation": "[more.jsonl]", "data.max_length": "160"}
OF_TASKS = {
    "task.perplexity.length": "64", "task.perplexity.max_pieces": "1", "task.passkey.lengths": "[300]",
    "task.passkey.depths": "[50]", "task.needle.lengths": "[300]", "task.needle.depths": "[40]",
    "task.needle.max_new_tokens": "4", "task.ruler.lengths": "[1000]", "task.ruler.samples": "1",
    "task.ruler.subsets": "[niah_single_1]",
}  # fmt: skip
OF_COMMAND = {
    "train": {
        **DATA,
        "data.cache": "cache",
        "trainer": "cpu",
        "trainer.max_steps": "1",
        "data.num_workers": "0",
        "callbacks.evaluation.at_start": "false",
    },
    "evaluate": {**DATA, "data.cache": "cache", "accelerator": "cpu"},
    "generate": {"generation.max_new_tokens": "3"},
    "look": {**DATA, "data.cache": "cache"},
    "prepare": {},
    "head_budgets": {"length": "64", "pieces": "2", "data.max_length": "160", "data.cache": "cache"},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a backbone, files of the names that the pages use, a trained run, an evaluation and a sweep."""
    folder = tmp_path_factory.mktemp("place")
    small_backbone(folder / "backbone")
    text = small_text(folder / "books.jsonl", 40).read_text()
    chats = as_lines([{"conversations": turns("What is the key? " * 2, "It is 5. " * 4)} for _ in range(8)])
    for name in ("more.jsonl", "books.jsonl.gz", "books-validation.jsonl.gz", "books/one.jsonl.zst"):
        write(folder / name, text)
    for name in ("chats.jsonl", "chats.json"):
        write(folder / name, chats)
    rows = [{"query": "Who is it about?", "choices": WORDS[i : i + 2], "answer": 0} for i in range(4)]
    write(folder / "tasks/local.jsonl", as_lines(rows))
    task = {
        "task": "local", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "tasks/local.jsonl"}},
        "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "query", "doc_to_choice": "choices",
        "doc_to_target": "answer",
    }  # fmt: skip
    (folder / "tasks/local.yaml").write_text(json.dumps(task))  # JSON is YAML
    (folder / "book.txt").write_text(" ".join(WORDS * 20))
    for i in range(3):
        scores = {"train__loss": float(i), "perplexity__ratio_8": float(i), "passkey__ratio_8": float(i)}
        for sweep in ("multirun/DATE/TIME", "outputs/2026-11-23", "sweep"):
            run_folder(folder / sweep / str(i), {"seed": i}, [f"seed={i}"], done(**scores))
    return folder


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    """The folder, once the run and its evaluation are there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        run = small("train", "hydra.run.dir=outputs/base/run trainer.max_steps=2", place / "backbone")
        started(patch, "train", [*run, "logger=none"])
        # inserted beacons, which the published layout can hold
        paper = [word.replace("outputs/base/run", "outputs/paper") for word in run]
        started(patch, "train", [*paper, "beacon=interleave", "logger=none"])
        link(place)
        evaluation = "checkpoint=outputs/latest hydra.run.dir=outputs/evaluate/DATE/TIME"
        started(patch, "evaluate", small("evaluate", evaluation, place / "backbone"))
        (place / "my-beacons").symlink_to(place / "outputs/paper/beacons")
    return place


def link(place: Path) -> None:
    """Point outputs/latest to the trained run, whichever line has run since."""
    latest = place / "outputs" / "latest"
    latest.unlink(missing_ok=True)
    latest.symlink_to("base/run")


def started(patch: pytest.MonkeyPatch, command: str, words: list[str]) -> None:
    """Run a command in this process as if it had been typed."""
    patch.setattr(sys, "argv", [f"{command}.py" if command in ("train", "evaluate") else f"beacon-{command}", *words])
    patch.setattr(sys, "stdin", io.StringIO("Who is it about?\n"))
    patch.setattr("atexit.register", lambda *args: None)  # the table of a sweep
    # Thousands of tasks that no line names.
    patch.setattr("lm_eval.tasks.TaskManager", partial(TaskManager, include_defaults=False))
    GlobalHydra.instance().clear()
    try:
        MAINS[command]()
    except SystemExit as end:  # --help
        if end.code:
            raise


def test_the_pages_are_read() -> None:
    assert len(PRINTED) > 60 and len(HERE) > 30
    assert {command for command, _ in HERE} == {*MAINS}


@pytest.mark.parametrize(("command", "arguments"), HERE, ids=map(" ".join, HERE))
def test_a_line_runs(
    command: str, arguments: str, trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(trained)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    link(trained)
    words = small(command, arguments, trained / "backbone")
    if "load=book-cache" in words and not (trained / "book-cache").exists():
        saving = next(line for line in HERE if "save=book-cache" in line[1])
        started(monkeypatch, "generate", small(*saving, trained / "backbone"))
    if command == "convert":
        words = [
            word.replace("TARGET", str(tmp_path / "target")).replace("merged", str(tmp_path / "m")) for word in words
        ]
    if "ratio=2,4,6,8" in words:  # the page shows runs that fail
        with pytest.raises(SystemExit):
            started(monkeypatch, command, words)
        return
    started(monkeypatch, command, words)
