"""The Lightning shell of the data stage: sources and settings in, batches of a token budget out."""

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import lightning
from lightning.pytorch.utilities import rank_zero_only

from beacon_lit.data.loader import BatchLoader, TrainLoader
from beacon_lit.data.packing import BatchOrder
from beacon_lit.data.sample import LengthRule, Sample, check_int
from beacon_lit.data.sources import JsonSource, Source
from beacon_lit.data.tokenize import encode, make_samples, subsample

log = logging.getLogger(__name__)


class BeaconDataModule(lightning.LightningDataModule):
    """Batches of tokens for training and validation.

    Args:
        tokenizer: a ready Hugging Face tokenizer, with an end-of-text token (for conversations: a chat template too)
        train, validation: sources of documents; a string is short for `JsonSource(path)`. `validation` may be empty
        window: tokens of a beacon window; samples no longer than that are left out
        min_length, max_length: a sample has between `min_length` and `max_length` tokens
        max_tokens: the most tokens of a batch on one rank (default: `max_length`)
        long: what happens to text longer than `max_length`: "split", "cut" or "drop" (see `LengthRule`)
        seed: of the split, the order of batches and random samples of sources
        num_workers: processes that collate batches ahead of time
        data_root: the folder that `long-llm:` stands for in paths

    Batches: see `beacon_lit.data.collate`. Text is tokenised once, when it is first asked for. The position in the
    training data, the number of batches trained on, is part of checkpoints. A checkpoint made between two optimizer
    steps of an accumulation (on an interruption or a timer) resumes at the next batch, without the gradients
    accumulated until then.

    Raises ValueError: settings out of range, unreadable files, no sample of a fit length.
    """

    def __init__(
        self,
        tokenizer: Any,
        train: Sequence[Source | str],
        validation: Sequence[Source | str],
        window: int,
        min_length: int,
        max_length: int,
        max_tokens: int | None = None,
        long: str = "split",
        seed: int = 0,
        num_workers: int = 0,
        data_root: str | None = None,
    ) -> None:
        super().__init__()
        self.rule = LengthRule(min_length, max_length, window, long, seed)
        self.max_tokens = max_length if max_tokens is None else max_tokens
        check_int("max_tokens", self.max_tokens, max_length)
        check_int("num_workers", num_workers, 0)
        self.num_workers = num_workers
        self.tokenizer = tokenizer
        self.train_sources = _sources(train, data_root)
        self.validation_sources = _sources(validation, data_root)
        self._train_loader: TrainLoader | None = None
        self._resumed: dict[str, int] | None = None

    @cached_property
    def train_samples(self) -> list[Sample]:
        """All training samples, tokenised on first use."""
        if not self.train_sources:
            raise ValueError("data.train is empty; it must name at least one source")
        return make_samples("train", self.train_sources, self.tokenizer, self.rule)

    @cached_property
    def validation_samples(self) -> list[Sample]:
        """All validation samples, tokenised on first use."""
        return make_samples("validation", self.validation_sources, self.tokenizer, self.rule)

    def train_dataloader(self) -> TrainLoader:
        """Batches of the current epoch from the position of the checkpoint on, if one is resumed."""
        order = self._order(self.train_samples)
        if not len(order):
            raise ValueError(f"train: {len(self.train_samples)} samples are too few for {order.world_size} ranks")
        _log_order(order)
        trained = self._batches_trained if self.trainer else None
        self._train_loader = TrainLoader(self.train_samples, order, self._pad_id, self.num_workers, trained)
        if self._resumed is not None:
            self._train_loader.load_state_dict(self._resumed)
        return self._train_loader

    def val_dataloader(self) -> BatchLoader | list[BatchLoader]:
        """All validation samples, always in the same order; without sources an empty list: no validation."""
        if not self.validation_sources:
            return []
        return BatchLoader(
            self.validation_samples, self._order(self.validation_samples), self._pad_id, self.num_workers
        )

    def validation_documents(self) -> list[tuple[str, list[int]]]:
        """(id, token ids) of whole validation documents: not cut, no special tokens but a chat template's."""
        return self._validation_documents

    @cached_property
    def _validation_documents(self) -> list[tuple[str, list[int]]]:
        found = []
        for source in self.validation_sources:
            documents = subsample(list(source), source, self.rule.seed)
            encoded = encode(documents, source.name, self.tokenizer, special_tokens=False)
            found += [(document["id"], ids) for document, ids, _ in encoded]
        return found

    # The position is kept here and not only by the loader: Lightning does not restore loaders at the end of an epoch.
    def state_dict(self) -> dict[str, Any]:
        """The position in the training data."""
        return {} if self._train_loader is None else {"train": self._train_loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint's position."""
        self._resumed = state_dict.get("train")

    def _batches_trained(self) -> int:
        assert self.trainer is not None
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]

    @property
    def _pad_id(self) -> int:
        pad_id = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad_id is None else pad_id

    def _order(self, samples: list[Sample]) -> BatchOrder:
        lengths = [len(sample) for sample in samples]
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return BatchOrder(lengths, self.max_tokens, self.rule.seed, rank, world_size)


def _sources(sources: Sequence[Source | str], data_root: str | None) -> list[Source]:
    sources = [sources] if isinstance(sources, str) else sources
    return [JsonSource(source, data_root) if isinstance(source, str) else source for source in sources]


@rank_zero_only
def _log_order(order: BatchOrder) -> None:
    log.info(
        f"train: {len(order):,} batches of at most {order.max_tokens:,} tokens per epoch and rank "
        f"({order.world_size} ranks; {order.dropped} samples sit out)"
    )
