"""Score a pass: token losses against labels, and against predictions of the dense backbone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from beacon_lit.arch.cache import BeaconCache
from beacon_lit.arch.checkpoint import adapter
from beacon_lit.arch.core import BeaconModel
from beacon_lit.arch.nn.observe import Observe, observing
from beacon_lit.arch.plan.rows import Rows, check_ids, move
from beacon_lit.arch.plan.windows import Row, Window
from beacon_lit.checks import is_count


@dataclass(frozen=True)
class Teacher:
    """Settings of the dense backbone as the teacher of a forward pass.

    Attributes:
        temperature: temperature of both distributions, above 0.
        length: number of first raw tokens of a row that the teacher reads; None: as many as it has positions.

    Raises:
        ValueError: a setting is out of range.
    """

    temperature: float = 1.0
    length: int | None = None

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature={self.temperature!r} is not allowed; allowed: a number above 0")
        if self.length is not None and not is_count(self.length, 1):
            raise ValueError(f"length={self.length!r} is not allowed; allowed: at least 1 token, or None")

    def reads(self, lengths: Sequence[int], positions: int) -> Tensor:
        """Return (R,) bool, which raw tokens of rows a teacher with `positions` position slots reads."""
        limit = positions if self.length is None else min(self.length, positions)
        return torch.cat([torch.arange(length) < limit for length in lengths])


def dense_rows(lengths: Sequence[int]) -> tuple[Row, ...]:
    """Make each row one window without beacons: a beacon model then computes the dense backbone, without padding."""
    return tuple(Row((Window(length, ratio=0, beacons=0),)) for length in lengths)


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels, and the teacher, that a pass is scored against.

    Attributes:
        rows: rows of the batch.
        labels: (B, L) int64, -100 for no label, on the CPU; None: nothing is scored.
        targets: (R,) int64, the label that each packed token predicts, -100 for no label, on the CPU.
        teacher: settings of the teacher; None: there is no teacher.
        reads: (R,) bool, the tokens that the teacher reads.
    """

    rows: Rows
    labels: Tensor | None = None
    targets: Tensor | None = None
    teacher: Teacher | None = None
    reads: Tensor | None = None

    @classmethod
    def of(
        cls, lm: BeaconModel, rows: Rows, labels: Tensor | None, teacher: Teacher | None = None, cached: bool = False
    ) -> "Labels":
        """Check what a call was given.

        Args:
            lm: the model.
            rows: rows of the batch.
            labels: (B, L) int64.
            teacher: settings of the teacher.
            cached: whether the call continues from a cache or makes one.

        Raises:
            ValueError: labels whose shape is not that of the ids, a label outside the vocabulary, or a
                teacher without labels or with a cache.
        """
        if teacher is not None and (labels is None or cached):
            raise ValueError("teacher=... is not allowed without labels or with a cache; allowed: labels, no cache")
        if labels is None:
            return cls(rows)
        if labels.shape != (len(rows.lengths), rows.width):
            raise ValueError(f"labels has shape {tuple(labels.shape)}; input_ids {(len(rows.lengths), rows.width)}")
        labels = labels.cpu()
        targets = rows.targets(labels)
        check_ids(targets[targets != -100], lm.config.vocab_size, "labels")
        reads = None if teacher is None else teacher.reads(rows.lengths, lm.positions)
        return cls(rows, labels, targets, teacher, reads)

    @torch.no_grad()
    def dense(self, lm: BeaconModel, ids: Tensor, observe: Observe | None = None) -> dict[str, Tensor]:
        """Run the dense backbone, without an adapter.

        Args:
            lm: the model.
            ids: (R,) int64, on any device.
            observe: outputs of its layers to record.

        Returns:
            (R, D) tensors, 0 where the teacher does not read: "final", its final hidden states, and recorded outputs
            by name. Empty without a teacher.
        """
        if self.reads is None:
            return {}
        device = lm.model.embed_tokens.weight.device
        rows = dense_rows([int(part.sum()) for part in self.reads.split(list(self.rows.lengths))])
        ids, index = move(ids, device), move(self.reads.nonzero().flatten(), device)
        with adapter.disabled(lm), observing(lm.model.layers, observe) as seen:
            seen["final"], _ = lm.run(ids[index], lm.layouts(rows))
        return {name: x.new_zeros(len(ids), x.shape[1]).index_copy(0, index, x) for name, x in seen.items()}

    def losses(
        self, lm: BeaconModel, hidden: Tensor, dense: Tensor | None = None, cache: BeaconCache | None = None
    ) -> dict[str, Tensor]:
        """Score a pass.

        Args:
            lm: the model.
            hidden: (R, D) final hidden states of the pass.
            dense: (R, D) final hidden states of the dense backbone, with a teacher ("final" of `Labels.dense`).
            cache: the cache that the pass continued from; its last hidden states score the first labels.

        Returns:
            Fields of `BeaconOutput`: "loss" and "token_loss"; with a teacher also "token_kl" and "taught". Empty
            without labels.
        """
        if self.targets is None or self.labels is None:
            return {}
        targets, device = self.targets, hidden.device
        count = int((targets != -100).sum())
        if self.teacher is not None and self.reads is not None:
            taught = move((targets != -100) & self.reads, device)
            losses, kl = lm.lm_head(hidden, targets, dense, self.teacher.temperature).unbind(-1)
            named = {"token_loss": losses, "token_kl": kl.masked_fill(~taught, 0), "taught": taught}
            found = {name: self.rows.unpack(values.roll(1)) for name, values in named.items()}
            return {"loss": found["token_loss"].sum() / max(count, 1), **found}
        losses = self.rows.unpack(lm.lm_head(hidden, targets).roll(1))
        if cache is not None:
            columns = torch.arange(len(self.rows.lengths)), torch.tensor(self.rows.starts)
            read = torch.tensor([state.seen_tokens > 0 for state in cache.rows])
            first = self.labels[columns].masked_fill(~read, -100)
            check_ids(first[first != -100], lm.config.vocab_size, "labels")
            own = lm.lm_head(cache.last_hidden, first)
            losses = losses.index_put(tuple(move(column, device) for column in columns), own)
            count += int((first != -100).sum())
        return {"loss": losses.sum() / max(count, 1), "token_loss": losses}


def dense_token_loss(lm: BeaconModel, input_ids: Tensor, attention_mask: Tensor | None, labels: Tensor) -> Tensor:
    """Compute the (B, L) float32 token losses of the dense backbone."""
    rows = Rows.of(input_ids, attention_mask)
    scored = Labels.of(lm, rows, labels)
    with adapter.disabled(lm):
        hidden = lm.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
    return scored.losses(lm, rows.pack(hidden))["token_loss"]
