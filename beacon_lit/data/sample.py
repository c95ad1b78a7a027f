"""A training sample: token ids, and how much each of them counts in the loss."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Sample:
    """One row of a batch.

    Attributes:
        id: names the document and, if the document was split, the piece; appears in error reports.
        input_ids: (L,) int32, token ids.
        weights: (L,) float32, the weight of each token in the loss: 0 = no loss, 1 = normal, more for answers.
    """

    id: str
    input_ids: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.input_ids)


def token_weights(trained: np.ndarray, answer: np.ndarray, answer_share: float | None) -> np.ndarray:
    """Compute the weights of a sample's tokens in the loss.

    Args:
        trained: (L,) bool, the tokens with loss.
        answer: (L,) bool, the tokens of answers.
        answer_share: share of the sample's loss that its answers get; the other trained tokens keep weight 1.
            None: all trained tokens have weight 1.

    Returns:
        (L,) float32.
    """
    weights = trained.astype(np.float32)
    answers, others = int((answer & trained).sum()), int((trained & ~answer).sum())
    if answer_share == 1 and answers:
        weights[~answer] = 0
    elif answer_share is not None and answers and others:
        weights[answer & trained] = answer_share / (1 - answer_share) * others / answers
    return weights
