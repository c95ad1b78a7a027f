"""The Lightning shell of a beacon model: loss, optimizer, and checkpoints that hold what is trained and no more."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.optim import Optimizer
from transformers import PreTrainedTokenizerBase

from beacon_lit.arch import BeaconLM, Draw
from beacon_lit.arch.checkpoint import check_backbone, check_names, is_beacon, settings


class BeaconModule(lightning.LightningModule):
    """Train the beacons of a model.

    Args:
        lm: the model; what of it requires gradients is trained (by default the beacons).
        tokenizer: its tokenizer, for evaluation.
        optimizer: called with the parameters to train.
        schedule: called with the optimizer and `num_training_steps`; None keeps the learning rate.
        seed: of the random ratios.
        checkpoint_layers: layers whose activations are computed again in the backward pass; 0 none, None all.
        compile: fuse pointwise operations with `torch.compile`.
    """

    def __init__(
        self,
        lm: BeaconLM,
        tokenizer: PreTrainedTokenizerBase,
        optimizer: Callable[[Iterable[torch.nn.Parameter]], Optimizer],
        schedule: Callable[..., Any] | None = None,
        seed: int = 0,
        checkpoint_layers: int | None = 0,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.lm = lm.train()  # Hugging Face loads in eval mode, and Lightning leaves modes as they are
        self.tokenizer = tokenizer
        self.optimizer = optimizer
        self.schedule = schedule
        lm.draw = Draw(seed)  # the model counts on with every training step
        self.strict_loading = False  # the frozen backbone is left out; `on_load_checkpoint` checks the rest
        if checkpoint_layers != 0:
            lm.checkpoint_activations(checkpoint_layers)
        if compile:
            lm.compile_pointwise()

    def on_fit_start(self) -> None:
        """Each rank draws its own ratios."""
        self.lm.draw = replace(self.lm.draw, rank=self.global_rank)

    def transfer_batch_to_device(self, batch: dict[str, Any], device: torch.device, dataloader_idx: int) -> Any:
        """Move token ids, labels and weights. The mask stays: the model reads it on the CPU."""
        moved = {name: batch[name].to(device, non_blocking=True) for name in ("input_ids", "labels", "weights")}
        return {**batch, **moved}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The weighted mean loss of the batch's tokens, at ratios drawn by the model's policy."""
        loss = self._loss(batch, None)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Loss at each of the model's ratios, and their mean as "val/loss"."""
        losses = [self._loss(batch, ratio) for ratio in self.lm.beacon.ratios]
        named = {f"val/loss_ratio_{ratio}": loss for ratio, loss in zip(self.lm.beacon.ratios, losses, strict=True)}
        size = int((batch["labels"] != -100).sum())
        self.log_dict({"val/loss": torch.stack(losses).mean(), **named}, batch_size=size, sync_dist=True)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log the gradient norm, before it is clipped."""
        gradients = [parameter.grad for parameter in self._trained().values() if parameter.grad is not None]
        if gradients:
            self.log("train/gradient_norm", torch.nn.utils.get_total_norm(gradients))

    def configure_optimizers(self) -> Any:
        """One group of parameters; the schedule moves with every optimizer step."""
        optimizer = self.optimizer(list(self._trained().values()))
        if self.schedule is None:
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise ValueError("the schedule needs the number of steps: set trainer.max_steps or trainer.max_epochs")
        schedule = self.schedule(optimizer=optimizer, num_training_steps=int(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep trained weights only; add the beacon settings, the backbone's fingerprint and the draw counter."""
        trained = self._trained()
        if "state_dict" in checkpoint:  # DeepSpeed writes the weights itself
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {name: value for name, value in state.items() if name in trained}
        checkpoint["beacon_settings"] = settings(self.lm)
        checkpoint["draw"] = asdict(self.lm.draw)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the weights are those this module trains, and go on with its draws.

        Raises:
            ValueError: other beacon settings, another backbone, other parameters, or no step left to train.
        """
        saved, own = checkpoint["beacon_settings"]["beacon"], self.lm.beacon.to_dict()
        for name, value in own.items():
            if saved.get(name) != value:
                raise ValueError(f"beacon.{name}={value!r} differs from the checkpoint's {saved.get(name)!r}")
        if "state_dict" in checkpoint:
            check_names(set(self._trained()), set(checkpoint["state_dict"]), "the checkpoint")
            if all(is_beacon(name) for name in checkpoint["state_dict"]):
                check_backbone(checkpoint["beacon_settings"], self.lm, "the checkpoint")
        if 0 < self.trainer.max_steps <= checkpoint["global_step"]:
            raise ValueError(
                f"trainer.max_steps={self.trainer.max_steps} is not allowed: the checkpoint has trained "
                f"{checkpoint['global_step']} steps already; allowed: more"
            )
        self.lm.draw = Draw(**checkpoint["draw"])

    def _loss(self, batch: dict[str, Any], ratios: int | None) -> Tensor:
        out = self.lm(
            batch["input_ids"], batch["attention_mask"], labels=batch["labels"], ratios=ratios, return_logits=False
        )
        weights = batch["weights"]
        return (out.token_loss * weights).sum() / weights[:, 1:].sum().clamp(min=torch.finfo(torch.float32).tiny)

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}
