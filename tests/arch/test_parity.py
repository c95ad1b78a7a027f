"""Values and gradients against the paper's implementation."""

import pytest
import torch

from tests.arch.parity import Case, names


@pytest.mark.parametrize("name", names("train.loss"))
def test_training_matches(name: str) -> None:
    case = Case(name)
    model = case.model.train()
    out = model(case.input_ids, labels=case.labels)
    out.loss.backward()
    torch.testing.assert_close(out.logits, case.get("train.logits"), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.loss, case.get("train.loss")[0], atol=1e-5, rtol=0)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert gradients.keys() >= case.gradients.keys()
    for key, expected in case.gradients.items():
        torch.testing.assert_close(gradients[key], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", names("eval.logits"))
@torch.no_grad()
def test_scoring_matches(name: str) -> None:
    case = Case(name)
    out = case.model.eval()(case.input_ids, unfinished="beacons")
    torch.testing.assert_close(out.logits, case.get("eval.logits"), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", names("generate.ids"))
def test_greedy_generation_matches(name: str) -> None:
    case = Case(name)
    expected = case.get("generate.ids")
    new = expected.shape[1] - case.input_ids.shape[1]
    ids = case.model.eval().generate(
        case.input_ids, unfinished="beacons", max_new_tokens=new, do_sample=False, eos_token_id=None
    )
    assert torch.equal(ids, expected)
