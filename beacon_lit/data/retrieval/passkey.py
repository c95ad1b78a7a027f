"""Samples of the passkey task: a five-digit key hidden in filler text and asked for at the end, exact to the token."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from transformers import PreTrainedTokenizerBase

from beacon_lit.data.encoding import token_ids
from beacon_lit.data.retrieval.token_ids import insert, tokens_before

ANNOUNCEMENT = (
    "One important fact is hidden in the long and boring text below. Look for it and keep it in mind: "
    "there will be a question about it at the end.\n\n"
)
FILLER = "The river is wide. The hills are low. The wind is warm. We walk on. Home is a long way off. "
STATEMENT = "\n\nThe pass key is {key}. Do not forget it. {key} is the pass key.\n\n"
QUESTION = "\n\nWhat is the pass key?"
STEM = " The pass key is "


@dataclass(frozen=True)
class PasskeySample:
    """A prompt that ends right before the key, and the key.

    Attributes:
        ids: prompt and answer, `length + len(answer)` tokens.
        length: tokens of the prompt, the bos token (if any) included; if `length % window == 0`, the question ends on
            a window border.
        position: index of the first token of the statement with the key.
        depth: share of the filler that comes before that statement, in per cent.
        key: the five digits.
    """

    ids: list[int]
    length: int
    position: int
    depth: float
    key: str

    @property
    def answer(self) -> list[int]:
        """Token ids of the key."""
        return self.ids[self.length :]


def passkey_sample(
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    depth: float,
    *,
    seed: int = 0,
    index: int = 0,
    prefix: Sequence[int] = (),
    head: str = "",
    stem: str = STEM,
) -> PasskeySample:
    """Make one sample from the token ids of its parts; nothing shifts, since the text is not tokenised as a whole.

    Prompt: prefix, announcement, filler, statement, filler, question. The statement starts
    `round(filler tokens * depth / 100)` tokens after the announcement.

    Args:
        length: exact number of prompt tokens, prefix included and answer excluded.
        depth: in per cent; 0 = right after the announcement, 100 = right before the question.
        seed: decides the key together with length, depth and index; the global random state is not used.
        index: number of the sample among those of one length and depth.
        prefix: token ids at the start, such as the bos token.
        head: text before the announcement, such as a chat template's.
        stem: text between the question and the key.

    Raises:
        ValueError: a depth outside 0..100, or a length that leaves no room for the filler.
    """
    if not 0 <= depth <= 100:
        raise ValueError(f"depth={depth} must be between 0 and 100 (per cent)")
    key = str(random.Random(f"{seed}/{length}/{float(depth)}/{index}").randint(10_000, 99_999))
    opening = [*prefix, *token_ids(tokenizer, head + ANNOUNCEMENT)]
    statement = token_ids(tokenizer, STATEMENT.format(key=key))
    # Question and answer are tokenised together, so that the answer has the tokens of running text. A blank that is a
    # token by itself stays in the question.
    ending = token_ids(tokenizer, QUESTION + stem + key)
    question = ending[: tokens_before(tokenizer, QUESTION + stem, ending)]
    room = length - len(opening) - len(statement) - len(question)
    if room < 0:
        raise ValueError(f"length={length} is too short for a passkey prompt; must be at least {length - room}")
    before = round(room * depth / 100)
    filler = list(islice(cycle(token_ids(tokenizer, FILLER)), room))
    body, (position,) = insert(filler, [statement], [before])
    return PasskeySample(
        ids=opening + body + ending, length=length, position=len(opening) + position, depth=depth, key=key
    )
