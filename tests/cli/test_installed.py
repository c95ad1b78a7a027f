"""The package as a wheel installs it, in a folder without a checkout."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

from omegaconf import OmegaConf

from tests.configs import ROOT, small_text

SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
# Runs scripts with --help in one process, since importing torch takes longest; prints exit codes and texts as JSON.
HELP = """
import contextlib, io, json, runpy, sys
found = {}
for script in sys.argv[1:]:
    sys.argv, code = [script, "--help"], None
    with contextlib.redirect_stdout(io.StringIO()) as text:
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            code = end.code
    found[script] = [code or 0, text.getvalue()]
print(json.dumps(found))
"""


def run(installed: Path, folder: Path, *command: str | Path) -> str:
    """What a command prints in a folder, with the installed package before any other."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "BEACON_CACHE": str(folder.parent / "cache")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_all_configs_are_shipped_and_nothing_else(installed: Path) -> None:
    def texts(folder: Path) -> dict[str, bytes]:
        return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    assert texts(installed / "beacon_lit" / "conf") == texts(ROOT / "conf")
    assert {file.name for file in installed.iterdir() if file.suffix != ".dist-info"} == {"beacon_lit", "bin"}


def test_every_console_script_explains_itself(installed: Path, tmp_path: Path) -> None:
    scripts = {name: str(installed / "bin" / name) for name in SCRIPTS}
    shown = json.loads(run(installed, tmp_path, sys.executable, "-c", HELP, *scripts.values()).splitlines()[-1])
    for name, script in scripts.items():
        code, text = shown[script]
        wanted = "lm-eval" if name == "beacon-harness" else name
        assert code == 0 and f"{wanted} " in text, (name, text)


def test_a_model_is_trained_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    """With an experiment and a text of the user's own, kept elsewhere."""
    folder, mine = tmp_path / "empty", tmp_path / "mine" / "experiment"
    folder.mkdir()
    mine.mkdir(parents=True)
    (mine / "short.yaml").write_text("# @package _global_\ntrainer:\n  max_steps: 1\n")
    command = [installed / "bin" / "beacon-train", f"--config-dir={mine.parent}", "experiment=short"]
    data = [
        "data=text",
        f"data.train=[{small_text(tmp_path / 'text.jsonl')}]",
        "data.validation=[]",
        "beacon.window=64",
    ]
    run(installed, folder, *command, *data, "model=tiny", "trainer=cpu", "logger=none", "~callbacks.evaluation")
    assert [file.name for file in folder.iterdir()] == ["outputs"]
    latest = folder / "outputs" / "latest"
    assert json.loads((latest / "run.json").read_text())["state"] == "done"
    assert (latest / "beacons" / "beacon.safetensors").is_file()
    runtime = OmegaConf.load(latest / ".hydra" / "hydra.yaml").hydra.runtime
    sources = {source.provider: source.path for source in runtime.config_sources}
    # The folder of the configs is found inside the package that was imported.
    assert Path(sources["main"]) == installed / "beacon_lit" / "conf"
    assert OmegaConf.load(latest / "config.yaml").trainer.max_steps == 1
