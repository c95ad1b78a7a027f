import pytest
import torch

from beacon_lit.callbacks import NanGuard
from tests.callbacks.tiny import fit


def test_stops_before_the_loss_reaches_the_weights_and_saves_the_batch(tmp_path):
    guard = NanGuard(tmp_path / "run")
    with pytest.raises(ValueError, match=r"loss is nan in training step 3, samples \['sample-2'\]; the batch is in"):
        fit(tmp_path, [guard], nan_at=3)
    saved = torch.load(tmp_path / "run" / "not-finite-step-3.pt")
    assert saved["step"] == 3 and saved["index"] == ["sample-2"]
    assert saved["batch"]["input_ids"].shape == (1, 10)


def test_weights_stay_those_of_the_step_before(tmp_path):
    _, two_steps = fit(tmp_path, [], max_steps=2)
    weights, gradients = [], []

    class Keep(NanGuard):
        def on_exception(self, trainer, pl_module, exception):
            weights.append(pl_module.lm.penalty.detach().clone())
            gradients.append(pl_module.lm.penalty.grad)

    with pytest.raises(ValueError):
        fit(tmp_path, [Keep(tmp_path)], nan_at=3)
    assert torch.equal(weights[0], two_steps.lm.penalty)
    assert gradients[0].isnan()  # the host had launched the backward pass


def test_without_the_guard_training_goes_on_into_nan(tmp_path):
    _, module = fit(tmp_path, [], nan_at=3)
    assert module.lm.penalty.isnan()


def test_names_the_batch_of_an_accumulated_step(tmp_path):
    with pytest.raises(ValueError, match=r"training step 3, samples \['sample-4'\]"):
        fit(tmp_path, [NanGuard(tmp_path)], nan_at=3, accumulate_grad_batches=2)


def test_finite_losses_pass(tmp_path):
    fit(tmp_path, [NanGuard(tmp_path)])
    assert not list(tmp_path.glob("*.pt"))


@pytest.mark.gpu
def test_on_a_gpu(tmp_path):
    with pytest.raises(ValueError, match=r"loss is nan in training step 3, samples \['sample-2'\]"):
        fit(tmp_path, [NanGuard(tmp_path)], nan_at=3, accelerator="gpu")
    fit(tmp_path, [NanGuard(tmp_path)], accelerator="gpu")
