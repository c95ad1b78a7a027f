"""evaluate.py on several processes gives what one gives, whoever starts them and whatever has been killed before."""

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from beacon_lit.cli.earlier import of_earlier_run
from beacon_lit.cli.evaluate import evaluate
from tests.configs import ROOT, composed
from tests.distributed.holding import HOLD, Held, held
from tests.distributed.runs import TIMEOUT, environment, torchrun
from tests.warm import warm_python

# Seven examples per task and mode, asked under three modes; two tasks.
RECORDS, DONE = 42, 31  # in all; before those that wait, whether one process asks or two


def settings(text: Path, batch_size: int) -> list[str]:
    return [
        "model=tiny", "beacon.window=32", "ratio=[4]", "accelerator=cpu", f"batch_size={batch_size}", "data=text",
        f"data.validation=[{text}]", "data.max_length=160",
        "task.perplexity.length=128", "task.perplexity.max_pieces=7",
        f"task.passkey._target_={Held.__module__}.Held", "task.passkey.lengths=[300]",
        "task.passkey.depths=[0,20,40,50,60,80,100]",
    ]  # fmt: skip


def command_line(*overrides: str, folder: Path) -> None:
    """`python evaluate.py OVERRIDES` in a folder."""
    command = [warm_python(), str(ROOT / "evaluate.py"), *overrides]
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def run_of(folder: Path) -> Path:
    """The one run that was started in a folder."""
    (run,) = folder.glob("outputs/evaluate/*/*")
    return run


def lines(run: Path) -> list[str]:
    return (run / "predictions.jsonl").read_text().splitlines()


def untimed(run: Path) -> str:
    """The predictions, every byte but how long they took."""
    text, count = re.subn(r'"seconds": [-+.e\d]+', '"seconds": -', (run / "predictions.jsonl").read_text())
    assert count == RECORDS
    return text


def metrics(run: Path) -> dict[str, float]:
    """But how long it took."""
    found = json.loads((run / "metrics.json").read_text())
    return {name: value for name, value in found.items() if not name.endswith(("/seconds", "/tokens_per_second"))}


def assert_same(run: Path, other: Path) -> None:
    assert untimed(run) == untimed(other)
    assert metrics(run) == metrics(other) and "costs/passkey/ratio_4/tokens_in" in metrics(run)
    assert not list(run.glob("predictions.rank*")) and not list(run.glob(".*.yaml.*"))
    assert {file.name for file in run.glob("*.png")} == {file.name for file in other.glob("*.png")}
    assert (run / "report.html").stat().st_size > 10_000
    assert json.loads((run / "run.json").read_text())["state"] == "done"


@pytest.fixture(scope="module")
def alone(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process, an example at a time."""
    folder = tmp_path_factory.mktemp("alone")
    command_line(*settings(inputs[1], 1), folder=folder)
    return run_of(folder)


def test_two_processes_of_lightning_write_what_one_does(alone: Path, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    command_line(*settings(inputs[1], 1), "devices=2", folder=tmp_path)
    assert_same(run_of(tmp_path), alone)


@pytest.mark.parametrize("nodes", [1, 2])
def test_two_processes_of_torchrun_write_what_one_does(nodes: int, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    """Three examples at a time, and one that is left."""
    evaluate(composed("evaluate", *settings(inputs[1], 3), f"run_folder={tmp_path}/alone"))
    torchrun(2, *settings(inputs[1], 3), script="evaluate.py", folder=tmp_path, nodes=nodes)
    assert_same(run_of(tmp_path), tmp_path / "alone")


def killed(command: list[str], processes: int, folder: Path) -> Path:
    """A run that was killed, all of its processes at once, in the middle of its examples."""
    waiting = folder / "waiting"
    waiting.mkdir()
    started = subprocess.Popen(
        command, cwd=folder, env={**environment(), HOLD: str(waiting)}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        ids = held(waiting, processes)
    finally:
        started.kill()
    for process in ids:
        if process != started.pid:
            os.kill(process, signal.SIGKILL)
    assert started.wait(TIMEOUT) == -signal.SIGKILL
    run = run_of(folder)
    assert json.loads((run / "run.json").read_text())["state"] == "running"
    assert not (run / "predictions.jsonl").exists()
    return run


def of_ranks(run: Path) -> list[list[str]]:
    """What each rank had written."""
    return [file.read_text().splitlines() for file in sorted(run.glob("predictions.rank*.jsonl"))]


def test_two_killed_processes_go_on_as_two_or_as_one(alone: Path, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    torchrun_two = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [warm_python(), *torchrun_two, str(ROOT / "evaluate.py"), *settings(inputs[1], 1), "devices=2"]
    run = killed(command, 2, tmp_path)
    written = of_ranks(run)
    assert len(written) == 2 and all(written) and sum(map(len, written)) == DONE
    copy = shutil.copytree(run, tmp_path / "copy")

    torchrun(2, f"resume={run}", script="evaluate.py", folder=tmp_path)
    assert_same(run, alone)
    assert sorted(lines(run)[:DONE]) == sorted(written[0] + written[1]), "not asked again"

    overrides = [f"resume={copy}"]
    evaluate(of_earlier_run(composed("evaluate", *overrides), overrides))
    assert_same(copy, alone)
    assert lines(copy)[:DONE] == lines(run)[:DONE]
    assert all(mine != theirs for mine, theirs in zip(lines(copy)[DONE:], lines(run)[DONE:], strict=True)), "asked anew"


def test_a_killed_process_goes_on_as_two(alone: Path, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    run = killed([warm_python(), str(ROOT / "evaluate.py"), *settings(inputs[1], 1)], 1, tmp_path)
    (written,) = of_ranks(run)
    assert len(written) == DONE
    command_line(f"resume={run.relative_to(tmp_path)}", "devices=2", "accelerator=cpu", folder=tmp_path)
    assert_same(run_of(tmp_path), alone)
    assert lines(run)[:DONE] == written
