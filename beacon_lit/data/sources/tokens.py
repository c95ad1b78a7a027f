"""Token ids and labels of a record -> a pre-tokenised document."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from beacon_lit.data.collate import IGNORED
from beacon_lit.data.records import Document, MalformedError

ANY_VOCABULARY = 2**31


def read_tokens(values: Mapping[str, Any]) -> Document:
    """Make a document, without its id, of `input_ids`, `labels` and `attention_mask` that are lists of integers."""
    for name, value in values.items():
        if not isinstance(value, list):
            raise MalformedError("wrong_type", f"{name} must be a list of integers, not {type(value).__name__}")
    return checked_tokens({name: np.array(value, None if value else int) for name, value in values.items()})


def checked_tokens(row: Mapping[str, np.ndarray | None], vocabulary: int = ANY_VOCABULARY) -> Document:
    """Make a document, without its id, of arrays.

    Args:
        row: `input_ids`, (L,), and optionally `labels` and `attention_mask`, (L,); None = null.
        vocabulary: token ids must be below this number.

    Raises:
        MalformedError: of kind no_tokens, wrong_type, vocabulary, padding or labels.
    """
    ids, labels, mask = row["input_ids"], row.get("labels"), row.get("attention_mask")
    if ids is None or (ids.dtype != object and not len(ids)):
        raise MalformedError("no_tokens", "input_ids is empty")
    for name, values in (("input_ids", ids), ("labels", labels)):
        if values is not None and not np.issubdtype(values.dtype, np.integer):
            raise MalformedError("wrong_type", f"{name} must be a list of integers without nulls")
    outside = ids[(ids < 0) | (ids >= vocabulary)]
    if len(outside):
        reason = f"token id {outside[0]} is out of the tokenizer's vocabulary of {vocabulary:,}: another tokenizer's?"
        raise MalformedError("vocabulary", reason)
    if mask is not None and not mask.all():
        raise MalformedError("padding", "attention_mask has a 0; save documents without padding")
    if labels is None:
        trained = np.ones(len(ids), bool)
    else:
        trained = labels != IGNORED
        if len(labels) != len(ids) or (labels != ids)[trained].any():
            reason = f"labels ({len(labels)}) must equal input_ids ({len(ids)}), unshifted, or be {IGNORED} for no loss"
            raise MalformedError("labels", reason)
    return {"input_ids": ids.astype(np.int32), "trained": trained}
