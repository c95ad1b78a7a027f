"""The job of a question: read what is new in its prompt, and write the answer token by token."""

import time
from collections.abc import Callable, Generator
from contextlib import closing

import torch
from torch import Tensor

from beacon_lit.arch import BeaconCache
from beacon_lit.chat.answering import Answering
from beacon_lit.chat.reading import HELD_BACK, Reading
from beacon_lit.chat.tokenizing import TokenizedText, common_prefix, tokenize
from beacon_lit.serving.compress import compress
from beacon_lit.serving.errors import ApiError
from beacon_lit.serving.inbox import Delta, Emit, Ended
from beacon_lit.serving.prompts import Prompt
from beacon_lit.serving.sampling import Sampler
from beacon_lit.serving.schemas import Options
from beacon_lit.serving.service import Service
from beacon_lit.serving.wording import Wording


class Answer:
    """Answers a prompt. A `worker.Job`.

    Args:
        service: what all jobs share.
        compose: writes the prompt.
        options: of the answer.
        emit: called with the job's events.
    """

    def __init__(self, service: Service, compose: Callable[[Service], Prompt], options: Options, emit: Emit) -> None:
        self.service, self.compose, self.options, self.emit = service, compose, options, emit
        self.started = time.perf_counter()

    def run(self) -> "Generator[int, None, Writing | None]":
        """See `worker.Job`: read the prompt."""
        service, prompt = self.service, self.compose(self.service)
        tokenized = service.prefixes.tokenize(prompt.text, service.tokenizer) if prompt.text else TokenizedText()
        ids = [*prompt.start, *tokenized.ids, *prompt.ids]
        if not ids:
            raise ApiError(400, "the prompt is empty; allowed: at least one token", param="prompt")
        reading, shared = yield from self._known(prompt, ids)
        known = len(reading.ids)
        given = {"max_new_tokens": self.options.limit or service.max_new_tokens}
        answering = Answering.of(service.lm, prompt.end, given)
        field = self.options.text_field
        try:
            reading.check_room(service.lm, len(ids) - known)
            field = self.options.limit_field
            answering.check_room(service.lm, reading, len(ids) - known)
        except ValueError as error:
            message = str(error).replace("max_new_tokens=", f"{field}=")
            raise ApiError(400, message, "context_length_exceeded", field) from error
        self.emit(service.started(len(ids), known))
        boundaries = self._boundaries(prompt, ids, shared)
        for place in (*boundaries, len(ids) - HELD_BACK):
            if place > len(reading.ids):
                chunks = service.read(reading, tokenized, ids[:place], place in boundaries)
                with closing(chunks):
                    reading = yield from chunks
        logits, cache = self._first(reading, ids, answering.count)
        return Writing(self, ids, tokenized, reading, answering, cache).begun(logits)

    def _known(self, prompt: Prompt, ids: list[int]) -> Generator[int, None, tuple[Reading, int]]:
        """Find what has been read of the prompt, in memory or, if that is not all of its documents, on disk."""
        service = self.service
        reading, shared = yield from service.known(ids[:-1])
        for name in prompt.files:
            document = service.documents.get(name)
            if len(reading.ids) >= document.tokens:
                continue
            loaded = yield from service.in_background(
                lambda name=name: service.documents.reading(name, service.lm, service.tokenizer)  # type: ignore[misc]
            )
            if loaded is None or not service.at_own_ratio(loaded):
                loaded = yield from compress(service, document, service.documents.text(name), again=True)
            loaded = loaded.back_to(ids[:-1])
            if len(loaded.ids) > len(reading.ids):
                reading = service.at_ratio(loaded)
        return reading, shared

    def _boundaries(self, prompt: Prompt, ids: list[int], shared: int) -> list[int]:
        """Return the places, in tokens, from which other prompts may go on."""
        places = [shared]
        for text in prompt.beginnings:
            beginning = tokenize(text, self.service.tokenizer).ids
            places.append(common_prefix([*prompt.start, *beginning], ids))
        return sorted({place - HELD_BACK for place in places if HELD_BACK < place < len(ids)})

    @torch.no_grad()
    def _first(self, reading: Reading, ids: list[int], count: int) -> tuple[Tensor, BeaconCache]:
        """Read the rest of the prompt: (V,) logits of the answer's first token, and the cache."""
        lm = self.service.lm
        new = torch.tensor([ids[len(reading.ids) :]], device=lm.device)
        out = lm(
            new,
            cache=reading.cache,
            ratios=reading.ratios_of(new.shape[1], lm.beacon.window),
            use_cache=True,
            logits_to_keep=1,
            total_length=len(ids) + count,
        )
        assert isinstance(out.cache, BeaconCache) and out.logits is not None
        return out.logits[0, -1], out.cache


class Writing:
    """An answer that is being written. A `worker.Row`.

    Args:
        job: its job.
        prompt: token ids of the prompt.
        tokenized: the prompt's text.
        reading: what was read of the prompt.
        answering: how many tokens, and which token ends it.
        cache: the cache that has read the prompt.
    """

    def __init__(
        self, job: Answer, prompt: list[int], tokenized: TokenizedText, reading: Reading, answering: Answering,
        cache: BeaconCache,
    ) -> None:  # fmt: skip
        self.job, self.prompt, self.tokenized, self.reading = job, prompt, tokenized, reading
        self.answering, self.cache, self.total = answering, cache, len(prompt) + answering.count
        options, defaults = job.options, job.service.lm.generation_config
        drawn = 1.0 if defaults.temperature is None else defaults.temperature
        temperature = drawn if defaults.do_sample else 0.0
        top_p = 1.0 if defaults.top_p is None else defaults.top_p
        self.sampler = Sampler(
            temperature if options.temperature is None else options.temperature,
            top_p if options.top_p is None else options.top_p,
            options.presence_penalty,
            options.frequency_penalty,
            options.seed,
        )
        self.wording = Wording(job.service.tokenizer, options.stops)
        self.count, self.last, self.token = 0, job.started, -1

    def begun(self, logits: Tensor) -> "Writing | None":
        """Write the first token; return None if that is the whole answer."""
        if self.take(logits):
            self.end(self.cache)
            return None
        return self

    def take(self, logits: Tensor) -> bool:
        """Choose the next token, `token`, from (V,) logits, and return whether it is the last."""
        self.token = self.sampler(logits)
        self.count += 1
        self._time()
        if self.token in self.answering.eos:
            return self._ended("stop")
        text = self.wording.add(self.token)
        if text:
            self.job.emit(Delta(text))
        if self.wording.stopped:
            return self._ended("stop")
        return self.count == self.answering.count and self._ended("length")

    def end(self, cache: BeaconCache) -> None:
        """Keep what has been read of prompt and answer, for a next turn."""
        read = [*self.prompt, *self.wording.ids][: cache.seen_tokens]
        self.job.service.prefixes.add(self.tokenized, self.reading.marked(read, cache))

    def _ended(self, reason: str) -> bool:
        rest = self.wording.rest()
        if rest:
            self.job.emit(Delta(rest))
        self.job.service.metrics.count("generated_tokens_total", self.count)
        self.job.emit(Ended("stop" if self.wording.stopped else reason, self.count))
        return True

    def _time(self) -> None:
        now = time.perf_counter()
        name = "first_token_seconds" if self.count == 1 else "token_seconds"
        self.job.service.metrics.time(name, now - self.last)
        self.last = now
