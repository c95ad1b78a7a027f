"""A run becomes a folder that others load by name, with a card that tells what was trained and measured."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from beacon_lit import BeaconLM
from beacon_lit.cli import resolvers
from beacon_lit.cli.evaluate import evaluate
from beacon_lit.cli.release import main
from beacon_lit.cli.train import train
from beacon_lit.release import release, upload
from tests.arch.folders import assert_same
from tests.configs import composed, small_run
from tests.release import hub

resolvers.register()
SCORE = ["task=[perplexity]", "task.perplexity.length=128", "task.perplexity.max_pieces=2", "data=text"]


@pytest.fixture(scope="module")
def runs(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of training, and an evaluation of its beacons."""
    folder = tmp_path_factory.mktemp("runs")
    train(composed("train", *small_run(*inputs, folder / "run"), "~callbacks.evaluation"))
    data = [f"data.train=[{inputs[1]}]", f"data.validation=[{inputs[1]}]"]
    given = [f"checkpoint={folder / 'run'}", f"run_folder={folder / 'scores'}", "accelerator=cpu", *SCORE, *data]
    evaluate(composed("evaluate", *given))
    return folder / "run", folder / "scores"


def test_a_release_is_loaded_by_its_path_and_says_what_it_is(
    runs: tuple[Path, Path], inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    run, scores = runs
    names = {"backbone": "meta/small", "name": "me/mine"}
    folder = release(run, tmp_path / "mine", license="llama3.1", **names, evaluations=[scores], notes="*Why.*")
    backbone = str(inputs[0])
    assert_same(
        BeaconLM.from_pretrained(str(run / "beacons")), BeaconLM.from_pretrained(str(folder), backbone=backbone)
    )
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "llama3.1" and card.data.base_model == "meta/small"
    assert [one.metric_name for one in card.data.eval_results or []] == ["ratio 2", "ratio 4"]
    perplexity = (card.data.eval_results or [])[1]
    metrics = yaml.safe_load((scores / "metrics.json").read_text())
    assert perplexity.metric_value == metrics["perplexity/ratio_4"]
    for part in (
        'BeaconLM.from_pretrained("me/mine"', "*Why.*", "| window, sink, overlap | 32, 4, 0 tokens |",
        "4 steps of at most", "- text.jsonl\n", f"{metrics['perplexity/ratio_4']:.4g}", "2,048 positions hold",
    ):  # fmt: skip
        assert part in card.text, part
    assert str(tmp_path) not in card.content and str(run.parent) not in card.content


def test_what_is_refused(runs: tuple[Path, Path], inputs: tuple[Path, Path], tmp_path: Path) -> None:
    run, _ = runs
    with pytest.raises(ValueError, match=r"evaluation=.* is of .*; allowed: evaluations of"):
        release(run, tmp_path / "new", license="mit", backbone="me/small", evaluations=[run])
    with pytest.raises(ValueError, match=r"is not the folder of a run, without run.json"):
        release(inputs[0], tmp_path / "new", license="mit")
    with pytest.raises(ValueError, match=r"name='mine' is not allowed; allowed: OWNER/NAME"):
        release(run, tmp_path / "new", license="mit", name="mine")
    with pytest.raises(ValueError, match=r"backbone='/.*' is not allowed; allowed: OWNER/NAME"):
        release(run, tmp_path / "new", license="mit")
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match=r"target='.*' is not allowed, it exists"):
        release(run, run, license="mit", backbone="me/small")
    with pytest.raises(ValueError, match=r"has no README.md; allowed"):
        upload(run, "me/mine")


# Publishes a run, loads what was published, and publishes the run once more with a token that the hub does not know.
PUBLISH = """
import os, sys
from beacon_lit import BeaconLM
from beacon_lit.cli.release import main

target, again = sys.argv.pop(1), sys.argv.pop(1)
sys.argv.insert(2, target)
main()
print(BeaconLM.from_pretrained("me/mine").beacon)
os.environ["HF_TOKEN"], sys.argv[2] = "wrong", again
main()
"""


def test_an_upload_is_loaded_by_its_name(
    runs: tuple[Path, Path], inputs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own, for the hub's address is read once."""
    with hub.running("secret") as (address, repositories):
        online = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        for name, value in {**online, "HF_TOKEN": "secret", "TRANSFORMERS_OFFLINE": "0"}.items():
            monkeypatch.setenv(name, value)
        repositories["meta/small"] = {file.name: file.read_bytes() for file in inputs[0].iterdir()}
        targets = [str(tmp_path / "mine"), str(tmp_path / "again")]
        arguments = [str(runs[0]), "--license", "mit", "--upload", "me/mine", "--backbone", "meta/small"]
        done = subprocess.run([sys.executable, "-c", PUBLISH, *targets, *arguments], capture_output=True, text=True)
        assert f"uploaded: {address}/me/mine" in done.stdout, done.stderr
        assert {"README.md", "beacon.safetensors", "beacon_config.json"} <= repositories["me/mine"].keys()
        assert "window=32" in done.stdout, done.stderr
        assert done.returncode == 2 and "upload to 'me/mine' failed" in done.stderr
        assert done.stdout.count("uploaded: ") == 1


def test_the_command_needs_a_repository_to_make_private(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["beacon-release", "run", "target", "--license", "mit", "--private"])
    with pytest.raises(SystemExit):
        main()
    assert "--private needs --upload" in capsys.readouterr().err
