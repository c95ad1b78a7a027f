"""Documents -> samples: tokenise text and conversations, keep what fits a length rule, count the rest by reason."""

import hashlib
import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np

from beacon_lit.data.chat import encode_chat
from beacon_lit.data.records import BadRecord, BadRecords, Document
from beacon_lit.data.sample import LengthRule, Sample, token_weights
from beacon_lit.data.templates import with_template
from beacon_lit.data.text import text_pieces

CHUNK = 256  # documents tokenised in one call, in parallel
CHUNK_CHARACTERS = 4_000_000  # or fewer: the memory that a call needs

Item = TypeVar("Item")


class Encoded(NamedTuple):
    """A document's tokens.

    document: what was encoded
    ids: token ids
    trained: (L,) bool, which are trained; None for plain text, of which all are
    answer: (L,) bool, which of these are an answer
    """

    document: Document
    ids: np.ndarray
    trained: np.ndarray | None
    answer: np.ndarray | None


def encode(
    documents: Iterable[Document], tokenizer: Any, bad: BadRecords, special_tokens: bool = True
) -> Iterator[Encoded]:
    """Token ids of every document, in order. A conversation that the chat template refuses is a bad record.

    special_tokens: add those that the tokenizer puts around a text (a chat template brings its own)
    Raises ValueError: a conversation, and no chat template; see also `BadRecords.skip`.
    """
    # Left unset, forked data workers warn; they hold no tokenizer.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    for chunk in chunks(documents, size, CHUNK, CHUNK_CHARACTERS):
        texts = [document["text"] for document in chunk if "text" in document]
        ids = iter(tokenizer(texts, add_special_tokens=special_tokens, verbose=False)["input_ids"] if texts else [])
        for document in chunk:
            if "text" in document:
                yield Encoded(document, np.array(next(ids), np.int32), None, None)
                continue
            encoded = (_encode_chat if "conversations" in document else _as_it_is)(document, tokenizer)
            if isinstance(encoded, BadRecord):
                bad.skip(encoded)
            else:
                yield encoded


def size(document: Document) -> int:
    """Characters of a document, or its tokens."""
    if "conversations" in document:
        return sum(len(message["content"]) for message in document["conversations"])
    return len(document["text"] if "text" in document else document["input_ids"])


def chunks(items: Iterable[Item], size: Callable[[Item], int], count: int, total: int) -> Iterator[list[Item]]:
    """Items in lists of `count`; of fewer where their sizes sum to `total`, which bounds the memory of a list."""
    chunk: list[Item] = []
    held = 0
    for item in items:
        chunk.append(item)
        held += size(item)
        if len(chunk) == count or held >= total:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def tokenizer_key(tokenizer: Any) -> str:
    """Tells tokenizers apart by what they do to text: sha256 of vocabulary, rules and special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    parts = [type(tokenizer).__name__, rules, str(tokenizer.special_tokens_map)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _encode_chat(document: Document, tokenizer: Any) -> Encoded | BadRecord:
    tokenizer = with_template(tokenizer)  # an error if there is none
    try:
        ids, answer = encode_chat(document["conversations"], tokenizer)
    except ValueError as error:
        return BadRecord("template", document["id"], str(error))
    return Encoded(document, np.array(ids, np.int32), answer, answer)


def _as_it_is(document: Document, tokenizer: Any) -> Encoded | BadRecord:
    ids = np.asarray(document["input_ids"], np.int32)
    if len(ids) and not 0 <= ids.min() <= ids.max() < len(tokenizer):
        wrong = ids[(ids < 0) | (ids >= len(tokenizer))][0]
        reason = f"token id {wrong}; allowed: 0 to {len(tokenizer) - 1}, the tokenizer's"
        return BadRecord("vocabulary", document["id"], reason)
    return Encoded(document, ids, document.get("trained", np.ones(len(ids), bool)), document.get("answer"))


def make_samples(
    documents: Iterable[Document],
    tokenizer: Any,
    rule: LengthRule,
    bad: BadRecords,
    answer_share: float | None = None,
) -> Iterator[Sample]:
    """The samples of some documents; `bad.counts` counts the others by reason.

    Text ends with the tokenizer's end-of-text token and is cut, split or dropped where it is too long. Conversations
    and ready tokens are never cut. Reasons: too_short, too_long, within_one_window (nothing to learn for beacons),
    leftover (the end of a split document, too short for a piece), no_answer (nothing to train on behind the first
    window).

    answer_share: see `sample.token_weights`
    """
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer {tokenizer.name_or_path!r} has no end-of-text token (eos_token)")
    left_out = bad.counts
    for document, ids, trained, answer in encode(documents, tokenizer, bad):
        if trained is None:
            yield from _from_text(document["id"], ids, tokenizer, rule, left_out)
            continue
        reason = rule.too_short(len(ids))
        if len(ids) > rule.max_length:
            reason = "too_long"
        elif not reason and not trained[rule.window :].any():
            reason = "no_answer"
        if reason:
            left_out[reason] += 1
        else:
            answer = np.zeros(len(ids), bool) if answer is None else answer
            yield Sample(document["id"], ids, token_weights(trained, answer, answer_share))


def _from_text(
    name: str, ids: np.ndarray, tokenizer: Any, rule: LengthRule, left_out: Counter[str]
) -> Iterator[Sample]:
    eos = tokenizer.eos_token_id
    ids = ids if ids[-1:].tolist() == [eos] else np.append(ids, np.int32(eos))
    rng = np.random.default_rng([rule.seed, zlib.crc32(name.encode())])
    pieces = text_pieces(ids, rule, rng, tokenizer.bos_token_id, left_out)
    for number, piece in enumerate(pieces):
        yield Sample(f"{name}#{number}" if len(pieces) > 1 else name, piece, np.ones(len(piece), np.float32))
