"""The Lightning data module: sources and settings -> batches of a token budget."""

import copy
import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.utilities import rank_zero_only

from beacon_lit.cores import threads, usable_cores
from beacon_lit.data.checks import check_int
from beacon_lit.data.dataset import SampleDataset, make_dataset, whole_documents
from beacon_lit.data.length_rule import LengthRule
from beacon_lit.data.loader import BatchLoader, TrainLoader
from beacon_lit.data.order import BatchOrder
from beacon_lit.data.records import Source, Tolerance
from beacon_lit.data.sample import Sample
from beacon_lit.data.share import Share
from beacon_lit.data.sources import as_source
from beacon_lit.data.statistics import SourceStatistics
from beacon_lit.data.stream.blocks import Block, StreamMixture
from beacon_lit.data.stream.loader import StreamLoader
from beacon_lit.data.templates import with_template

log = logging.getLogger(__name__)


class BeaconDataModule(lightning.LightningDataModule):
    """Batches of tokens for training and validation.

    For the contents of batches see `beacon_lit.data.collate` and `loader.with_step_weight`. Checkpoints hold the
    position behind the batches trained on, and training continues there on any number of ranks (with a stream, on the
    same number). A checkpoint from the middle of an optimizer step resumes at the start of the step.

    A stream has no end, so the trainer needs `max_steps`; the sources of a stream take no limit, and several sources
    need weights. Each process that reads counts malformed records for itself, in each pass over a source.

    Args:
        tokenizer: a Hugging Face tokenizer with an end-of-text token.
        train, validation: sources of documents; a string is short for `AutoSource(path)`. `validation` may be empty.
            Sources with a `weight` are mixed in proportion to their weights; either all or no sources have one.
        window: tokens of a beacon window; samples of one window or less are left out.
        min_length, max_length: least and most tokens of a sample.
        cache: folder of tokenised samples, which later runs find again.
        max_tokens: most tokens of a batch on one rank (default: `max_length`).
        long: what happens to text longer than `max_length`: "split", "cut" or "drop" (see `LengthRule`).
        seed: of split lengths, the order of batches and random samples of sources.
        num_workers: processes that make batches ahead of time.
        data_root: the folder that `long-llm:` stands for in paths.
        template: name of a chat template (see `data.templates`); default: the tokenizer's own.
        strict: whether the first malformed record is an error.
        max_bad: most malformed records of a source that are skipped, as a share or a number; see `Tolerance`.
        stream: None = training data is tokenised into `cache` first, then shuffled as a whole. A number = training data
            is tokenised while it is trained on, pass after pass; so many samples are shuffled and packed at a time, and
            every process that reads holds twice as many.
        tokenize_workers: most processes that tokenise into `cache`; 1 = this process alone, None = one per core that
            this process may use, at most 32. More than 1 need a main module that can be imported
            (`if __name__ == "__main__":`). The samples are the same for any number.

    Raises:
        ValueError: a setting is out of range, a file is unreadable, or no sample has a fit length.
    """

    def __init__(
        self,
        tokenizer: Any,
        train: Sequence[Source | str],
        validation: Sequence[Source | str],
        window: int,
        min_length: int,
        max_length: int,
        cache: str | Path,
        max_tokens: int | None = None,
        long: str = "split",
        seed: int = 0,
        num_workers: int = 0,
        data_root: str | None = None,
        template: str | None = None,
        strict: bool = False,
        max_bad: float = 0.01,
        stream: int | None = None,
        tokenize_workers: int | None = 1,
    ) -> None:
        super().__init__()
        self.rule = LengthRule(min_length, max_length, window, long, seed)
        self.max_tokens = max_length if max_tokens is None else max_tokens
        check_int("max_tokens", self.max_tokens, max_length)
        check_int("num_workers", num_workers, 0)
        self.num_workers = num_workers
        workers = threads(usable_cores()).tokenize if tokenize_workers is None else tokenize_workers
        check_int("tokenize_workers", workers, 1)
        self.tokenize_workers = workers
        self.tolerance = Tolerance(strict, max_bad)
        self.cache = Path(cache)
        self.tokenizer = tokenizer if template is None else with_template(tokenizer, template)
        self.train_sources = _sources(train, data_root, "train")
        self.validation_sources = _sources(validation, data_root, "validation")
        self.weights = _weights(self.train_sources)
        self.stream = stream
        if stream is not None:
            # A copy of the tokenizer, since a thread uses it while others may change the tokenizer's settings.
            settings = copy.deepcopy(self.tokenizer), self.rule, self.tolerance, stream, self.max_tokens
            self._mixture = StreamMixture(self.train_sources, self.weights, *settings)
        self._train_loader: TrainLoader | StreamLoader | None = None
        self._resumed: dict[str, Any] | None = None

    @cached_property
    def train_samples(self) -> SampleDataset:
        """All training samples, tokenised on first use."""
        self._check_train()
        return self._dataset("train", self.train_sources)

    @cached_property
    def validation_samples(self) -> SampleDataset:
        """All validation samples, tokenised on first use."""
        return self._dataset("validation", self.validation_sources)

    def train_dataloader(self) -> TrainLoader | StreamLoader:
        """Return the loader of the current epoch (or of an endless stream), from a resumed checkpoint's position on."""
        trained = self._batches_trained if self.trainer else None
        self._train_loader = self._tokenized(trained) if self.stream is None else self._streamed(trained)
        if self._resumed is not None:
            self._train_loader.load_state_dict(self._resumed)
        _log(f"train: {self._train_loader.description}")
        return self._train_loader

    def _tokenized(self, trained: Callable[[], int] | None) -> TrainLoader:
        order = self._order(self.train_samples, self.weights)
        return TrainLoader(self.train_samples, order, self._pad_id, self.num_workers, self._share, trained)

    def _streamed(self, trained: Callable[[], int] | None) -> StreamLoader:
        self._check_train()
        trainer = self.trainer
        if trainer and trainer.max_steps == -1 and trainer.limit_train_batches == 1.0:
            raise ValueError(f"trainer.max_steps=-1 must be a number of steps: data.stream={self.stream} has no end")
        return StreamLoader(self._mixture, self._pad_id, self.num_workers, self._share, trained)

    @cached_property
    def _first_block(self) -> Block:
        """The first block of the first reader; with a trainer, the training loader logs malformed records instead."""
        self._check_train()
        readers = self._share.world_size * max(1, self.num_workers)
        return next(self._mixture.blocks(0, readers, self._mixture.start, log_malformed=self.trainer is None))[1]

    def val_dataloader(self) -> BatchLoader | list[BatchLoader]:
        """Return the loader of all validation samples, always in the same order; without sources an empty list."""
        if not self.validation_sources:
            return []
        order = self._order(self.validation_samples)
        return BatchLoader(self.validation_samples, order, self._pad_id, self.num_workers, self._share)

    def validation_documents(self) -> list[tuple[str, list[int]]]:
        """Return (id, token ids) of whole validation documents; special tokens are those of a chat template alone."""
        return self._validation_documents

    @cached_property
    def _validation_documents(self) -> list[tuple[str, list[int]]]:
        log_malformed = not self._share.rank
        return whole_documents(self.validation_sources, self.tokenizer, self.rule.seed, self.tolerance, log_malformed)

    def first_samples(self, count: int) -> list[Sample]:
        """Return the first samples of the training order on one rank; of a stream, those of the first reader."""
        if self.stream is not None:
            block = self._first_block
            return [block.samples[index] for index in islice(chain.from_iterable(block.batches), count)]
        order = self._order(self.train_samples, self.weights)
        return [self.train_samples[index] for index in islice(chain.from_iterable(order.batches()), count)]

    def train_statistics(self) -> list[SourceStatistics]:
        """Summarise the training samples, source by source; of a stream, those of the first block."""
        if self.stream is not None:
            return self._first_block.statistics([source.name for source in self.train_sources])
        return self.train_samples.statistics()

    # The position is kept here, too, since Lightning does not restore loaders at the end of an epoch.
    def state_dict(self) -> dict[str, Any]:
        """Return the position in the training data."""
        return {} if self._train_loader is None else {"train": self._train_loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint's position."""
        self._resumed = state_dict.get("train")
        if self._train_loader is not None and self.trainer:
            # Strategies that restore late have made the loader already, to count its batches: Lightning must ask again.
            self.trainer.fit_loop._combined_loader = None

    def _batches_trained(self) -> int:
        assert self.trainer is not None
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]

    def _dataset(self, split: str, sources: Sequence[Source]) -> SampleDataset:
        dataset = make_dataset(
            split, sources, self.tokenizer, self.rule, self.tolerance, self.cache, self.tokenize_workers
        )
        meaning = self.rule.meaning(dataset.reasons)
        _log(f"{split}: {dataset.description}{f' ({meaning})' if meaning else ''}")
        return dataset

    @property
    def _pad_id(self) -> int:
        pad_id = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad_id is None else pad_id

    @property
    def _share(self) -> Share:
        if not self.trainer:
            return Share()
        accumulate, limit = self.trainer.accumulate_grad_batches, self.trainer.limit_train_batches
        all_batches = isinstance(limit, float) and limit == 1.0
        if accumulate > 1 and not all_batches and (isinstance(limit, float) or limit % accumulate):
            raise ValueError(
                f"trainer.limit_train_batches={limit} must be a multiple of "
                f"trainer.accumulate_grad_batches={accumulate}, or 1.0 for all"
            )
        return Share(self.trainer.global_rank, self.trainer.world_size, accumulate)

    def _order(self, dataset: SampleDataset, weights: Sequence[float] | None = None) -> BatchOrder:
        return BatchOrder(dataset.lengths, self.max_tokens, self.rule.seed, weights)

    def _check_train(self) -> None:
        if not self.train_sources:
            raise ValueError("data.train is empty; it must name at least one source")


def _sources(sources: Sequence[Source | str], data_root: str | None, split: str) -> list[Source]:
    sources = [sources] if isinstance(sources, str) else sources
    return [as_source(source, data_root, split, _log) for source in sources]


def _weights(sources: Sequence[Source]) -> list[float] | None:
    """Return the weights of the mixture; None if no source has one."""
    weights = [source.weight for source in sources if source.weight is not None]
    without = [source.name for source in sources if source.weight is None]
    if weights and without:
        raise ValueError(
            f"weight=null of {without[0]!r} must be a number, because other sources of data.train have one"
        )
    return weights or None


@rank_zero_only
def _log(message: str) -> None:
    log.info(message)
