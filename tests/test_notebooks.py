"""The notebooks run from top to bottom, on a small model."""

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.configs import ROOT
from tests.warm import warm_python

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SMALL = "data.num_workers=0 task.perplexity.length=128 task.perplexity.max_pieces=2 task.passkey.lengths=[300]"


def cells(notebook: Path) -> list[tuple[str, list[str]]]:
    """The code of a notebook's cells, with their tags."""
    found = json.loads(notebook.read_text())["cells"]
    return [
        ("".join(cell["source"]), cell["metadata"].get("tags", [])) for cell in found if cell["cell_type"] == "code"
    ]


def run(notebook: Path, **parameters: Any) -> dict[str, Any]:
    """Run a notebook as Jupyter would, `!command` and `{name}` in commands included; return its variables."""
    names: dict[str, Any] = {}

    def shell(command: str) -> None:
        words = shlex.split(re.sub(r"\{(.+?)\}", lambda found: str(eval(found[1], names)), command))
        module = f"beacon_lit.cli.{words[0].removeprefix('beacon-')}"
        subprocess.run([warm_python(), "-m", module, *words[1:]], check=True)

    names["_shell"] = shell
    for code, tags in cells(notebook):
        exec(re.sub(r"^!(.+)$", r"_shell(r'''\1''')", code, flags=re.MULTILINE), names)
        if "parameters" in tags:
            assert parameters.keys() <= names.keys()
            names.update(parameters)
    return names


@pytest.fixture
def small(inputs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A small backbone and text, and an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return str(inputs[0]), str(inputs[1])


def test_all_notebooks_are_tested_and_hold_no_output() -> None:
    assert [notebook.stem for notebook in NOTEBOOKS] == ["compare", "quick_start", "train_on_your_text"]
    for notebook in NOTEBOOKS:
        for cell in json.loads(notebook.read_text())["cells"]:
            assert not cell.get("outputs")


def test_quick_start(small: tuple[str, str]) -> None:
    Path("text.txt").write_text("The quick brown fox jumps over a lazy dog. " * 20)
    names = run(ROOT / "notebooks" / "quick_start.ipynb", MODEL=small[0], TEXT="text.txt", WINDOW=128)
    assert names["cache"].beacon_slots == names["cache"].seen_tokens // 128 * 32
    assert names["answer"] == names["again"] != ""
    assert names["dense"] > 2 * names["cache"].nbytes


def test_train_on_your_text(small: tuple[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    settings = (
        f"ratio=[2,4] data.max_length=160 beacon.window=32 beacon.overlap=0 trainer=cpu trainer.max_steps=2 {SMALL}"
    )
    parameters = {"MODEL": small[0], "TRAIN": [small[1]], "VALIDATION": [small[1]], "SETTINGS": settings}
    names = run(ROOT / "notebooks" / "train_on_your_text.ipynb", **parameters)
    assert names["lm"].beacon.ratios == (2, 4)
    assert re.search(r"perplexity/ratio_4 +[\d.]+ -> +[\d.]+", capfd.readouterr().out)


def test_compare(small: tuple[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    model = f"model=pretrained model.path={small[0]} beacon.window=32 beacon.overlap=0"
    settings = f"{SMALL} task.passkey.depths=[50] accelerator=cpu"
    run(ROOT / "notebooks" / "compare.ipynb", MODEL=model, TEXT=small[1], RATIOS=[2, 4], SETTINGS=settings)
    out = capfd.readouterr().out
    assert re.search(r"passkey/ratio_4 +[\d.]+", out) and "perplexity_by_position.png" in out
