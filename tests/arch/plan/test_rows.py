"""A batch of rows of different lengths against each row alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from beacon_lit import BeaconConfig
from beacon_lit.arch.plan.rows import Rows
from tests.arch.cases import Case, cases
from tests.arch.tiny import FAMILIES, OTHERS, assert_close, examples, gradients, tiny, tokens

BEACON = BeaconConfig(window=8, ratios=(2, 4), sink=2, overlap=3, placement="interleave")


def pad(rows: list[Tensor], left: list[bool], value: int) -> Tensor:
    """Rows (L_i,) -> (B, L), each padded on its side."""
    width = max(map(len, rows))
    padded = []
    for row, is_left in zip(rows, left, strict=True):
        filler = row.new_full((width - len(row),), value)
        padded.append(torch.cat([filler, row] if is_left else [row, filler]))
    return torch.stack(padded)


ROWS = dict(case=cases(rows=3), sides=st.lists(st.booleans(), min_size=3, max_size=3), extra=st.integers(0, 3))


def assert_batch_equals_rows_alone(family: str, case: Case, sides: list[bool], extra: int) -> None:
    lm = tiny(family, case.beacon, seed=case.seed, dtype=torch.float64)
    rows = [tokens(length, seed=i) for i, length in enumerate(case.lengths)]
    sides = sides[: len(rows)]
    labels = [
        row.where(torch.rand(len(row), generator=torch.Generator().manual_seed(i)) > 0.3, -100)
        for i, row in enumerate(rows)
    ]
    ids, mask = pad(rows, sides, extra), pad([torch.ones_like(row) for row in rows], sides, 0)
    # labels and ids on padding are any token: nothing may come of them
    out = lm(ids, mask, pad(labels, sides, 5), ratios=case.ratios, unfinished=case.unfinished)
    total, count = 0.0, 0
    for i, row in enumerate(rows):
        alone = lm(row[None], labels=labels[i][None], ratios=case.ratios[i], unfinished=case.unfinished)
        here = mask[i].bool()
        assert_close(out.logits[i, here], alone.logits[0], 1e-9, f"logits of row {i}")
        assert_close(out.token_loss[i, here], alone.token_loss[0], 1e-6, f"losses of row {i}")
        assert not out.logits[i, ~here].any() and not out.token_loss[i, ~here].any()
        total, count = total + alone.token_loss.sum(), count + int((labels[i][1:] != -100).sum())
    expected = total / max(count, 1)
    assert_close(out.loss, expected, 1e-6, "loss")
    alone_gradients = gradients(lm, expected)
    for name, gradient in gradients(lm, out.loss).items():
        assert_close(gradient, alone_gradients[name], 2e-6, name)


@pytest.mark.parametrize("family", FAMILIES)
@examples(40)
@given(**ROWS)
def test_batch_equals_rows_alone(family: str, case: Case, sides: list[bool], extra: int) -> None:
    assert_batch_equals_rows_alone(family, case, sides, extra)


@pytest.mark.parametrize("family", OTHERS)
@examples(5)
@given(**ROWS)
def test_other_families(family: str, case: Case, sides: list[bool], extra: int) -> None:
    assert_batch_equals_rows_alone(family, case, sides, extra)


@pytest.mark.parametrize("keep", [1, 4, 30])
def test_logits_to_keep_are_the_last_columns(keep: int) -> None:
    lm, ids = tiny("qwen2", BEACON), tokens(2, 30)
    mask = torch.ones_like(ids)
    mask[0, :7], mask[1, 27:] = 0, 0
    whole = lm(ids, mask, ratios=2).logits
    torch.testing.assert_close(lm(ids, mask, ratios=2, logits_to_keep=keep).logits, whole[:, -keep:])
    torch.testing.assert_close(lm(ids, ratios=2, logits_to_keep=keep).logits, lm(ids, ratios=2).logits[:, -keep:])


def test_outputs() -> None:
    lm, ids = tiny("qwen2", BEACON), tokens(2, 30)
    out = lm(ids, labels=ids, ratios=2, return_logits=False)
    assert out.logits is None and out.loss.shape == () and out.token_loss.shape == (2, 30)
    assert out.loss.dtype == out.token_loss.dtype == torch.float32
    out = lm(ids, ratios=2)
    assert out.loss is None and out.token_loss is None
    (logits,) = lm(ids, ratios=2, return_dict=False)
    assert torch.equal(logits, out.logits)
    assert {window.ratio for row in out.rows for window in row.windows} == {2}
    assert lm.eval()(ids, ratios=2).rows is None


def test_token_loss_is_that_of_the_label_given_the_tokens_before_it() -> None:
    lm, ids = tiny("qwen2", BEACON), tokens(1, 30)
    out = lm(ids, labels=ids, ratios=2)
    expected = -out.logits[0, :-1].log_softmax(-1)[torch.arange(29), ids[0, 1:]]
    torch.testing.assert_close(out.token_loss[0, 1:], expected)
    assert out.token_loss[0, 0] == 0
    torch.testing.assert_close(out.loss, expected.mean())


def test_a_boolean_or_float_mask_is_read_alike() -> None:
    lm, ids = tiny("qwen2", BEACON), tokens(2, 30)
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    expected = lm(ids, mask, ratios=2).logits
    for other in (mask.bool(), mask.float()):
        assert torch.equal(lm(ids, other, ratios=2).logits, expected)


BAD = {
    "zero between ones": (dict(attention_mask=torch.tensor([[1, 1, 1], [1, 0, 1]])), "row 1 has a zero between ones"),
    "empty row": (dict(attention_mask=torch.tensor([[1, 1, 1], [0, 0, 0]])), "row 1 is all zeros"),
    "mask of another shape": (dict(attention_mask=torch.ones(2, 4)), r"attention_mask has shape \(2, 4\)"),
    "labels of another shape": (dict(labels=torch.ones(2, 4).long()), r"labels has shape \(2, 4\)"),
    "labels of one row": (dict(labels=torch.ones(3).long()), r"labels has shape \(3,\)"),
    "label outside": (dict(labels=torch.tensor([[0, 1, 2], [0, 97, 2]])), "labels has the token id 97.*0 to 96"),
    "negative label": (dict(labels=torch.tensor([[0, 1, 2], [0, -1, 2]])), "labels has the token id -1.*0 to 96"),
    "one dimension": (dict(input_ids=tokens(3)), r"input_ids has shape \(3,\)"),
    "no rows": (dict(input_ids=tokens(0, 3)), r"input_ids has shape \(0, 3\)"),
    "no columns": (dict(input_ids=tokens(2, 0)), r"input_ids has shape \(2, 0\)"),
    "id outside": (dict(input_ids=torch.tensor([[3, 97, 4]])), "input_ids has the token id 97; allowed: 0 to 96"),
    "negative id": (dict(input_ids=torch.tensor([[3, -1, 4]])), "input_ids has the token id -1; allowed: 0 to 96"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_batches_are_refused(name: str) -> None:
    arguments, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        tiny()(**{"input_ids": tokens(2, 3), **arguments})


@examples(50)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), sides=st.lists(st.booleans(), min_size=4, max_size=4)
)
def test_pack_and_unpack(lengths: list[int], sides: list[bool]) -> None:
    sides = sides[: len(lengths)]
    mask = pad([torch.ones(length).long() for length in lengths], sides, 0)
    values = torch.arange(1, mask.numel() + 1).reshape(mask.shape)
    rows = Rows.of(values, mask)
    assert torch.equal(rows.pack(values), values[mask.bool()])
    assert torch.equal(rows.unpack(rows.pack(values)), values * mask)
    columns = range(rows.width)[-2:]
    assert torch.equal(rows.unpack(rows.pack(values), columns), (values * mask)[:, -2:])
    assert rows.padded == (not mask.all())
