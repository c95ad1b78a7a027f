"""Documents -> samples: tokenise text and conversations, keep what fits a length rule, count the rest by reason."""

import logging
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from lightning.pytorch.utilities import rank_zero_only
from tqdm import tqdm  # type: ignore[import-untyped]

from beacon_lit.data.chat import encode_chat
from beacon_lit.data.sample import LengthRule, Sample
from beacon_lit.data.sources import Document, Source
from beacon_lit.data.text import text_pieces

_CHUNK = 32  # documents tokenised in one call, in parallel

Item = TypeVar("Item")
Encoded = tuple[Document, list[int], np.ndarray | None]


def encode(documents: Iterable[Document], name: str, tokenizer: Any, special_tokens: bool = True) -> Iterator[Encoded]:
    """(document, token ids, mask) of every document.

    The mask, (L,) bool, tells what is trained of a conversation; it is None for text.

    name: of the documents' source, for the progress bar
    special_tokens: add those that the tokenizer puts around a text (a chat template brings its own)
    Raises ValueError naming the document.
    """
    # Left unset, forked data workers warn; they hold no tokenizer.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    remaining = iter(tqdm(documents, desc=f"tokenising {name}", unit=" documents", leave=False, disable=None))
    while chunk := list(islice(remaining, _CHUNK)):
        texts = [document["text"] for document in chunk if "text" in document]
        ids = iter(tokenizer(texts, add_special_tokens=special_tokens, verbose=False)["input_ids"] if texts else [])
        for document in chunk:
            yield (document, next(ids), None) if "text" in document else (document, *_encode_chat(document, tokenizer))


def _encode_chat(document: Document, tokenizer: Any) -> tuple[list[int], np.ndarray]:
    try:
        return encode_chat(document["conversations"], tokenizer)
    except ValueError as error:
        raise ValueError(f"{document['id']}: {error}") from error


def make_samples(split: str, sources: Sequence[Source], tokenizer: Any, rule: LengthRule) -> list[Sample]:
    """The samples of all sources; logs how many there are, and what was left out for which reason.

    Raises ValueError, naming the split, if none is left; see also `source_samples`.
    """
    samples: list[Sample] = []
    left_out: Counter[str] = Counter()
    for source in sources:
        found, reasons = source_samples(source, tokenizer, rule)
        samples += found
        left_out += reasons
    reasons_text = ", ".join(f"{count:,} {reason}" for reason, count in sorted(left_out.items())) or "nothing"
    if not samples:
        raise ValueError(
            f"{split}: no text fits min_length={rule.min_length}, max_length={rule.max_length}, window={rule.window}; "
            f"left out: {reasons_text}"
        )
    lengths = np.array([len(sample) for sample in samples])
    _log(
        f"{split}: {len(samples):,} samples, {lengths.sum():,} tokens (shortest {lengths.min():,}, "
        f"median {int(np.median(lengths)):,}, longest {lengths.max():,}); left out: {reasons_text}"
    )
    return samples


@rank_zero_only
def _log(message: str) -> None:
    logging.getLogger(__name__).info(message)


def source_samples(source: Source, tokenizer: Any, rule: LengthRule) -> tuple[list[Sample], Counter[str]]:
    """A source's samples, and how many texts were left out for each reason.

    Text ends with the tokenizer's end-of-text token and is cut, split or dropped where it is too long. Conversations
    are never cut. Reasons: too_short, too_long, within_one_window (nothing to learn for beacons), leftover (the end of
    a split document, too short for a piece), no_answer (nothing to train on behind the first window), not_drawn
    (beyond the source's limit).
    """
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer {tokenizer.name_or_path!r} has no end-of-text token (eos_token)")
    samples: list[Sample] = []
    left_out: Counter[str] = Counter()
    for document, ids, trained in encode(source, source.name, tokenizer):
        if trained is None:
            samples += _from_text(document["id"], ids, tokenizer, rule, left_out)
        else:
            samples += _from_chat(document["id"], ids, trained, rule, left_out)
    drawn = subsample(samples, source, rule.seed)
    left_out["not_drawn"] = len(samples) - len(drawn)
    return drawn, +left_out


def subsample(items: list[Item], source: Source, seed: int) -> list[Item]:
    """As many of the items as the source's limit allows, at random, in their order."""
    if source.limit is None or source.limit >= len(items):
        return items
    rng = np.random.default_rng([seed, zlib.crc32(source.name.encode())])
    return [items[i] for i in sorted(rng.choice(len(items), size=source.limit, replace=False))]


def _from_text(name: str, ids: list[int], tokenizer: Any, rule: LengthRule, left_out: Counter[str]) -> list[Sample]:
    eos = tokenizer.eos_token_id
    ids = ids if ids[-1:] == [eos] else [*ids, eos]
    rng = np.random.default_rng([rule.seed, zlib.crc32(name.encode())])
    pieces = text_pieces(ids, rule, rng, tokenizer.bos_token_id, left_out)
    return [
        Sample(f"{name}#{number}" if len(pieces) > 1 else name, np.array(piece, np.int32), np.ones(len(piece), bool))
        for number, piece in enumerate(pieces)
    ]


def _from_chat(
    name: str, ids: list[int], trained: np.ndarray, rule: LengthRule, left_out: Counter[str]
) -> list[Sample]:
    reason = rule.too_short(len(ids))
    if len(ids) > rule.max_length:
        reason = "too_long"
    elif not reason and not trained[rule.window :].any():
        reason = "no_answer"
    if reason:
        left_out[reason] += 1
        return []
    return [Sample(name, np.array(ids, np.int32), trained)]
