"""Generates answers: Hugging Face's generation options, completed by a chat's own settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from beacon_lit.arch import BeaconCache, cache_of
from beacon_lit.chat.reading import Reading
from beacon_lit.checks import as_tuple, is_count

MAX_NEW_TOKENS = 512  # if neither the call nor the model's generation_config has a number
_OURS = (
    "inputs", "input_ids", "inputs_embeds", "attention_mask", "cache", "past_key_values", "return_dict_in_generate",
    "max_length", "total_length", "generation_config", "num_return_sequences",
)  # fmt: skip
_PASSED_ON = ("logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "tokenizer", "unfinished")


@dataclass(frozen=True)
class Answering:
    """Options of one answer.

    Attributes:
        count: most tokens of the answer.
        eos: ids of the tokens that end the answer.
        options: other options of Hugging Face's `generate`.
    """

    count: int
    eos: tuple[int, ...]
    options: Mapping[str, Any]

    @classmethod
    def of(cls, lm: Any, end_of_turn: int | None, options: Mapping[str, Any]) -> "Answering":
        """Complete options with the model's generation_config.

        Raises:
            ValueError: an unknown option, an option that a chat sets itself, or a value that is not allowed.
        """
        for name in _OURS:
            if name in options:
                raise ValueError(f"{name} is not allowed: a chat sets it; allowed: max_new_tokens and other options")
        count = options.get("max_new_tokens")
        if count is None:
            count = lm.generation_config.max_new_tokens or MAX_NEW_TOKENS
        if not is_count(count, 1):
            raise ValueError(f"max_new_tokens={count!r} is not allowed; allowed: an integer >= 1")
        for name in GenerationConfig().update(**options):
            if name not in _PASSED_ON:
                raise ValueError(
                    f"{name} is not allowed; allowed: the fields of GenerationConfig, {', '.join(_PASSED_ON)}"
                )
        default = (*as_tuple(lm.generation_config.eos_token_id), end_of_turn)
        ends = as_tuple(options["eos_token_id"]) if "eos_token_id" in options else default
        return cls(count, tuple(dict.fromkeys(id for id in ends if id is not None)), options)

    def check_room(self, lm: Any, reading: Reading, prompt: int) -> None:
        """Raise a ValueError if `prompt` more tokens and an answer do not fit the model's positions; see `Reading`."""
        reading.check_room(lm, prompt)
        try:
            reading.check_room(lm, prompt + self.count - 1)
        except ValueError as error:
            raise ValueError(f"max_new_tokens={self.count} is not allowed here: {error}") from error

    def generate(self, lm: Any, reading: Reading, prompt: list[int], streamer: Any) -> tuple[list[int], Any]:
        """Generate the answer to a prompt, which begins with the ids read so far.

        Returns:
            The answer's ids, and the `BeaconCache` that has read all of them but the last; None after beam search.
        """
        new = torch.tensor([prompt[len(reading.ids) :]], device=lm.device)
        # As max_length, since a max_length in the model's generation_config would warn beside max_new_tokens.
        limits = {"max_new_tokens": None, "max_length": new.shape[1] + self.count}
        ends = {"eos_token_id": list(self.eos) or None, "pad_token_id": self.eos[0] if self.eos else None}
        out = lm.generate(
            new,
            attention_mask=torch.ones_like(new),
            cache=reading.cache,
            ratios=reading.ratios_of(new.shape[1] + self.count, lm.beacon.window),
            total_length=len(prompt) + self.count,
            streamer=streamer,
            return_dict_in_generate=True,
            **{**self.options, **ends, **limits},
        )
        cache: BeaconCache | None = cache_of(out)
        return out.sequences[0, new.shape[1] :].tolist(), cache

    def text(self, tokenizer: Any, answer: list[int]) -> str:
        """Decode an answer, without the token that ended it."""
        said = answer[:-1] if answer and answer[-1] in self.eos else answer
        return tokenizer.decode(said, skip_special_tokens=True)
