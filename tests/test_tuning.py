"""What is trained besides the beacons, through the real configs."""

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.arch.checkpoint import is_adapter, is_beacon
from beacon_lit.cli import resolvers
from beacon_lit.cli.convert import convert
from beacon_lit.cli.evaluate import evaluate
from beacon_lit.cli.train import train
from beacon_lit.tuning import Full
from tests.arch.quantizer import RowsConfig
from tests.arch.tiny import tokens
from tests.configs import composed, small_run

resolvers.register()
# Dropout, too, must not tell a resumed run from an uninterrupted one.
TUNINGS = {
    "lora": ["tuning=lora", "tuning.lr=1e-2", "tuning.r=4", "tuning.lora_dropout=0.1"],
    "full": ["tuning=full", "tuning.lr=2e-3", "module.checkpoint_layers=1"],
}
Inputs = tuple[Path, Path]
Run = tuple[str, Path, dict[str, float]]


@pytest.fixture(scope="module", params=TUNINGS)
def run(request: pytest.FixtureRequest, inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of six steps, a checkpoint in the middle."""
    folder = tmp_path_factory.mktemp("runs") / request.param
    overrides = [*steps(inputs, folder), *TUNINGS[request.param], "callbacks.checkpoint.every_n_train_steps=3"]
    return request.param, folder, train(composed("train", *overrides, "callbacks.checkpoint.save_top_k=-1"))


def steps(inputs: Inputs, folder: Path) -> list[str]:
    return [*small_run(*inputs, folder), "trainer.max_steps=6", "optimizer.lr=3e-3"]


def before(folder: Path) -> dict[str, float]:
    return json.loads((folder / "before_training" / "metrics.json").read_text())


def exported(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in sorted(folder.rglob("*.safetensors")) for name, value in load_file(file).items()}


def test_the_loss_falls(run: Run) -> None:
    _, folder, metrics = run
    for mode in ("ratio_2", "ratio_4", "window-only"):
        assert metrics[f"perplexity/{mode}"] < before(folder)[f"perplexity/{mode}"]


def test_dense_is_the_backbone_as_it_now_is_without_an_adapter(run: Run, inputs: Inputs) -> None:
    tuning, folder, metrics = run
    if tuning == "lora":
        assert metrics["perplexity/dense"] == before(folder)["perplexity/dense"]
    else:
        assert metrics["perplexity/dense"] < before(folder)["perplexity/dense"]
    lm = BeaconLM.from_pretrained(str(folder / "beacons"))
    plain, own = load_file(inputs[0] / "model.safetensors"), lm.state_dict()
    same = [torch.equal(value, own.get(name, own.get(wrapped(name)))) for name, value in plain.items()]
    assert all(same) if tuning == "lora" else not any(same)


def wrapped(name: str) -> str:
    """A weight's name within an adapted projection."""
    return name.removesuffix("weight") + "base_layer.weight"


def test_checkpoints_hold_what_is_trained_and_no_more(run: Run) -> None:
    tuning, folder, _ = run
    names = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    kinds = {"beacons": [*filter(is_beacon, names)], "lora": [*filter(is_adapter, names)]}
    assert kinds["beacons"] and len(kinds["lora"]) == (2 * 7 * 2 if tuning == "lora" else 0)
    backbone = len(names) - len(kinds["beacons"]) - len(kinds["lora"])
    assert backbone == (0 if tuning == "lora" else 2 * 9 + 3)


def test_a_resumed_run_equals_the_uninterrupted_one(run: Run, inputs: Inputs, tmp_path: Path) -> None:
    tuning, folder, metrics = run
    overrides = [*steps(inputs, tmp_path), *TUNINGS[tuning], f"resume={folder}/checkpoints/step-000003.ckpt"]
    assert train(composed("train", *overrides))["train/loss"] == metrics["train/loss"]
    one, two = exported(folder / "beacons"), exported(tmp_path / "beacons")
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_the_export_and_the_checkpoint_are_the_trained_model(run: Run) -> None:
    _, folder, _ = run
    read: list[Callable[[str], BeaconLM]] = [BeaconLM.from_pretrained, AutoModelForCausalLM.from_pretrained]
    models = [load(str(folder / "beacons")) for load in read]
    models.append(BeaconLM.from_pretrained(str(folder / "checkpoints" / "last.ckpt")))
    ids = tokens(1, 100)
    with torch.no_grad():
        found = [(lm(ids, ratios=2).logits, lm.generate(ids, ratios=2, max_new_tokens=8)) for lm in models]
    for logits, text in found[1:]:
        assert torch.equal(logits, found[0][0]) and torch.equal(text, found[0][1])


@pytest.mark.parametrize("start", ["", "beacons", "checkpoints/last.ckpt"])
def test_evaluation_finds_what_training_found(start: str, run: Run, inputs: Inputs, tmp_path: Path) -> None:
    _, folder, metrics = run
    overrides = [f"checkpoint={folder / start}", "ratio=4", "data=text", f"data.train=[{inputs[1]}]"]
    overrides += [f"data.validation=[{inputs[1]}]", "data.max_length=160", "task.perplexity.length=128"]
    overrides += ["task.perplexity.max_pieces=2", "task.passkey.lengths=[300]", "task.passkey.depths=[50]"]
    found = evaluate(composed("evaluate", *overrides, f"run_folder={tmp_path}"))
    for name in ("perplexity/dense", "perplexity/window-only", "perplexity/ratio_4"):
        assert found[name] == pytest.approx(metrics[name], rel=1e-6)


def test_groups_have_rates_of_their_own(run: Run) -> None:
    tuning, folder, _ = run
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    name, rate = {"lora": ("lora", 1e-2), "full": ("backbone", 2e-3)}[tuning]
    beacons, others = (events.Scalars(f"lr-AdamW/{group}") for group in ("beacons", name))
    assert len(beacons) == 6
    for one, other in zip(beacons[1:], others[1:], strict=True):  # the schedule moves both
        assert other.value / one.value == pytest.approx(rate / 3e-3, rel=1e-5)


def test_a_resume_with_another_tuning_is_refused(run: Run, inputs: Inputs, tmp_path: Path) -> None:
    tuning, folder, _ = run
    resume = [*steps(inputs, tmp_path), f"resume={folder}/checkpoints/step-000003.ckpt"]
    with pytest.raises(ValueError, match="the checkpoint"):
        train(composed("train", *resume))
    other = {
        "lora": ["tuning=lora", "tuning.r=4", "tuning.lora_alpha=7"],
        "full": ["tuning=full", "tuning.frozen=[mlp]"],
    }
    with pytest.raises(ValueError, match=r"lora_alpha=32 of the adapter of the checkpoint|checkpoint has lm\.model"):
        train(composed("train", *resume, *other[tuning]))


@pytest.mark.parametrize("start", ["", "checkpoints/last.ckpt"])
@pytest.mark.parametrize("tuning", ["beacons", "lora"])
@pytest.mark.parametrize("run", ["lora"], indirect=True)
def test_a_run_starts_from_beacons_with_an_adapter(
    start: str, tuning: str, run: Run, inputs: Inputs, tmp_path: Path
) -> None:
    """It goes on training the adapter, or keeps it as it is."""
    overrides = [*steps(inputs, tmp_path), "trainer.max_steps=1", f"init_from={run[1] / start}"]
    metrics = train(composed("train", *overrides, *TUNINGS.get(tuning, []), "optimizer.lr=1e-2", "schedule=null"))
    assert before(tmp_path)["perplexity/ratio_4"] == pytest.approx(run[2]["perplexity/ratio_4"], rel=1e-6)
    assert metrics["perplexity/ratio_4"] != before(tmp_path)["perplexity/ratio_4"]
    one, two = (load_file(folder / "beacons/adapter/adapter_model.safetensors") for folder in (run[1], tmp_path))
    assert one.keys() == two.keys()
    assert [torch.equal(one[name], two[name]) for name in one] == [tuning == "beacons"] * len(one)


def test_training_goes_on_with_a_whole_model(run: Run, inputs: Inputs, tmp_path: Path) -> None:
    """What full fine-tuning exports, or an adapter merged, is a backbone like any other."""
    tuning, folder, metrics = run
    whole = folder / "beacons"
    if tuning == "lora":
        whole = tmp_path / "whole"
        convert(folder / "beacons", whole, "full")
    else:
        with pytest.raises(ValueError, match=r"holds no beacons alone; .*in place of the backbone"):
            train(composed("train", *steps(inputs, tmp_path), f"init_from={folder}"))
        checkpoint = f"init_from={folder}/checkpoints/last.ckpt"
        with pytest.raises(ValueError, match=r"has a trained backbone; allowed: with tuning=full"):
            train(composed("train", *steps(inputs, tmp_path), checkpoint))
        train(composed("train", *steps(inputs, tmp_path / "on"), checkpoint, "tuning=full", "trainer.max_steps=1"))
        assert before(tmp_path / "on")["perplexity/ratio_4"] == pytest.approx(metrics["perplexity/ratio_4"], rel=1e-6)
    overrides = [*small_run(whole, inputs[1], tmp_path), "trainer.max_steps=1"]
    train(composed("train", *overrides))
    assert before(tmp_path)["perplexity/ratio_4"] == pytest.approx(metrics["perplexity/ratio_4"], rel=1e-4)
    assert (tmp_path / "beacons" / "beacon.safetensors").is_file()


def test_an_adapter_goes_on_beacons_that_had_none(inputs: Inputs, tmp_path: Path) -> None:
    train(composed("train", *small_run(*inputs, tmp_path / "a"), "trainer.max_steps=1"))
    overrides = [*small_run(*inputs, tmp_path / "b"), "trainer.max_steps=1", f"init_from={tmp_path}/a"]
    train(composed("train", *overrides, "tuning=lora"))
    assert (tmp_path / "b" / "beacons" / "adapter").is_dir()


def test_modules_named_stay_as_they_are(inputs: Inputs, tmp_path: Path) -> None:
    overrides = [
        *steps(inputs, tmp_path),
        "trainer.max_steps=2",
        "tuning=full",
        "tuning.frozen=[embed_tokens,lm_head,self_attn]",
    ]
    train(composed("train", *overrides, "~callbacks.evaluation"))
    lm, plain = BeaconLM.from_pretrained(str(tmp_path / "beacons")), load_file(inputs[0] / "model.safetensors")
    for name, value in plain.items():
        frozen = "self_attn" in name or "embed_tokens" in name or "lm_head" in name
        assert torch.equal(lm.state_dict()[name], value) == frozen, name
    assert not torch.equal(
        lm.model.layers[0].self_attn.beacon_k_proj.weight, plain["model.layers.0.self_attn.k_proj.weight"]
    )


def test_what_is_trained_is_told(inputs: Inputs, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "beacon_lit.module")
    train(
        composed("train", *small_run(*inputs, tmp_path), "trainer.max_steps=1", "tuning=lora", "~callbacks.evaluation")
    )
    # r * (in + out) of q, k, v, o, gate, up and down, in two layers
    count = 2 * 16 * ((32 + 32) + 2 * (32 + 16) + (32 + 32) + 3 * (32 + 64))
    assert f"lora: {count:,} trained at learning rate 0.0002" in caplog.text
    assert "beacons: 2,080 trained at learning rate 0.0001" in caplog.text


def test_autocast_trains_float32_weights(inputs: Inputs, tmp_path: Path) -> None:
    """What a GPU does: products in bfloat16, weights and their steps in float32."""
    overrides = [*steps(inputs, tmp_path), "tuning=full", "tuning.lr=2e-3", "trainer.precision=bf16-mixed"]
    metrics = train(composed("train", *overrides))
    assert metrics["perplexity/ratio_2"] < before(tmp_path)["perplexity/ratio_2"]
    assert {value.dtype for value in exported(tmp_path / "beacons").values()} == {torch.float32}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            "tuning=full model.backbone.dtype=bfloat16",
            r"torch.bfloat16, in which small steps are lost; .*backbone.dtype",
        ),
        ("tuning=full trainer.precision=bf16-true", "small steps are lost"),
        ("tuning=lora trainer.precision=bf16-true", "small steps are lost"),
        ("model.backbone.beacon_dtype=bfloat16", "small steps are lost"),
        ("tuning=full tuning.lr=0", "tuning.lr=0 is not allowed"),
        ("tuning=full tuning.frozen=[head]", "tuning.frozen=head is not allowed"),
        ("tuning=full objective=distill", "objective=Distillation is not allowed with tuning=full"),
        ("tuning=lora +tuning.rank=3", "tuning.rank=3 is not allowed; allowed: r, "),
        ("tuning=lora tuning.target_modules=[lm_head]", "target_modules names lm_head; allowed"),
    ],
)
def test_bad_settings_are_refused(overrides: str, message: str, inputs: Inputs, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=message):
        train(composed("train", *small_run(*inputs, tmp_path), "~callbacks.evaluation", *overrides.split()))


def test_full_tuning_of_a_packed_backbone_is_refused(inputs: Inputs) -> None:
    lm = BeaconLM.from_pretrained(
        str(inputs[0]), BeaconConfig(window=32, placement="interleave"), quantization_config=RowsConfig()
    )
    with pytest.raises(ValueError, match="quantised"):
        Full().prepare(lm)


def test_lora_without_peft_ends_before_anything_is_loaded(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(Exception, match=r"tuning=lora needs the package peft: pip install 'beacon_lit\[lora\]'"):
        train(composed("train", *small_run(Path("/nowhere"), inputs[1], tmp_path), "tuning=lora"))


@pytest.mark.parametrize(
    ("tuning", "trainer", "precision", "dtype"),
    [
        ("beacons", "gpu", "32-true", "bfloat16"),
        ("lora", "gpu", "32-true", "bfloat16"),
        ("full", "gpu", "bf16-mixed", "float32"),
        ("full", "ddp", "bf16-mixed", "float32"),
        ("full", "cpu", "32-true", "float32"),
        ("full", "fsdp2", "bf16-mixed", "float32"),
        ("full", "deepspeed_stage3", "32-true", "float32"),  # DeepSpeed takes no other
    ],
)
def test_dtypes_on_a_gpu(
    tuning: str, trainer: str, precision: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cfg = composed("train", "model=qwen2", f"tuning={tuning}", f"trainer={trainer}", "run_folder=x")
    assert cfg.trainer.precision == precision and cfg.model.backbone.dtype == dtype
    assert "dtype" not in composed("train", "model=tiny", f"tuning={tuning}", "run_folder=x").model.backbone
