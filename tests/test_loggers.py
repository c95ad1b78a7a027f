"""Loggers as choices of the configs: what reaches each of them, alone and together."""

import csv
from pathlib import Path

import pytest
import wandb
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from beacon_lit.cli import resolvers
from beacon_lit.cli.train import train
from tests.configs import composed, small_run

resolvers.register()


@pytest.fixture(scope="module")
def run(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """Two steps with all loggers at once."""
    folder = tmp_path_factory.mktemp("run")
    loggers = ["logger=[tensorboard,csv,wandb]", "logger.wandb.offline=true", "callbacks.ratio_loss.every_n_steps=2"]
    peak = "callbacks.throughput.peak_tflops=0.1"
    metrics = train(composed("train", *small_run(*inputs, folder), "trainer.max_steps=2", peak, *loggers))
    wandb.finish()
    return folder, metrics


def test_every_logger_has_the_numbers(run: tuple[Path, dict[str, float]]) -> None:
    wanted = {"train/loss", "train/loss_no_memory", "train/mfu", "train/tflops_per_device", "train/data_wait"}
    wanted |= {"train/tokens_per_second", "train/peak_memory_gib", "eval/perplexity/ratio_2", "train/gradient_norm"}
    events = EventAccumulator(str(run[0] / "tensorboard")).Reload()
    with (run[0] / "csv" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert wanted <= set(events.Tags()["scalars"]) and wanted <= set(rows[0])
    (offline,) = run[0].glob("wandb/offline-run-*/*.wandb")
    assert all(name.encode() in offline.read_bytes() for name in wanted)
    value = run[1]["eval/perplexity/ratio_2"]
    assert value == pytest.approx(run[1]["perplexity/ratio_2"])
    assert [event.value for event in events.Scalars("eval/perplexity/ratio_2")][-1] == pytest.approx(value)


def test_tensorboard_and_wandb_have_the_text_and_the_figures(run: tuple[Path, dict[str, float]]) -> None:
    names = {"config", "data/mixture", "data/sample_0"}
    events = EventAccumulator(str(run[0] / "tensorboard")).Reload()
    assert {f"{name}/text_summary" for name in names} <= set(events.Tags()["tensors"])
    shown = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert (run[0] / "config.yaml").read_text() in shown
    assert "eval/perplexity_by_ratio" in events.Tags()["images"]
    (media,) = run[0].glob("wandb/offline-run-*/files/media")
    assert list((media / "images" / "eval").glob("perplexity_by_ratio_*.png"))
    tables = {name: [file.read_text() for file in (media / "table").glob(f"{name}_*.table.json")] for name in names}
    assert all(tables.values()) and "torch.optim.AdamW" in tables["config"][0]


def test_hyperparameters(run: tuple[Path, dict[str, float]]) -> None:
    events = EventAccumulator(str(run[0] / "tensorboard")).Reload()
    content = events.summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
    shown = metadata.parse_session_start_info_plugin_data(content).hparams
    assert shown["optimizer.lr"].number_value == 1e-4 and shown["beacon.window"].number_value == 32
    assert shown["beacon.ratios"].string_value == "2, 4" and shown["schedule.name"].string_value == "linear"
    assert not any("_target_" in name or name.startswith("callbacks") for name in shown)
    assert "hp_metric" not in events.Tags()["scalars"]
    saved = yaml.safe_load((run[0] / "csv" / "hparams.yaml").read_text())
    assert saved["optimizer.lr"] == 1e-4 and set(saved) == set(shown)


def test_a_second_run_in_the_same_process_has_its_own_record(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    """As in a sweep."""
    short = ["trainer.max_steps=1", "~callbacks.evaluation", "logger=wandb", "logger.wandb.offline=true"]
    for name in ("one", "two"):
        train(composed("train", *small_run(*inputs, tmp_path / name), *short))
    wandb.finish()
    assert all(len(list((tmp_path / name).glob("wandb/offline-run-*/*.wandb"))) == 1 for name in ("one", "two"))


def test_without_wandb_the_error_says_what_to_install(
    inputs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beacon_lit.loggers.find_spec", lambda name: None)
    with pytest.raises(Exception, match=r"logger=wandb needs the package wandb: pip install 'beacon_lit\[wandb\]'"):
        train(composed("train", *small_run(*inputs, tmp_path), "logger=wandb"))
