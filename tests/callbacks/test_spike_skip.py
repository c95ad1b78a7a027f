import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import SingleDeviceStrategy

from beacon_lit import BeaconLM
from beacon_lit.callbacks import SpikeSkip
from beacon_lit.cli import resolvers
from beacon_lit.cli.train import train
from tests.callbacks.tiny import TinyModule, fit
from tests.configs import composed, small_backbone, small_run, small_text

resolvers.register()

SETTINGS = dict(sigma=4.0, window=6, max_in_a_row=2)  # nothing is skipped in the first three steps


class Spiky(TinyModule):
    """A loss near 1 that is 50 times as high in some batches (from 0); AdamW with momentum and decay, a schedule."""

    def __init__(self, spikes=(), factor=50.0):
        super().__init__()
        self.spikes, self.factor = spikes, factor

    def training_step(self, batch, batch_idx):
        number = int(batch["index"][0].removeprefix("sample-"))
        factor = (self.factor if number in self.spikes else 1.0) * (1 + 0.01 * (number % 2))
        return factor * (1 + 0.1 * self.lm.penalty**2)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.lm.beacon_parameters(), lr=0.1, weight_decay=0.5)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Steps(Callback):
    """What each optimizer step leaves: weight, state, learning rate, where the schedule is."""

    def __init__(self):
        self.left = []

    def on_train_batch_end(self, trainer, pl_module, *args):
        optimizer = trainer.optimizers[0]
        state = {name: value.clone() for name, value in next(iter(optimizer.state.values()), {}).items()}
        schedule = trainer.lr_scheduler_configs[0].scheduler
        left = {"weight": pl_module.lm.penalty.detach().clone(), **state}
        self.left.append(left | {"lr": optimizer.param_groups[0]["lr"], "at": schedule.last_epoch})


def run(folder, spikes=(), guard=None, factor=50.0, **options):
    """What each batch left, the guard, and the trainer."""
    guard = SpikeSkip(**SETTINGS) if guard is None else guard
    steps = Steps()
    trainer, _ = fit(folder, [guard, steps], module=Spiky(spikes, factor), **{"max_steps": 10, **options})
    return steps.left, guard, trainer


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(torch.as_tensor(one[k]), torch.as_tensor(two[k])) for k in one)


def test_a_skipped_step_leaves_everything_as_it_is(tmp_path, caplog):
    left, guard, trainer = run(tmp_path, spikes=(5,))
    assert same(left[5], left[4]) and not same(left[4], left[3]) and not same(left[6], left[5])
    assert guard.skipped == 1 and trainer.global_step == 10
    assert trainer.callback_metrics["train/skipped_steps"] == 1
    assert "training step 6 is skipped: loss" in caplog.text


def test_it_equals_a_run_that_never_saw_the_batch(tmp_path):
    left, _, _ = run(tmp_path, spikes=(5,))
    kept = {**SETTINGS, "sigma": 1e9}  # the same callback, which skips nothing

    class Without(Spiky):
        def training_step(self, batch, batch_idx):
            number = int(batch["index"][0].removeprefix("sample-"))
            batch = {**batch, "index": [f"sample-{number + (number >= 5)}"]}
            return super().training_step(batch, batch_idx)

    steps = Steps()
    fit(tmp_path, [SpikeSkip(**kept), steps], module=Without(), max_steps=9)
    assert same(left[9], steps.left[8])


def test_gradients_of_zero_would_not_be_a_skip(tmp_path):
    class Zeroes(SpikeSkip):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            super().on_before_optimizer_step(trainer, pl_module, optimizer)
            for parameter in optimizer.param_groups[0]["params"]:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad

    left, guard, _ = run(tmp_path, spikes=(5,), guard=Zeroes(**SETTINGS))
    assert guard.skipped == 1 and not torch.equal(left[5]["weight"], left[4]["weight"])


def test_without_it_the_spike_moves_the_optimizer(tmp_path):
    steps = Steps()
    fit(tmp_path, [steps], module=Spiky((5,)), max_steps=10)
    assert not same(steps.left[5], steps.left[4])


def test_a_spike_in_one_of_the_accumulated_batches_skips_the_step(tmp_path):
    left, guard, _ = run(tmp_path, spikes=(9,), max_steps=6, accumulate_grad_batches=2)
    assert guard.skipped == 1  # batches 8 and 9 are the fifth step
    assert same(left[9], left[7]) and not same(left[11], left[9])


def test_nothing_is_skipped_before_there_is_a_history(tmp_path):
    assert run(tmp_path, spikes=(1,))[1].skipped == 0


def test_steady_losses_pass(tmp_path):
    assert run(tmp_path)[1].skipped == 0


def test_a_norm_that_is_no_number_is_skipped_from_the_first_step_on(tmp_path):
    left, guard, _ = run(tmp_path, spikes=(1,), factor=float("inf"))
    assert guard.skipped == 1 and same(left[1], left[0]) and left[-1]["weight"].isfinite()


def test_too_many_in_a_row_end_the_run(tmp_path):
    with pytest.raises(ValueError, match=r"training step 8: loss nan; 3 steps in a row .*max_in_a_row=2"):
        run(tmp_path, spikes=(5, 6, 7), factor=float("nan"))
    assert run(tmp_path, spikes=(4, 5, 7, 8), factor=float("nan"))[1].skipped == 4


def test_a_resumed_run_decides_the_same(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=4, save_top_k=-1)
    whole, resumed, fresh = (SpikeSkip(**SETTINGS) for _ in range(3))
    fit(tmp_path, [whole, checkpoint], module=Spiky((5,)), max_steps=8, enable_checkpointing=True)
    again = Spiky((1,))  # the data starts again: batch 1 is the sixth step
    fit(tmp_path, [resumed], module=again, resume=tmp_path / "step=4.ckpt", max_steps=8)
    assert whole.skipped == 1 and resumed.state_dict() == whole.state_dict()
    fit(tmp_path, [fresh], module=Spiky((1,)), max_steps=4)
    assert fresh.skipped == 0


def test_a_row_of_skips_goes_on_in_a_resumed_run(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=4)
    module, nan = Spiky((2, 3), float("nan")), Spiky((0,), float("nan"))
    fit(tmp_path, [SpikeSkip(**SETTINGS), checkpoint], module=module, max_steps=4, enable_checkpointing=True)
    with pytest.raises(ValueError, match="training step 5: loss nan; 3 steps in a row"):
        fit(tmp_path, [SpikeSkip(**SETTINGS)], module=nan, resume=tmp_path / "step=4.ckpt", max_steps=8)


def test_an_engine_that_steps_by_itself_is_refused(tmp_path):
    class Engine(SingleDeviceStrategy):
        handles_gradient_accumulation = True

    with pytest.raises(ValueError, match="spike_skip is not allowed with Engine"):
        fit(tmp_path, [SpikeSkip()], strategy=Engine("cpu"))


@pytest.mark.parametrize("settings", [dict(sigma=0.0), dict(window=3), dict(max_in_a_row=0)])
def test_bad_settings_are_named(settings):
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=f"{name}={value} is not allowed"):
        SpikeSkip(**settings)


def test_through_the_configs(tmp_path, monkeypatch, caplog):
    original = BeaconLM.forward

    def spiky(self, *args, **kwargs):
        out = original(self, *args, **kwargs)
        if self.training and self.draw.step == 5:
            out.token_loss = out.token_loss * 100
        return out

    monkeypatch.setattr(BeaconLM, "forward", spiky)
    inputs = small_backbone(tmp_path / "backbone"), small_text(tmp_path / "text.jsonl")
    overrides = ["callbacks=[default,spike_skip]", "callbacks.spike_skip.window=6", "~callbacks.evaluation"]
    cfg = composed("train", *small_run(*inputs, tmp_path), *overrides, "trainer.max_steps=6")
    assert train(cfg)["train/skipped_steps"] == 1
    assert "training step 5 is skipped: loss" in caplog.text
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]["SpikeSkip"]
    assert saved["skipped"] == 1 and len(saved["history"]) == 6
