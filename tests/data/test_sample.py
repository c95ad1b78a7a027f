import numpy as np
import pytest

from beacon_lit.data.sample import token_weights


@pytest.mark.parametrize(
    ("share", "expected"),
    [(None, [1, 1, 1, 0, 1]), (0.25, [1, 1, 1, 0, 1]), (0.9, [1, 1, 1, 0, 27]), (1, [0, 0, 0, 0, 1])],
)
def test_an_answer_has_its_share_of_the_loss(share: float | None, expected: list[float]) -> None:
    trained, answer = np.array([1, 1, 1, 0, 1], bool), np.array([0, 0, 0, 1, 1], bool)
    np.testing.assert_allclose(token_weights(trained, answer, share), expected, rtol=1e-6)
    assert token_weights(answer, answer, share).tolist() == [0, 0, 0, 1, 1], "nothing else is trained"
