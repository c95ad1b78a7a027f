"""What all jobs share."""

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from beacon_lit.arch import BeaconLM, Ratio
from beacon_lit.chat.reading import Reading
from beacon_lit.chat.template import ChatTemplate
from beacon_lit.chat.tokenizing import TokenizedText, common_prefix
from beacon_lit.serving.documents import Documents
from beacon_lit.serving.inbox import Started
from beacon_lit.serving.metrics import Metrics
from beacon_lit.serving.prefixes import Prefixes, thinned

SEPARATOR = "\n\n"  # between documents and the question of one turn, as in `BeaconChat`
_CHUNK = 4096  # tokens of a prompt that are read at once, while all answers wait
_PAUSE = 0.002  # seconds between two looks at work on files, while answers go on
_WORTH_WAITING = 256  # tokens that another job is reading, too

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Service:
    """A model, and what it has read.

    Attributes:
        lm: the model, in eval mode.
        tokenizer: its tokenizer.
        template: its chat template.
        name: the model's name in requests.
        documents, prefixes: what has been read.
        metrics: counts and times.
        kept: folder for `prefixes` while no server is running.
        ratio: ratio of all windows; None: the model's policy.
        max_new_tokens: most tokens of an answer to a request that does not say.
        files: a thread for work on files, one thing after the other.
    """

    lm: BeaconLM
    tokenizer: Any
    template: ChatTemplate
    name: str
    documents: Documents
    prefixes: Prefixes
    metrics: Metrics
    kept: Path
    ratio: Ratio | None = None
    max_new_tokens: int = 256
    _underway: list[list[int]] = field(default_factory=list)
    files: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "beacon-files"))

    @cached_property
    def end_of_turn(self) -> int | None:
        """The id of the token that ends an answer in a chat."""
        return self.template.end_of_turn(self.tokenizer)

    def start(self) -> None:
        """Go on from what an earlier server kept when it stopped, and show among the metrics how much there is."""
        self.prefixes.load(self.kept, self.lm, self.tokenizer, self.at_own_ratio)
        self.metrics.gauges |= {
            "documents": ("Documents on disk", lambda: len(self.documents)),
            "document_bytes": ("Bytes of documents on disk", lambda: self.documents.nbytes),
            "prefixes": ("Caches of earlier prompts in memory", lambda: len(self.prefixes)),
            "prefix_bytes": ("Bytes of these caches", lambda: self.prefixes.nbytes),
        }

    def stop(self) -> None:
        """Keep for the next start what has been read."""
        self.files.shutdown()
        self.prefixes.save(self.kept, self.tokenizer)

    def started(self, prompt: int, known: int) -> Started:
        """Count the tokens of a prompt, and those of them that were read for earlier requests."""
        self.metrics.count("prompt_tokens_total", prompt)
        self.metrics.count("reused_tokens_total", known)
        return Started(prompt, known)

    def at_ratio(self, reading: Reading) -> Reading:
        """Return a reading that goes on at the server's ratio."""
        return reading.at_ratios(self.ratio, self.lm.beacon.window)

    def at_own_ratio(self, reading: Reading) -> bool:
        """Whether all of a reading is at the server's ratio."""
        return {*reading.ratios} == {*self.at_ratio(Reading()).ratios}

    def known(self, ids: list[int]) -> Generator[int, None, tuple[Reading, int]]:
        """Find what has been read of `ids`; first wait while another job reads more of the same.

        Returns:
            what has been read, and the number of ids that `ids` has in common with earlier ones.
        """
        while True:
            reading, shared = self.prefixes.find(ids)
            if all(common_prefix(other, ids) < len(reading.ids) + _WORTH_WAITING for other in self._underway):
                return self.at_ratio(reading), shared
            yield len(reading.ids)

    def in_background(self, work: Callable[[], T]) -> Generator[int, None, T]:
        """Do work on files in the thread `files`, and pause until it is done.

        Work that has not begun when the job is closed is cancelled; work that has begun goes on to its end.
        """
        future = self.files.submit(work)
        try:
            while not wait([future], _PAUSE).done:
                yield 0
        finally:
            future.cancel()
        return future.result()

    def read(
        self, reading: Reading, tokenized: TokenizedText, ids: list[int], boundary: bool
    ) -> Generator[int, None, Reading]:
        """Read up to the end of `ids`; yield the number of tokens read after every chunk.

        Args:
            reading: what has been read of `ids`.
            tokenized: the text that is read.
            ids: its token ids, as far as they are to be read.
            boundary: whether other prompts will go on from the end of `ids`.

        Returns:
            what has been read. It is also kept if the job is interrupted.
        """
        self._underway.append(ids)
        try:
            for reached in reading.read(self.lm, ids, chunk_tokens=_CHUNK):
                reading = thinned(reached)
                yield len(reading.ids)
            if boundary and reading.marks:
                reading = replace(reading, marks=(*reading.marks[:-1], replace(reading.marks[-1], document=True)))
            return reading
        finally:
            self._underway.remove(ids)
            self.prefixes.add(tokenized, reading)

    def dense_bytes(self, tokens: int) -> int:
        """Return the bytes of the keys and values of so many tokens, without compression."""
        return self.lm.dense_cache_bytes(tokens)
