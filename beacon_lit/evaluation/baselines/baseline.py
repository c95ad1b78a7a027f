"""A baseline: a mode in which a training-free method of kvpress compresses the cache of the dense backbone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from beacon_lit.evaluation.baselines.peer import Peer
from beacon_lit.evaluation.generating import end_tokens, text_and_end
from beacon_lit.evaluation.modes import Mode, baseline_name
from beacon_lit.evaluation.reader import Reader
from beacon_lit.evaluation.requests import Answer, Generate, Request
from beacon_lit.evaluation.stops import StopStrings

SLOTS, NOMINAL = BUDGETS = ("slots", "nominal")


@dataclass(frozen=True, eq=False)
class Baseline:
    """A method of kvpress with as much memory as a mode of the model has.

    Args:
        method: one of `kvpress_server.METHODS`.
        memory: the mode, a ratio or adapt-N.
        budget: "slots" keeps as many keys per head as the cache of the model has slots after the same prompt at the
            same ratio; "nominal" keeps 1/ratio of the text before the tail, and the tail.
        tail: last tokens of a prompt that the method neither sees nor compresses, unless the prompt has its own number.
        peer: the process that answers.
    """

    method: str
    memory: Mode
    budget: str
    tail: int
    peer: Peer

    @property
    def name(self) -> str:
        """The name in tables, such as "compactor 8" or "compactor 8 nominal"."""
        return baseline_name(self.method, self.memory, "" if self.budget == SLOTS else self.budget)

    @staticmethod
    def can_answer(request: Request) -> bool:
        """Whether requests of this kind can be answered."""
        return isinstance(request, Generate)

    def ask(self, requests: Sequence[Request]) -> list[Answer]:
        """Answer requests of the kind `Generate`, see `execution.execute`."""
        prompts = [request for request in requests if isinstance(request, Generate)]
        ratios = Reader(self.peer.subject, self.memory).ratios_of([length for p in prompts for length in p.lengths])
        asked = [self._asked(prompt, ratio) for prompt, ratio in zip(prompts, ratios, strict=True)]
        found = self.peer.ask(self.method, asked)
        return [self._answer(*each) for each in zip(prompts, ratios, asked, found, strict=True)]

    def _asked(self, request: Generate, ratio: int) -> dict[str, Any]:
        """Write a request as the process reads it."""
        lm, ids = self.peer.subject.lm, list(request.prompt.ids)
        tail = min(self.tail if request.prompt.tail is None else request.prompt.tail, len(ids) - 1)
        text = len(ids) - tail
        keep = lm.cache_slots(len(ids), ratio) - tail if self.budget == SLOTS else text // ratio
        return {
            "ids": ids,
            "tail": tail,
            "keep": min(max(keep, 1), text),
            "max_new_tokens": request.max_new_tokens,
            "min_new_tokens": request.min_new_tokens,
            "end_tokens": list(end_tokens(self.peer.subject, request.prompt.template, request.end_tokens)),
        }

    def _answer(self, request: Generate, ratio: int, asked: dict[str, Any], found: dict[str, Any]) -> Answer:
        """Write what the process answered as `generating.generate` does."""
        tokenizer, lm = self.peer.subject.tokenizer, self.peer.subject.lm
        stops = StopStrings(request.stop, tokenizer, 0)
        for length in range(1, len(found["ids"]) + 1) if request.stop else ():
            stops(torch.tensor([found["ids"][:length]]), None)
        ids = found["ids"][: stops.lengths.get(0)]
        return {
            **text_and_end(tokenizer, ids, asked["end_tokens"], request.stop, 0 in stops.lengths),
            "tokens_in": len(asked["ids"]),
            "tokens_dropped": request.prompt.dropped,
            "template": request.prompt.template,
            "tokens_out": len(ids),
            "ratio": ratio,
            "cache_bytes": lm.dense_cache_bytes(round(found["kept"]) + len(ids)),
            "seconds": found["seconds"],
        }
