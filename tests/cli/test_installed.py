"""The package as a wheel installs it, in a folder without a checkout."""

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.configs import ROOT, small_text

SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
# Runs commands, a list of words each, one after the other in one process, since importing torch takes longest; prints
# exit codes and texts as JSON.
ONE_BY_ONE = """
import contextlib, gc, io, json, runpy, sys
found = []
for words in json.loads(sys.argv[1]):
    sys.argv, code = words, None
    with contextlib.redirect_stdout(io.StringIO()) as text:
        try:
            runpy.run_path(words[0], run_name="__main__")
        except SystemExit as end:
            code = end.code
    found.append([code or 0, text.getvalue()])
assert gc.isenabled() and gc.get_freeze_count() > 100_000  # what was imported is not looked through again
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Ran:
    """What commands did that were run in an empty folder, with the installed package before any other."""

    folder: Path
    helps: dict[str, tuple[int, str]]  # command -> exit code and text


@pytest.fixture(scope="module")
def ran(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Every command with --help, and training with an experiment and a text of the user's own, kept elsewhere."""
    folder, mine = tmp_path_factory.mktemp("empty"), tmp_path_factory.mktemp("mine")
    (mine / "experiment").mkdir()
    (mine / "experiment" / "short.yaml").write_text("# @package _global_\ntrainer:\n  max_steps: 1\n")
    data = ["data=text", f"data.train=[{small_text(mine / 'text.jsonl')}]", "data.validation=[]", "beacon.window=64"]
    scripts = [str(installed / "bin" / name) for name in SCRIPTS]
    lines = [
        *([script, "--help"] for script in scripts),
        [
            str(installed / "bin" / "beacon-train"), f"--config-dir={mine}", "experiment=short", *data, "model=tiny",
            "trainer=cpu", "logger=none", "~callbacks.evaluation",
        ],
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(installed), "BEACON_CACHE": str(mine / "cache")}
    command = [sys.executable, "-c", ONE_BY_ONE, json.dumps(lines)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    *helps, (code, text) = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, text + done.stderr
    return Ran(folder, dict(zip(SCRIPTS, helps, strict=True)))


def test_all_configs_are_shipped_and_nothing_else(installed: Path) -> None:
    def texts(folder: Path) -> dict[str, bytes]:
        return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    assert texts(installed / "beacon_lit" / "conf") == texts(ROOT / "conf")
    assert {file.name for file in installed.iterdir() if file.suffix != ".dist-info"} == {"beacon_lit", "bin"}


def test_every_console_script_explains_itself(ran: Ran) -> None:
    for name, (code, text) in ran.helps.items():
        wanted = "lm-eval" if name == "beacon-harness" else name
        assert code == 0 and f"{wanted} " in text, (name, text)


def test_a_model_is_trained_in_an_empty_folder(ran: Ran, installed: Path) -> None:
    folder = ran.folder
    assert [file.name for file in folder.iterdir()] == ["outputs"]
    latest = folder / "outputs" / "latest"
    assert json.loads((latest / "run.json").read_text())["state"] == "done"
    assert (latest / "beacons" / "beacon.safetensors").is_file()
    runtime = OmegaConf.load(latest / ".hydra" / "hydra.yaml").hydra.runtime
    sources = {source.provider: source.path for source in runtime.config_sources}
    # The folder of the configs is found inside the package that was imported.
    assert Path(sources["main"]) == installed / "beacon_lit" / "conf"
    assert OmegaConf.load(latest / "config.yaml").trainer.max_steps == 1
