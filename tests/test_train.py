"""The main job through the real configs."""

import json
import shutil
import subprocess
from functools import wraps
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from beacon_lit import BeaconLM
from beacon_lit.arch import longest
from beacon_lit.cli import resolvers
from beacon_lit.cli.evaluate import evaluate
from beacon_lit.cli.train import train
from tests.configs import ROOT, composed, small_backbone, small_run
from tests.warm import warm_python

resolvers.register()
EXPERIMENTS = sorted(file.stem for file in (ROOT / "conf" / "experiment").glob("*.yaml"))


@pytest.fixture(scope="module")
def run(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """One run of six steps, a checkpoint in the middle."""
    folder = tmp_path_factory.mktemp("runs") / "outputs" / "day" / "run"
    overrides = [*small_run(*inputs, folder), "trainer.max_steps=6", "callbacks.checkpoint.every_n_train_steps=3"]
    overrides += ["callbacks.checkpoint.save_top_k=-1", "callbacks.evaluation.every_n_steps=2", "optimizer.lr=3e-3"]
    return folder, train(composed("train", *overrides))


def test_a_run_leaves_everything_in_its_folder(run: tuple[Path, dict[str, float]]) -> None:
    folder, metrics = run
    names = {file.name for file in folder.iterdir()}
    assert {"beacons", "checkpoints", "config.yaml", "metrics.json", "predictions.jsonl", "tensorboard"} <= names
    assert {"perplexity_by_ratio.png", "perplexity_by_position.png", "passkey_by_depth_and_length.png"} <= names
    assert (folder.parent.parent / "latest").resolve() == folder.resolve()
    saved = json.loads((folder / "metrics.json").read_text())
    assert saved["perplexity/ratio_2"] == metrics["perplexity/ratio_2"]


def test_training_helps_beacons_and_leaves_the_backbone(
    run: tuple[Path, dict[str, float]], inputs: tuple[Path, Path]
) -> None:
    folder, metrics = run
    before = json.loads((folder / "before_training" / "metrics.json").read_text())
    for ratio in (2, 4):
        assert metrics[f"perplexity/ratio_{ratio}"] < before[f"perplexity/ratio_{ratio}"]
    for mode in ("dense", "window-only"):
        assert metrics[f"perplexity/{mode}"] == before[f"perplexity/{mode}"]
    lm = BeaconLM.from_pretrained(str(folder / "beacons"))
    for name, value in load_file(inputs[0] / "model.safetensors").items():
        assert torch.equal(lm.state_dict()[name], value)


def test_tensorboard_has_the_curves(run: tuple[Path, dict[str, float]]) -> None:
    events = EventAccumulator(str(run[0] / "tensorboard"))
    events.Reload()
    wanted = {"train/loss", "train/gradient_norm", "train/tokens_per_second", "eval/perplexity/ratio_2", "lr-AdamW"}
    assert wanted <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("eval/perplexity/ratio_2")] == [0, 2, 4, 6]
    assert any("perplexity" in tag for tag in events.Tags()["images"])


def test_checkpoints_hold_what_is_trained_and_no_backbone(run: tuple[Path, dict[str, float]]) -> None:
    checkpoint = torch.load(run[0] / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["state_dict"] and all(".beacon_" in name for name in checkpoint["state_dict"])
    assert checkpoint["share"] == {"rank": 0, "world_size": 1, "accumulate": 1}
    assert checkpoint["optimizer_states"] and checkpoint["lr_schedulers"]
    assert checkpoint["BeaconDataModule"]["train"]


def test_a_resumed_run_equals_the_uninterrupted_one(
    run: tuple[Path, dict[str, float]], inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, metrics = run
    overrides = [*small_run(*inputs, tmp_path), "trainer.max_steps=6", "callbacks.evaluation.every_n_steps=2"]
    overrides += ["optimizer.lr=3e-3", f"resume={folder}/checkpoints/step-000003.ckpt"]
    resumed = train(composed("train", *overrides))
    assert resumed["train/loss"] == metrics["train/loss"]
    one, two = (load_file(path / "beacons" / "beacon.safetensors") for path in (folder, tmp_path))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    restarted = [override for override in overrides if not override.startswith("resume=")]
    assert train(composed("train", *restarted, "seed=1"))["train/loss"] != metrics["train/loss"]


def test_resuming_with_other_beacons_is_refused(
    run: tuple[Path, dict[str, float]], inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    overrides = [*small_run(*inputs, tmp_path), f"resume={run[0]}/checkpoints/last.ckpt", "beacon.sink=2"]
    with pytest.raises(ValueError, match=r"beacon\.sink=2"):
        train(composed("train", *overrides))


def test_resuming_a_finished_run_is_refused(
    run: tuple[Path, dict[str, float]], inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    overrides = [*small_run(*inputs, tmp_path), f"resume={run[0]}/checkpoints/last.ckpt", "trainer.max_steps=6"]
    with pytest.raises(ValueError, match=r"trainer\.max_steps=6 is not allowed"):
        train(composed("train", *overrides))


@pytest.mark.parametrize("setting", ["resume", "init_from"])
def test_beacons_of_another_backbone_are_refused(
    setting: str, run: tuple[Path, dict[str, float]], inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    other = small_backbone(tmp_path / "other", seed=1)
    overrides = [*small_run(other, inputs[1], tmp_path), f"{setting}={run[0]}/checkpoints/step-000003.ckpt"]
    with pytest.raises(ValueError, match="other weights"):
        train(composed("train", *overrides, "trainer.max_steps=6"))


def test_an_interrupted_run_goes_on_where_it_was(
    run: tuple[Path, dict[str, float]], inputs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [*small_run(*inputs, tmp_path), "trainer.max_steps=6", "optimizer.lr=3e-3"]
    original = BeaconLM.forward

    @wraps(original)  # `generate` looks at the names of arguments
    def interrupted(self: BeaconLM, *args: object, **kwargs: object) -> object:
        if self.training and self.draw.step == 4:
            raise RuntimeError("pulled the plug")
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="pulled the plug"):
        patch.setattr(BeaconLM, "forward", interrupted)
        train(composed("train", *overrides))
    (checkpoint,) = (tmp_path / "checkpoints").glob("*.ckpt")
    resumed = train(composed("train", *overrides, f"resume='{checkpoint}'"))
    assert resumed["train/loss"] == run[1]["train/loss"]


def test_yarn_as_documented_on_the_command_line(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    line = next(
        line for line in (ROOT / "conf/model/qwen2_5.yaml").read_text().splitlines() if "rope_parameters" in line
    )
    override = line.strip("# '").replace("32768", "2048").replace("1e6", "1e4")
    train(composed("train", *small_run(*inputs, tmp_path), "trainer.max_steps=1", override))
    lm = BeaconLM.from_pretrained(str(tmp_path / "beacons"))
    assert lm.positions == 8192 and lm.config.rope_parameters["rope_type"] == "yarn"


def test_arguments_of_the_trainer_need_no_plus(
    inputs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["enable_progress_bar=false", "enable_checkpointing=false", "limit_train_batches=2", "deterministic=true"]
    overrides = [*small_run(*inputs, tmp_path), "callbacks.evaluation=null", "logger=none", "trainer.max_steps=2"]
    assert train(composed("train", *overrides, *(f"trainer.{argument}" for argument in given)))["train/loss"] > 0
    assert "Epoch" not in capsys.readouterr().out
    assert (tmp_path / "beacons" / "config.json").is_file()


def test_training_without_a_logger(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    train(composed("train", *small_run(*inputs, tmp_path), "trainer.max_steps=1", "logger=none"))
    assert (tmp_path / "metrics.json").is_file() and not (tmp_path / "tensorboard").exists()


@pytest.mark.parametrize(
    ("choice", "tasks"),
    [
        ("task=[needle,perplexity]", {"needle", "perplexity"}),
        ("task=passkey", {"passkey"}),
        ("~task.perplexity", {"passkey"}),
        ("+task=[needle]", {"perplexity", "passkey", "needle"}),
    ],
)
def test_any_tasks_are_run_on_the_way(choice: str, tasks: set[str], inputs: tuple[Path, Path], tmp_path: Path) -> None:
    settings = [*small_run(*inputs, tmp_path), "task.needle.lengths=[300]", "task.needle.max_new_tokens=4"]
    of_others = tuple(f"task.{name}." for name in {"needle", "perplexity", "passkey"} - tasks)
    kept = [setting for setting in settings if not setting.startswith(of_others)]
    ways = ["trainer.max_steps=2", "callbacks.evaluation.every_n_steps=1", "callbacks.evaluation.at_end=false"]
    metrics = train(composed("train", *kept, choice, *ways))
    assert {name.split("/")[1] for name in metrics if name.startswith("eval/")} == tasks
    assert {json.loads(line)["task"] for line in (tmp_path / "predictions.jsonl").open()} == tasks


def test_an_evaluation_of_no_task_is_refused(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    kept = [setting for setting in small_run(*inputs, tmp_path) if not setting.startswith("task.")]
    with pytest.raises(Exception, match=r"tasks=\[\] is not allowed; allowed: at least one task"):
        train(composed("train", *kept, "task=[]"))


@pytest.mark.parametrize("start", ["", "beacons", "checkpoints/last.ckpt"])
def test_training_starts_from_given_beacons(
    start: str, run: tuple[Path, dict[str, float]], inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    overrides = [*small_run(*inputs, tmp_path), "trainer.max_steps=1", f"init_from={run[0] / start}"]
    train(composed("train", *overrides))
    before = json.loads((tmp_path / "before_training" / "metrics.json").read_text())
    assert before["perplexity/ratio_4"] == pytest.approx(run[1]["perplexity/ratio_4"], rel=1e-6)


@pytest.mark.parametrize("checkpoint", ["", "beacons", "checkpoints/last.ckpt"])
def test_evaluation_finds_what_training_found(
    checkpoint: str, run: tuple[Path, dict[str, float]], inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    overrides = [f"checkpoint={run[0] / checkpoint}", "ratio=4", "data=text", f"data.train=[{inputs[1]}]"]
    overrides += [f"data.validation=[{inputs[1]}]", "data.max_length=160", "task.perplexity.length=128"]
    overrides += ["task.perplexity.max_pieces=2", "task.passkey.lengths=[300]", "task.passkey.depths=[50]"]
    metrics = evaluate(composed("evaluate", *overrides, f"run_folder={tmp_path}"))
    for name in ("perplexity/dense", "perplexity/window-only", "perplexity/ratio_4", "passkey/ratio_4"):
        assert metrics[name] == pytest.approx(run[1][name], rel=1e-6)
    assert "perplexity/ratio_2" not in metrics
    assert {"metrics.json", "predictions.jsonl", "config.yaml"} <= {file.name for file in tmp_path.iterdir()}


def test_evaluation_of_beacons_whose_backbone_has_moved(
    run: tuple[Path, dict[str, float]], inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copytree(run[0] / "beacons", tmp_path / "beacons")
    settings = tmp_path / "beacons" / "beacon_config.json"
    settings.write_text(settings.read_text().replace(str(inputs[0]), "/nowhere"))
    overrides = [f"checkpoint={tmp_path}/beacons", "ratio=4", "data=text", f"data.validation=[{inputs[1]}]"]
    overrides += [
        "task=[perplexity]",
        "task.perplexity.length=128",
        f"run_folder={tmp_path}/out",
        "data.max_length=160",
    ]
    with pytest.raises(ValueError, match="backbone="):
        evaluate(composed("evaluate", *overrides))
    found = evaluate(composed("evaluate", *overrides, f"backbone={inputs[0]}"))
    assert found["perplexity/dense"] > 1
    with pytest.raises(ValueError, match="ratio=3 is not allowed"):
        evaluate(composed("evaluate", *overrides, f"backbone={inputs[0]}", "ratio=3"))


def test_evaluation_without_a_checkpoint(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    overrides = ["model=tiny", "beacon.window=32", "data=text", f"data.validation=[{inputs[1]}]", "task=[perplexity]"]
    found = evaluate(composed("evaluate", *overrides, f"run_folder={tmp_path}"))
    assert {"perplexity/dense", "perplexity/ratio_2", "perplexity/ratio_8"} <= found.keys()
    assert found["perplexity/ratio_2"] != found["perplexity/dense"]


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if "_llama3" in name or "_qwen2" in name])
def test_recipes_stay_within_the_positions_of_their_backbone(name: str) -> None:
    cfg = composed("train", f"experiment={name}", "run_folder=x")
    positions = 8192 if "llama3" in name else 32768
    beacon = instantiate(cfg.beacon)
    assert cfg.data.max_length <= longest(beacon, max(beacon.ratios), positions)
    lengths = [cfg.task.perplexity.length, *cfg.task.passkey.lengths]
    assert max(lengths) <= min(positions, longest(beacon, min(beacon.ratios), positions))
    assert min(lengths) > beacon.window


def test_a_loss_that_is_no_number_stops_the_run(
    inputs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = BeaconLM.forward

    def broken(self: BeaconLM, *args: object, **kwargs: object) -> object:
        out = original(self, *args, **kwargs)
        if self.training and self.draw.step == 3:
            out.token_loss = out.token_loss * float("nan")
        return out

    monkeypatch.setattr(BeaconLM, "forward", broken)
    with pytest.raises(ValueError, match="step 3, samples"):
        train(composed("train", *small_run(*inputs, tmp_path), "~callbacks.evaluation"))
    saved = torch.load(tmp_path / "not-finite-step-3.pt", weights_only=True)
    assert saved["index"] and saved["batch"]["input_ids"].shape[0] == len(saved["index"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ratio=3", "ratios=3 is not allowed"),
        ("ratio=-2", "ratios=-2 is not allowed"),
        ("ratio=2.5", "ratios=2.5 is not allowed"),
        ("beacon.sink=32", "sink=32 is not allowed"),
        ("beacon.params=[q,z]", "params='z' is not allowed"),
        ("beacon.window=2048 data.max_length=5000", "window=2048 needs"),
        ("model.backbone.attn=fast", "attn='fast' is not allowed"),
        ("model.path=/nowhere", "/nowhere"),
        ("data.max_length=20000", "data.max_length=20000 is not allowed"),
        ("model.backbone.beacon_dtype=float33", "beacon_dtype='float33' is not allowed"),
    ],
)
def test_bad_settings_end_the_run_early(override: str, message: str, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(Exception, match=message.replace("[", r"\[")):
        train(composed("train", *small_run(*inputs, tmp_path), *override.split()))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_run_on_small_stand_ins(name: str, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    stand_in = small_run(*inputs, tmp_path)[1:2] + small_run(*inputs, tmp_path)[5:]
    stand_in = [override for override in stand_in if override != "data=text"]
    if "finetune" in name:
        turns = [
            {"role": "user", "content": "What is the key? " * 8},
            {"role": "assistant", "content": "It is 5. " * 9},
        ]
        lines = [json.dumps({"conversations": turns}) for _ in range(8)]
        (tmp_path / "chat.jsonl").write_text("\n".join(lines) + "\n")
        stand_in.append(f"data.train=[{tmp_path}/chat.jsonl]")
    shrink = [
        "beacon.window=64",
        "beacon.overlap=8",
        "data.min_length=80",
        "data.max_length=900",
        "data.max_tokens=900",
    ]
    shrink.append("module.compile=false")
    if name == "qwen2_5_coder":
        shrink += ["beacon.head_budgets=[[1.5,0.5],[0.8,1.2]]", "task.answer_loss.lengths=[900]"]
    modes = "callbacks.evaluation.modes=[dense,2]"
    cfg = composed("train", f"experiment={name}", *stand_in, *shrink, modes, "trainer.accelerator=cpu")
    assert train(cfg)["perplexity/ratio_2"] > 1


@pytest.mark.parametrize("model", ["qwen2", "qwen2_5", "qwen3", "llama3", "mistral", "tiny"])
@pytest.mark.parametrize("trainer", ["auto", "cpu", "gpu", "ddp", "deepspeed_stage3"])
def test_every_model_composes_with_every_trainer(model: str, trainer: str) -> None:
    cfg = composed("train", f"model={model}", f"trainer={trainer}", "ratio=8", "run_folder=x")
    assert instantiate(cfg.beacon).ratios == (8,)
    assert cfg.model.backbone._target_.startswith("beacon_lit.BeaconLM.")


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_help_explains(script: str, tmp_path: Path) -> None:
    shown = subprocess.run([warm_python(), ROOT / script, "--help"], check=True, cwd=tmp_path, capture_output=True)
    text = shown.stdout.decode()
    assert f"python {script}" in text and "ratio=" in text and "model: " in text
