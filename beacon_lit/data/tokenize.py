"""Documents -> samples: tokenises text and conversations, keeps what fits a length rule, counts the rest by reason."""

import hashlib
import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np

from beacon_lit.data.conversation import tokenize_conversation
from beacon_lit.data.encoding import all_prompt_ids, all_token_ids
from beacon_lit.data.length_rule import LengthRule, text_pieces
from beacon_lit.data.message_keys import unwritten_keys, with_tool_calls
from beacon_lit.data.records import Document, MalformedRecord, SkippedRecords, SourceRecord
from beacon_lit.data.sample import Sample, token_weights
from beacon_lit.data.templates import with_template

CHUNK = 256  # documents tokenised in one call, in parallel
CHUNK_CHARACTERS = 4_000_000  # most characters of a call, which bound its memory

T = TypeVar("T")


class TokenizedDocument(NamedTuple):
    """A document and its tokens.

    Attributes:
        document: the document.
        ids: (L,) int32, token ids.
        trained: (L,) bool, the tokens with loss; None for plain text, which is trained as a whole.
        answer: (L,) bool, the tokens of answers; None = none.
    """

    document: Document
    ids: np.ndarray
    trained: np.ndarray | None
    answer: np.ndarray | None


def tokenize_documents(
    documents: Iterable[Document], tokenizer: Any, skipped: SkippedRecords, start: bool = True
) -> Iterator[TokenizedDocument]:
    """Tokenise documents in order; a conversation that the chat template refuses is a malformed record.

    Args:
        documents: of any kind.
        tokenizer: a Hugging Face tokenizer.
        skipped: where malformed records go.
        start: whether text begins with the tokenizer's start ids (chat templates write their own).

    Raises:
        ValueError: a conversation, and a tokenizer without a chat template; see also `SkippedRecords.skip`.
    """
    # Without this setting forked data workers warn, although they use no tokenizer.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    for chunk in in_chunks(documents, size, CHUNK, CHUNK_CHARACTERS):
        texts = [document["text"] for document in chunk if "text" in document]
        ids = iter(all_prompt_ids(tokenizer, texts) if start else all_token_ids(tokenizer, texts))
        for document in chunk:
            if "text" in document:
                yield TokenizedDocument(document, np.array(next(ids), np.int32), None, None)
                continue
            tokenized = (
                _conversation(document, tokenizer, skipped.counts)
                if "conversations" in document
                else _pretokenized(document, tokenizer)
            )
            if isinstance(tokenized, MalformedRecord):
                skipped.skip(tokenized)
            else:
                yield tokenized


def size(document: SourceRecord) -> int:
    """Number of characters of a document, or of its tokens if it has no text; 0 if malformed or deferred."""
    if isinstance(document, MalformedRecord):
        return 0
    if "conversations" in document:
        return sum(len(str(value)) for message in document["conversations"] for value in message.values())
    return len(document["text"] if "text" in document else document.get("input_ids", ()))


def in_chunks(items: Iterable[T], size: Callable[[T], int], count: int, total: int) -> Iterator[list[T]]:
    """Group items into lists of `count`, or of fewer whose sizes reach `total`, which bounds the memory of a list."""
    chunk: list[T] = []
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
    """Return a key of what a tokenizer does to text: sha256 of vocabulary, rules and special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    parts = [type(tokenizer).__name__, rules, str(tokenizer.special_tokens_map)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _conversation(document: Document, tokenizer: Any, counts: Counter[str]) -> TokenizedDocument | MalformedRecord:
    """Tokenise a conversation, and count the documents with keys that the template does not write, by key."""
    tokenizer = with_template(tokenizer)  # raises an error if there is none
    messages, tools = document["conversations"], document.get("tools", ())
    try:
        unwritten = unwritten_keys(with_tool_calls(messages), tools, tokenizer)
        ids, answer = tokenize_conversation(messages, tokenizer, tools)
    except ValueError as error:
        return MalformedRecord("template", document["id"], str(error))
    counts.update(f"key_{name}" for name in unwritten)
    return TokenizedDocument(document, np.array(ids, np.int32), answer, answer)


def _pretokenized(document: Document, tokenizer: Any) -> TokenizedDocument | MalformedRecord:
    ids = np.asarray(document["input_ids"], np.int32)
    if len(ids) and not 0 <= ids.min() <= ids.max() < len(tokenizer):
        wrong = ids[(ids < 0) | (ids >= len(tokenizer))][0]
        reason = f"token id {wrong}; allowed: 0 to {len(tokenizer) - 1}, the tokenizer's"
        return MalformedRecord("vocabulary", document["id"], reason)
    trained = document.get("trained", np.ones(len(ids), bool))
    return TokenizedDocument(document, ids, trained, document.get("answer"))


def make_samples(
    documents: Iterable[Document],
    tokenizer: Any,
    rule: LengthRule,
    skipped: SkippedRecords,
    answer_share: float | None = None,
) -> Iterator[Sample]:
    """Make the samples of some documents; `skipped.counts` counts documents that are left out, by reason.

    Text ends with the tokenizer's end-of-text token, and is split, cut or dropped where it is too long. Conversations
    and pre-tokenised documents are never cut. Reasons: too_short, too_long, within_one_window (nothing to learn for
    beacons), leftover (the end of a split document, too short for a piece), no_answer (nothing to train on behind the
    first window).

    Args:
        documents: of any kind.
        tokenizer: with an end-of-text token; without one a ValueError is raised.
        rule: lengths of samples.
        skipped: where malformed records go.
        answer_share: see `sample.token_weights`.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer {tokenizer.name_or_path!r} has no end-of-text token (eos_token)")
    left_out = skipped.counts
    for document, ids, trained, answer in tokenize_documents(documents, tokenizer, skipped):
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
