"""Training on streams through the real configs: what is trained on, in which order, and what a resume goes on with."""

import json
from itertools import chain, islice
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from beacon_lit.cli import resolvers
from beacon_lit.cli.look import look
from beacon_lit.cli.train import train
from beacon_lit.data.share import Share
from beacon_lit.data.stream.loader import StreamLoader
from beacon_lit.tiny import byte_tokenizer
from tests.configs import composed, small_backbone, small_run, small_text
from tests.distributed.runs import torchrun
from tests.recorder import recorded

resolvers.register()
FILES, EACH = 4, 6


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A backbone, and a folder of shards in the place of a dataset on the hub: records of 80 to 159 bytes."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "set").mkdir()
    for file in range(FILES):
        records = [{"id": f"{file}.{i}", "text": f"{file}.{i} " * (20 + 13 * i % 19)} for i in range(EACH)]
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / "set" / f"train-{file}.jsonl").write_text(lines)
    small_text(folder / "text.jsonl")
    return small_backbone(folder / "backbone"), folder


def overrides(inputs: tuple[Path, Path], folder: Path, *more: str) -> list[str]:
    """A run on a stream: blocks of 10 samples, batches of up to 3."""
    run = small_run(inputs[0], inputs[1] / "text.jsonl", folder)
    run = [override for override in run if not override.startswith(("data=", "data.train="))]
    run += ["data=stream", f"data.train.0.dataset={inputs[1] / 'set'}", "data.stream=10", "data.max_tokens=400"]
    run += ["+callbacks.record._target_=tests.recorder.Recorder", f"+callbacks.record.folder={folder}"]
    return [*run, "~callbacks.evaluation", "optimizer.lr=3e-3", *more]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_run_equals_the_uninterrupted_one(
    num_workers: int, accumulate: int, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    settings = [f"data.num_workers={num_workers}", "trainer.max_steps=12", "callbacks.checkpoint.every_n_train_steps=5"]
    settings += ["callbacks.checkpoint.save_top_k=-1", f"trainer.accumulate_grad_batches={accumulate}"]
    train(composed("train", *overrides(inputs, tmp_path / "whole", *settings)))
    whole = recorded(tmp_path / "whole")
    assert len(whole) == 12 * accumulate and len(set(chain(*whole))) > FILES * EACH / 2
    beacons = load_file(tmp_path / "whole" / "beacons" / "beacon.safetensors")
    for step in (5, 10):
        checkpoint = tmp_path / "whole" / "checkpoints" / f"step-{step:06}.ckpt"
        position = torch.load(checkpoint, weights_only=True)["BeaconDataModule"]["train"]["position"]
        assert position == step * accumulate
        folder = tmp_path / f"from-{step}"
        train(composed("train", *overrides(inputs, folder, *settings, f"resume={checkpoint}")))
        assert recorded(folder) == whole[position:]
        rest = load_file(folder / "beacons" / "beacon.safetensors")
        assert all(torch.equal(rest[name], value) for name, value in beacons.items())


@pytest.mark.parametrize(("accumulate", "position"), [(1, 7), (2, 6)])
def test_an_optimizer_step_that_failed_is_trained_on_after_resuming(
    accumulate: int, position: int, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    settings = [f"trainer.accumulate_grad_batches={accumulate}", f"trainer.max_steps={12 // accumulate}"]
    settings += ["data.num_workers=2"]
    train(composed("train", *overrides(inputs, tmp_path / "whole", *settings)))
    with pytest.raises(RuntimeError, match="pulled the plug"):
        train(composed("train", *overrides(inputs, tmp_path / "failed", *settings, "+callbacks.record.fail_at=7")))
    (checkpoint,) = (tmp_path / "failed" / "checkpoints").glob("*.ckpt")
    train(composed("train", *overrides(inputs, tmp_path / "rest", *settings, f"resume='{checkpoint}'")))
    assert recorded(tmp_path / "rest") == recorded(tmp_path / "whole")[position:]


def test_passes_follow_one_another_and_epochs_of_the_trainer_lose_nothing(
    inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    settings = ["trainer.max_steps=-1", "trainer.max_epochs=4", "trainer.limit_train_batches=6"]
    train(composed("train", *overrides(inputs, tmp_path, *settings, "data.stream=24", "data.max_tokens=160")))
    seen = [name for batch in recorded(tmp_path) for name in batch]
    records = {f"{file}.{i}" for file in range(FILES) for i in range(EACH)}
    assert len(recorded(tmp_path)) == 24 and set(seen) <= records and len(set(seen)) == len(seen)


def test_validation_is_tokenised_and_comes_on_the_way(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    settings = ["trainer.val_check_interval=2", "trainer.limit_val_batches=1.0", "trainer.max_steps=4"]
    assert train(composed("train", *overrides(inputs, tmp_path, *settings)))["val/loss"] > 0


def test_two_ranks_read_apart_and_their_checkpoint_has_the_places_of_both(
    inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    ddp = ["trainer=ddp", "trainer.accelerator=cpu", "data.num_workers=1", "trainer.max_steps=6"]
    ddp += ["callbacks.checkpoint.every_n_train_steps=4", "callbacks.checkpoint.save_top_k=-1"]
    torchrun(2, *(override for override in overrides(inputs, tmp_path, *ddp) if override != "trainer=cpu"))
    seen = [{name.split(".")[0] for batch in recorded(tmp_path, rank)[:3] for name in batch} for rank in (0, 1)]
    assert all(seen) and not seen[0] & seen[1], "each has files of its own"
    checkpoint = torch.load(tmp_path / "checkpoints" / "step-000004.ckpt", weights_only=True)
    data = instantiate(composed("train", *overrides(inputs, tmp_path)).data, tokenizer=byte_tokenizer())
    for rank in (0, 1):
        loader = StreamLoader(data._mixture, 0, share=Share(rank, 2))
        loader.load_state_dict(checkpoint["BeaconDataModule"]["train"])
        assert [batch["index"] for batch in islice(loader, 2)] == recorded(tmp_path, rank)[4:]


def test_sources_of_all_kinds_are_mixed_by_weight(inputs: tuple[Path, Path], tmp_path: Path, caplog) -> None:
    json_source = "{_target_: beacon_lit.data.sources.JsonSource, path: %s, weight: 1}" % (inputs[1] / "text.jsonl")
    hub = "{_target_: beacon_lit.data.sources.HubSource, dataset: %s, weight: 3}" % (inputs[1] / "set")
    sources = [f"data.train=[{json_source}, {hub}]", "data.stream=40", "trainer.max_steps=12", "data.num_workers=2"]
    run = [override for override in overrides(inputs, tmp_path, *sources) if "train.0" not in override]
    caplog.set_level("INFO")
    train(composed("train", *run))
    assert (
        "read by 2 processes; " in caplog.text and "text.jsonl has fewer files: every process reads all" in caplog.text
    )
    names = [name for batch in recorded(tmp_path) for name in batch]
    assert len(names) >= 24 and abs(sum("." in name for name in names) / len(names) - 3 / 4) < 0.15


def test_the_first_block_is_shown(inputs: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    train(composed("train", *overrides(inputs, run, "trainer.max_steps=1")))
    events = EventAccumulator(str(next(run.rglob("events.out.*")).parent), size_guidance={"tensors": 0}).Reload()
    (page,) = events.Tensors("data/mixture/text_summary")
    assert b"first 10 samples of the stream" in page.tensor_proto.string_val[0]
    shown = [override for override in overrides(inputs, run) if override.startswith(("model", "beacon", "data"))]
    look(composed("look", *shown, "ratio=2", "count=2"))
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("with loss ─") == 2 and "10 samples" in printed


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_malformed_record_is_an_error_in_strict_mode(
    num_workers: int, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text((inputs[1] / "text.jsonl").read_text() + '{"text": 3}\n')
    source = f"data.train=[{broken}]"
    settings = [source, "data.strict=true", f"data.num_workers={num_workers}"]
    run = [override for override in overrides(inputs, tmp_path, *settings) if "train.0" not in override]
    with pytest.raises(ValueError, match=r"^\S+broken.jsonl, line 13: .*\(strict=true\)$"):
        train(composed("train", *run))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["trainer.max_steps=-1", "schedule=null"], r"trainer.max_steps=-1 must be a number of steps: data.stream=10"),
        (["+data.train.0.limit=5"], "limit=5 of .* must be null in a stream"),
        (["data.stream=true"], "stream=True must be an integer"),
        (["data.train=[]"], "data.train is empty"),
    ],
)
def test_what_cannot_be_streamed(settings: list[str], message: str, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    run = overrides(inputs, tmp_path, *settings)
    if "data.train=[]" in settings:
        run = [override for override in run if "train.0" not in override]
    with pytest.raises(Exception, match=message):
        train(composed("train", *run))
