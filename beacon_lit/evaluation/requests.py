"""What a task asks a model, as data: generate an answer, hold a conversation, score a text, score options.

Every request has `lengths`, the tokens of each text that the model will hold for it, room for answers included; and
`settings`, which requests that are read in one batch have in common.

An answer is a mapping with values as in JSON, except for "losses". All answers have the fields `COSTS`: "tokens_in"
(tokens read), "ratio" (the ratio that was used), "cache_bytes" (of keys and values at the end) and "seconds" (of the
batch, shared evenly).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from beacon_lit.evaluation.prompts import PLAIN, Prompt

Answer = dict[str, Any]
COSTS = ("tokens_in", "ratio", "cache_bytes", "seconds")


@dataclass(frozen=True)
class Generate:
    """Ask for a greedy answer to a prompt.

    The answer ends with an eos token of the model or the tokenizer, in a chat also with the token that ends a turn.

    Args:
        prompt: what the model continues.
        max_new_tokens: maximum number of tokens of the answer.
        stop: strings that end the answer; the text is cut before the first of them.
        end_tokens: further token ids that end the answer.
        min_new_tokens: number of tokens before which no eos token and no end token is generated.
        penalties: names and values of Hugging Face's options that change what is likeliest, such as
            ("repetition_penalty", 1.1).

    Its answer also has "prediction" (text), "tokens_out", "ended_by" (a token, "stop" or "length"), "template" and
    "tokens_dropped".
    """

    prompt: Prompt
    max_new_tokens: int
    stop: Sequence[str] = ()
    end_tokens: Sequence[int] = ()
    min_new_tokens: int = 0
    penalties: Sequence[tuple[str, float]] = ()

    @property
    def lengths(self) -> list[int]:
        """One text: the prompt and the answer."""
        return [len(self.prompt.ids) + self.max_new_tokens]

    @property
    def settings(self) -> tuple[Any, ...]:
        """Everything but the prompt's ids."""
        ends = (tuple(self.stop), tuple(self.end_tokens))
        return (self.prompt.template, self.max_new_tokens, *ends, self.min_new_tokens, tuple(self.penalties))


@dataclass(frozen=True)
class Converse:
    """Ask for greedy answers turn by turn over one cache, so that nothing is read twice.

    Args:
        turns: token ids of each turn. The first is read from the start of the text; a later one follows the previous
            answer, without the token that ended this answer.
        max_new_tokens: maximum number of tokens of each answer.
        template: "chat" or "plain", which the turns are written in.
        stop: strings that end an answer; the text is cut before the first of them, the cache keeps the whole answer.

    Its answer is that of the last turn as for `Generate`, with "tokens_in", "tokens_out" and "seconds" summed over all
    turns, and "turns", a list of the answers of all turns, each with its own numbers.
    """

    turns: Sequence[Sequence[int]]
    max_new_tokens: int
    template: str = PLAIN
    stop: Sequence[str] = ()
    settings: ClassVar[tuple[Any, ...]] = ()

    @property
    def lengths(self) -> list[int]:
        """One text: all turns and all answers."""
        return [sum(map(len, self.turns)) + len(self.turns) * self.max_new_tokens]


@dataclass(frozen=True)
class ScoreText:
    """Ask for the loss of every token of a text, given the tokens before it.

    Args:
        ids: token ids, at least one.

    Its answer also has "losses", a (L,) float64 tensor on the CPU in nats; the first is 0.
    """

    ids: Sequence[int]
    settings: ClassVar[tuple[Any, ...]] = ()

    @property
    def lengths(self) -> list[int]:
        """One text."""
        return [len(self.ids)]


@dataclass(frozen=True)
class ScoreOptions:
    """Ask how likely each of some continuations of a prompt is.

    The prompt is read with a continuation except for its last token; equal texts of a batch are read once. Options of
    one token each are thus compared in one distribution, the one from which the first token of an answer is taken.

    Args:
        prompt: what the options continue.
        options: token ids of each option, at least one id.

    Its answer also has "nll" (for each option nats, summed over its tokens), "greedy" (for each option whether its
    tokens are the most likely ones), "template" and "tokens_dropped". "tokens_in", "ratio" and "cache_bytes" are those
    of the longest option.
    """

    prompt: Prompt
    options: Sequence[Sequence[int]]
    settings: ClassVar[tuple[Any, ...]] = ()

    @property
    def texts(self) -> list[tuple[int, ...]]:
        """For each option the token ids that are read."""
        return [(*self.prompt.ids, *option[:-1]) for option in self.options]

    @property
    def lengths(self) -> list[int]:
        """One text per option."""
        return [len(text) for text in self.texts]


Request = Generate | Converse | ScoreText | ScoreOptions
