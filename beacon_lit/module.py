"""Wrap a beacon model for Lightning: loss, optimizer, and checkpoints of the trained parameters alone."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cached_property
from types import MappingProxyType
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.optim import Optimizer
from transformers import PreTrainedTokenizerBase

from beacon_lit.arch import BeaconLM, Draw
from beacon_lit.arch.checkpoint import Sharder, adapter, check_backbone, check_names, is_backbone, settings
from beacon_lit.arch.nn.packed import is_packed
from beacon_lit.data.share import Share, move_progress
from beacon_lit.objectives import LanguageModeling, Objective
from beacon_lit.strategies.reduce import over_ranks, total_norm
from beacon_lit.tokenizer_state import STATE, tokenizer_state
from beacon_lit.tuning import Groups, Tuning, check_dtypes, count, set_hyperparameters, summary

log = logging.getLogger(__name__)
_SAME_OR_NEW = "allowed: the same, or a new run from its beacons, with init_from= in place of resume="

_ON_DEVICE = ("weights", "step_weight")
_TINY = torch.finfo(torch.float32).tiny


class BeaconModule(lightning.LightningModule):
    """Train the beacons of a model, and further parameters if `tuning` says so.

    Args:
        build: makes the model, whose parameters that require gradients are trained (by default the beacons). Called
            once the strategy is set up, with the strategy's sharding function (see `checkpoint.Sharder`), or with None
            if the strategy does not spread the model.
        tokenizer: the tokenizer of the training data, for evaluation; checkpoints keep its state.
        optimizer: called with the groups of parameters to train.
        schedule: called with the optimizer and `num_training_steps`; None keeps the learning rate constant.
        objective: the training objective; default: predict the next token.
        tuning: what is trained besides the beacons.
        seed: seed of the random ratios.
        checkpoint_layers: number of layers whose activations are recomputed in the backward pass; None: all layers.
        compile: fuse pointwise operations with `torch.compile`.

    Attributes:
        lm: the model; set by `configure_model`.
    """

    lm: BeaconLM

    def __init__(
        self,
        build: Callable[[Sharder | None], BeaconLM],
        tokenizer: PreTrainedTokenizerBase,
        optimizer: Callable[[Groups], Optimizer],
        schedule: Callable[..., Any] | None = None,
        objective: Objective | None = None,
        tuning: Tuning = Tuning(),  # noqa: B008 - it is a value
        seed: int = 0,
        checkpoint_layers: int | None = 0,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.build = build
        self.tokenizer = tokenizer
        self.optimizer = optimizer
        self.schedule = schedule
        self.objective = objective or LanguageModeling()
        self.tuning = tuning
        self.seed = seed
        self.checkpoint_layers = checkpoint_layers
        self.compiles = compile
        self._asked: Groups = []  # hyperparameters of the optimizer's groups, as the settings give them
        self._step_values: dict[str, Tensor] = {}
        self.strict_loading = False  # checkpoints lack the frozen backbone; `on_load_checkpoint` checks the rest

    def configure_model(self) -> None:
        """Build the model, spread over ranks if the strategy does so, and check that the objective fits the model."""
        if "lm" in self._modules:
            return
        self.lm = self.build(getattr(self.trainer.strategy, "shard", None))
        # DDP would send rank 0's frozen weights to all ranks, and cannot send packed ones, which all ranks have read.
        self._ddp_params_and_buffers_to_ignore = [name for name, value in self.named_parameters() if is_packed(value)]
        if hasattr(self.objective, "check"):
            self.objective.check(self.lm)
        self.tuning.prepare(self.lm)
        self.lm.train()  # Hugging Face loads models in eval mode, and Lightning keeps the mode
        if self.checkpoint_layers != 0:
            self.lm.checkpoint_activations(self.checkpoint_layers)
        if self.compiles:
            self.lm.compile_pointwise()

    def on_train_start(self) -> None:
        """Seed the random ratios by rank and batch number, so that a resumed run draws the same ratios.

        A resumed run gets the optimizer's hyperparameters of its settings, not of the checkpoint.
        """
        schedules = [config.scheduler for config in self.trainer.lr_scheduler_configs]
        set_hyperparameters(self.trainer.optimizers[0].param_groups, self._asked, schedules)
        self.lm.draw = Draw(self.seed, self.global_rank, self._progress.total.processed)

    def transfer_batch_to_device(self, batch: dict[str, Any], device: torch.device, dataloader_idx: int) -> Any:
        """Move the weights only: the model lays out a pass, and checks it, on the CPU, while the GPU still works.

        What is returned is no dict, whose tensors DDP would move to the GPU.
        """
        moved = {name: batch[name].to(device, non_blocking=True) for name in _ON_DEVICE if name in batch}
        return MappingProxyType({**batch, **moved})

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Return this batch's share of the loss, the weighted mean over all tokens of an optimizer step on all ranks.

        The model's policy draws the ratios. Lightning averages over accumulated batches and the strategy averages over
        ranks; both are undone here, since batches differ in weight.
        """
        torch.manual_seed(self.lm.draw.pick(0, 0, range(2**62)))  # the seed of dropout, the same in a resumed run
        steps, ranks = self.trainer.accumulate_grad_batches, self.trainer.world_size
        total = over_ranks(batch["step_weight"].float()).clamp(min=_TINY)
        token_loss, parts = self.objective(self.lm, batch, None)
        loss = _weighted_sum(token_loss, batch) / total
        values = {"loss": loss, **{name: _weighted_sum(part, batch) / total for name, part in parts.items()}}
        self._step_values = {name: self._step_values.get(name, 0) + value.detach() for name, value in values.items()}
        if (batch_idx + 1) % steps == 0:
            for name, value in self._step_values.items():
                self.log(f"train/{name}", over_ranks(value))
            self._step_values = {}
        return loss * (ranks * steps)

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Log the cross entropy at each of the model's ratios, and the mean over ratios as "val/loss"."""
        weight = batch["weights"][:, 1:].sum()
        found = [LanguageModeling()(self.lm, batch, ratio)[0] for ratio in self.lm.beacon.ratios]
        losses = [_weighted_sum(token_loss, batch) / weight.clamp(min=_TINY) for token_loss in found]
        named = {f"val/loss_ratio_{ratio}": loss for ratio, loss in zip(self.lm.beacon.ratios, losses, strict=True)}
        size = round(float(weight))
        self.log_dict({"val/loss": torch.stack(losses).mean(), **named}, batch_size=size, sync_dist=True)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log the gradient norm before clipping. DeepSpeed reports the norm after the step only."""
        gradients = [parameter.grad for parameter in self._trained().values() if parameter.grad is not None]
        if gradients and not hasattr(self.trainer.strategy, "gradient_norm"):
            self.log("train/gradient_norm", total_norm(gradients))

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        """Log the gradient norm if the strategy reports it."""
        norm = getattr(self.trainer.strategy, "gradient_norm", None)
        if norm is not None:
            self.log("train/gradient_norm", norm)

    def configure_optimizers(self) -> Any:
        """Make the optimizer of the groups of `tuning`, and the schedule, which advances with every optimizer step.

        Raises:
            ValueError: trained parameters in half precision, or a schedule without a number of steps.
        """
        groups = self.tuning.groups(self.lm)
        check_dtypes(groups)
        optimizer = self.optimizer(groups)
        self._asked = [
            {name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups
        ]
        if self.trainer.is_global_zero:
            log.info(f"{type(self.lm).__name__}: {count(self.lm.parameters()):,} parameters; {summary(optimizer)}")
        if self.schedule is None:
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise ValueError("the schedule needs the number of steps: set trainer.max_steps or trainer.max_epochs")
        schedule = self.schedule(optimizer=optimizer, num_training_steps=int(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep trained weights only, add settings of beacons, backbone and tokenizer, and count whole steps."""
        trained, state = self._trained(), checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in state.items() if name in trained}
        checkpoint["beacon_settings"] = settings(self.lm)
        checkpoint[STATE] = self._tokenizer_state
        checkpoint["kept"] = self._kept
        share = self._share
        checkpoint["share"] = asdict(share)
        move_progress(checkpoint["loops"], share, share)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint fits this module, and convert the position in the data to this number of ranks.

        Raises:
            ValueError: other beacon settings, another tokenizer state, another backbone or adapter, other trained
                parameters, another seed or kind of optimizer, or no step left.
        """
        saved, own = checkpoint["beacon_settings"]["beacon"], self.lm.beacon.to_dict()
        for name, value in own.items():
            if saved.get(name) != value:
                raise ValueError(
                    f"beacon.{name}={value!r} is not allowed: the run that is resumed has "
                    f"beacon.{name}={saved.get(name)!r}; {_SAME_OR_NEW}"
                )
        self._check_tokenizer(checkpoint.get(STATE, {}))
        then = checkpoint.get("kept", self._kept)
        for name, value in self._kept.items():
            if then.get(name) != value:
                raise ValueError(
                    f"{name}={value} is not allowed: the run that is resumed has {name}={then.get(name)}; "
                    f"{_SAME_OR_NEW}"
                )
        adapter.check_same(adapter.settings(self.lm), checkpoint["beacon_settings"].get("adapter"), "the checkpoint")
        check_names(set(self._trained()), set(checkpoint["state_dict"]), "the checkpoint")
        if not any(map(is_backbone, checkpoint["state_dict"])):
            check_backbone(checkpoint["beacon_settings"], self.lm, "the checkpoint")
        if 0 < self.trainer.max_steps <= checkpoint["global_step"]:
            raise ValueError(
                f"trainer.max_steps={self.trainer.max_steps} is not allowed: the checkpoint has trained "
                f"{checkpoint['global_step']} steps already; allowed: more"
            )
        move_progress(checkpoint["loops"], Share(**checkpoint["share"]), self._share)

    def _check_tokenizer(self, saved: Mapping[str, Any]) -> None:
        """Raise a ValueError if a checkpoint was trained with another tokenizer state; earlier versions saved none."""
        for name, value in self._tokenizer_state.items():
            if saved.get(name, value) != value:
                setting = "data.template" if name == "chat_template" else "model.tokenizer"
                raise ValueError(
                    f"{setting} gives the {name} {value!r:.60}, but the run that is resumed has {saved[name]!r:.60}; "
                    f"{_SAME_OR_NEW}"
                )

    @cached_property
    def _tokenizer_state(self) -> dict[str, Any]:
        """See `tokenizer_state`; takes a while, and does not change during a run."""
        return tokenizer_state(self.tokenizer)

    @property
    def _kept(self) -> dict[str, Any]:
        """Settings that a resumed run keeps, since the checkpoint's state belongs to them."""
        kept = {"module.seed": self.seed, "optimizer": _name(self.optimizer)}
        return kept | {"schedule": None if self.schedule is None else _name(self.schedule)}

    @property
    def _share(self) -> Share:
        return Share(self.global_rank, self.trainer.world_size, self.trainer.accumulate_grad_batches)

    @property
    def _progress(self) -> Any:
        return self.trainer.fit_loop.epoch_loop.batch_progress

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}


def _weighted_sum(token_values: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    return (token_values * batch["weights"]).sum()


def _name(function: Any) -> str:
    """Return the name of a function or a class, also where arguments are bound to it."""
    function = getattr(function, "func", function)
    return getattr(function, "__qualname__", type(function).__qualname__)
