"""The Lightning shell of the data stage: sources and settings in, batches of a token budget out."""

import copy
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.utilities import rank_zero_only

from beacon_lit.data.loader import BatchLoader, Share, TrainLoader
from beacon_lit.data.order import BatchOrder
from beacon_lit.data.records import BadRecords, Source, Tolerance, read
from beacon_lit.data.sample import LengthRule, Sample, check_int
from beacon_lit.data.samples import Corpus, drawn, make_corpus
from beacon_lit.data.sources import as_source
from beacon_lit.data.statistics import SourceStatistics, statistics
from beacon_lit.data.stream.blocks import Block, Mixture
from beacon_lit.data.stream.loader import StreamLoader
from beacon_lit.data.templates import with_template
from beacon_lit.data.tokenize import encode

log = logging.getLogger(__name__)


class BeaconDataModule(lightning.LightningDataModule):
    """Batches of tokens for training and validation.

    Args:
        tokenizer: a ready Hugging Face tokenizer, with an end-of-text token
        train, validation: sources of documents; a string is short for `JsonSource(path)`. `validation` may be empty.
            Sources with a `weight` are mixed in that proportion; then all must have one
        window: tokens of a beacon window; samples no longer than that are left out
        min_length, max_length: a sample has between `min_length` and `max_length` tokens
        max_tokens: the most tokens of a batch on one rank (default: `max_length`)
        long: what happens to text longer than `max_length`: "split", "cut" or "drop" (see `LengthRule`)
        seed: of the split, the order of batches and random samples of sources
        num_workers: processes that collate batches ahead of time
        data_root: the folder that `long-llm:` stands for in paths
        template: chat template by name (see `data.templates`); default: the tokenizer's own
        strict: the first bad record is an error
        max_bad: bad records of a source that are skipped before that is an error
        cache: where tokenised samples are kept between runs
        stream: None: training data is tokenised into `cache` first, then comes in any order. A number: it is read and
            tokenised while it is trained on, again and again; so many samples at a time are shuffled and packed, and
            every process that reads holds twice as many

    Batches: see `beacon_lit.data.collate` and `loader.with_step_weight`. Text is tokenised once, into `cache`, unless
    it is streamed. The position in the training data, behind the batches trained on, is part of checkpoints, and counts
    on any number of ranks (in a stream, on as many as before). A checkpoint made amid the batches of an optimizer step
    resumes at the first of them.

    A stream has no end, so the trainer needs `max_steps`; its sources take no limit, and several need weights. Bad
    records are counted in each pass over a source, and by each process that reads.

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
        cache: str | Path,
        max_tokens: int | None = None,
        long: str = "split",
        seed: int = 0,
        num_workers: int = 0,
        data_root: str | None = None,
        template: str | None = None,
        strict: bool = False,
        max_bad: int = 100,
        stream: int | None = None,
    ) -> None:
        super().__init__()
        self.rule = LengthRule(min_length, max_length, window, long, seed)
        self.max_tokens = max_length if max_tokens is None else max_tokens
        check_int("max_tokens", self.max_tokens, max_length)
        check_int("num_workers", num_workers, 0)
        self.num_workers = num_workers
        self.tolerance = Tolerance(strict, max_bad)
        self.cache = Path(cache)
        self.tokenizer = tokenizer if template is None else with_template(tokenizer, template)
        self.train_sources = _sources(train, data_root)
        self.validation_sources = _sources(validation, data_root)
        self.weights = _weights(self.train_sources)
        self.stream = stream
        if stream is not None:
            # A tokenizer of its own: a thread uses it, and that of others may change its settings meanwhile.
            settings = copy.deepcopy(self.tokenizer), self.rule, self.tolerance, stream, self.max_tokens
            self._mixture = Mixture(self.train_sources, self.weights, *settings)
        self._train_loader: TrainLoader | StreamLoader | None = None
        self._resumed: dict[str, Any] | None = None

    @cached_property
    def train_samples(self) -> Corpus:
        """All training samples, tokenised on first use."""
        self._check_train()
        return self._corpus("train", self.train_sources)

    @cached_property
    def validation_samples(self) -> Corpus:
        """All validation samples, tokenised on first use."""
        return self._corpus("validation", self.validation_sources)

    def train_dataloader(self) -> TrainLoader | StreamLoader:
        """Batches of the current epoch (of a stream: without end), from the position of a resumed checkpoint on."""
        trained = self._batches_trained if self.trainer else None
        self._train_loader = self._tokenized(trained) if self.stream is None else self._streamed(trained)
        if self._resumed is not None:
            self._train_loader.load_state_dict(self._resumed)
        _log(self._train_loader.description)
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
        """Of one reader. Bad records are logged by those that train, if there are any."""
        self._check_train()
        readers = self._share.world_size * max(1, self.num_workers)
        return next(self._mixture.blocks(0, readers, self._mixture.start, log_bad=self.trainer is None))[1]

    def val_dataloader(self) -> BatchLoader | list[BatchLoader]:
        """All validation samples, always in the same order; without sources an empty list: no validation."""
        if not self.validation_sources:
            return []
        order = self._order(self.validation_samples)
        return BatchLoader(self.validation_samples, order, self._pad_id, self.num_workers, self._share)

    def validation_documents(self) -> list[tuple[str, list[int]]]:
        """(id, token ids) of whole validation documents: not cut, no special tokens but a chat template's."""
        return self._validation_documents

    @cached_property
    def _validation_documents(self) -> list[tuple[str, list[int]]]:
        found = []
        for source in self.validation_sources:
            bad = BadRecords(self.tolerance, source.name, Counter(), log=not self._share.rank)
            documents = list(read(source, self.tokenizer, bad))
            documents = [documents[i] for i in drawn(len(documents), source, self.rule.seed)]
            encoded = encode(documents, self.tokenizer, bad, special_tokens=False)
            found += [(document["id"], ids.tolist()) for document, ids, _, _ in encoded]
        return found

    def first_samples(self, count: int) -> list[Sample]:
        """The first samples of the training order, on one rank; of a stream with workers, the first one's."""
        if self.stream is not None:
            block = self._first_block
            return [block.samples[index] for index in islice(chain.from_iterable(block.batches), count)]
        order = self._order(self.train_samples, self.weights)
        return [self.train_samples[index] for index in islice(chain.from_iterable(order.batches()), count)]

    def train_statistics(self) -> list[SourceStatistics]:
        """What the training samples are made of, source by source; of a stream, those of its first block."""
        if self.stream is not None:
            return self._first_block.statistics([source.name for source in self.train_sources])
        parts = [
            (source.name, *part) for source, part in zip(self.train_sources, self.train_samples.parts, strict=True)
        ]
        left_out = {name: {**store.left_out, "not_drawn": len(store) - len(rows)} for name, store, rows in parts}
        return statistics(((name, store.lengths[rows], store.trained[rows]) for name, store, rows in parts), left_out)

    # The position is kept here and not only by the loader: Lightning does not restore loaders at the end of an epoch.
    def state_dict(self) -> dict[str, Any]:
        """The position in the training data."""
        return {} if self._train_loader is None else {"train": self._train_loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint's position."""
        self._resumed = state_dict.get("train")
        if self._train_loader is not None and self.trainer:
            # Made already, to count its batches for the schedule, by strategies that restore late: ask for it again.
            self.trainer.fit_loop._combined_loader = None

    def _batches_trained(self) -> int:
        assert self.trainer is not None
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]

    def _corpus(self, split: str, sources: Sequence[Source]) -> Corpus:
        return make_corpus(split, sources, self.tokenizer, self.rule, self.tolerance, self.cache)

    @property
    def _pad_id(self) -> int:
        pad_id = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad_id is None else pad_id

    @property
    def _share(self) -> Share:
        if not self.trainer:
            return Share()
        accumulate, limit = self.trainer.accumulate_grad_batches, self.trainer.limit_train_batches
        if (
            (limit != 1.0 or isinstance(limit, int))
            and (isinstance(limit, float) or limit % accumulate)
            and accumulate > 1
        ):
            raise ValueError(
                f"trainer.limit_train_batches={limit} must be a multiple of "
                f"trainer.accumulate_grad_batches={accumulate}, or 1.0 for all"
            )
        return Share(self.trainer.global_rank, self.trainer.world_size, accumulate)

    def _order(self, corpus: Corpus, weights: Sequence[float] | None = None) -> BatchOrder:
        return BatchOrder(corpus.lengths, self.max_tokens, self.rule.seed, weights)

    def _check_train(self) -> None:
        if not self.train_sources:
            raise ValueError("data.train is empty; it must name at least one source")


def _sources(sources: Sequence[Source | str], data_root: str | None) -> list[Source]:
    sources = [sources] if isinstance(sources, str) else sources
    return [as_source(source, data_root) for source in sources]


def _weights(sources: Sequence[Source]) -> list[float] | None:
    """The weights of the mixture, None if no source has one."""
    weights = [source.weight for source in sources if source.weight is not None]
    without = [source.name for source in sources if source.weight is None]
    if weights and without:
        raise ValueError(
            f"weight=null of {without[0]!r} must be a number, because other sources of data.train have one"
        )
    return weights or None


@rank_zero_only
def _log(message: str) -> None:
    log.info(f"train: {message}")
