"""Likelihoods of continuations on a real, tiny, random BeaconLM."""

import pytest
import torch

from beacon_lit.evaluation import (
    Generate,
    Prompt,
    Reader,
    ScoreOptions,
    ScoreText,
    Subject,
    execute,
    parse_mode,
)
from beacon_lit.evaluation.runner import evaluating
from tests.evaluation.fakes import WINDOW, tiny_lm
from tests.evaluation.fakes import byte_tokenizer as plain_tokenizer

MODES = ("dense", "window-only", 2, 4)


@pytest.fixture(scope="module")
def lm():
    lm = tiny_lm(400)
    lm.generation_config.eos_token_id = None  # not Llama's: the tokenizer has its own
    return lm


def pairs():
    """Prompts within the first window, on a border, and further on; continuations of one to many tokens."""
    torch.manual_seed(1)
    draws = [(5, 1), (WINDOW, 1), (WINDOW - 2, 7), (2 * WINDOW, 3), (45, 1), (50, 20)]
    return [
        (Prompt(torch.randint(256, (length,)).tolist()), torch.randint(256, (more,)).tolist()) for length, more in draws
    ]


def losses(lm, mode, given):
    """The answers about pairs of a prompt and one continuation, with the two numbers taken out of their lists."""
    reader = Reader(Subject(lm, plain_tokenizer()), parse_mode(mode))
    with evaluating(lm):
        answers = execute(reader, [ScoreOptions(prompt, [continuation]) for prompt, continuation in given])
    return [{**answer, "nll": answer["nll"][0], "greedy": answer["greedy"][0]} for answer in answers]


def logits_of(lm, mode, ids):
    """(L, V) logits of a text alone."""
    ratio = {"window-only": "drop"}.get(mode, mode)
    with evaluating(lm):
        ids = torch.tensor([ids])
        return (lm.dense(ids) if mode == "dense" else lm(ids, ratios=ratio)).logits[0]


@pytest.mark.parametrize("mode", MODES)
def test_losses_are_those_of_the_logits_of_each_text_alone(lm, mode):
    given = pairs()
    for (prompt, continuation), found in zip(given, losses(lm, mode, given), strict=True):
        text = [*prompt.ids, *continuation[:-1]]
        log_p = logits_of(lm, mode, text).double().log_softmax(-1)[len(prompt.ids) - 1 :]
        wanted = -sum(row[token].item() for row, token in zip(log_p, continuation, strict=True))
        assert found["nll"] == pytest.approx(wanted, rel=1e-4)
        assert (found["tokens_in"], found["template"]) == (len(text), "plain")
        assert found["cache_bytes"] > 0 and found["ratio"] == {"dense": None, "window-only": "drop"}.get(mode, mode)


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_equals_its_pairs_alone(lm, mode):
    given = pairs()
    together = losses(lm, mode, given)
    alone = [losses(lm, mode, [pair])[0] for pair in given]
    assert [one["nll"] for one in alone] == pytest.approx([one["nll"] for one in together], rel=1e-4)
    assert [one["greedy"] for one in alone] == [one["greedy"] for one in together]


@pytest.mark.parametrize("mode", MODES)
def test_what_is_generated_is_greedy_and_nothing_else_is(lm, mode):
    """Also where the prompt ends on a border: what is scored is what an answer starts from."""
    reader = Reader(Subject(lm, plain_tokenizer()), parse_mode(mode))
    for length in (WINDOW - 1, WINDOW, 3 * WINDOW, 40):
        prompt = Prompt(list(range(100, 100 + length)))
        best = logits_of(lm, mode, prompt.ids)[-1].argmax().item()
        with evaluating(lm):
            (first,) = execute(reader, [Generate(prompt, 1)])
            assert first["prediction"] == plain_tokenizer().decode([best], skip_special_tokens=True)
        given = [(prompt, [best]), (prompt, [(best + 1) % 400]), (prompt, [best, 3, 4])]
        right, wrong, partly = losses(lm, mode, given)
        assert right["greedy"] and not wrong["greedy"] and not partly["greedy"]
        assert right["nll"] < wrong["nll"]


def test_options_of_one_token_are_read_once(lm, monkeypatch):
    rows = []
    forward = type(lm).forward

    def counted(self, input_ids, *args, **kwargs):
        rows.append(len(input_ids))
        return forward(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(type(lm), "forward", counted)
    prompt = Prompt(list(range(40)))
    found = losses(lm, 2, [(prompt, [token]) for token in (7, 8, 9, 10)])
    assert rows == [1] and len({one["nll"] for one in found}) == 4
    with evaluating(lm):
        (answer,) = execute(
            Reader(Subject(lm, plain_tokenizer()), parse_mode(2)), [ScoreOptions(prompt, [[7], [8], [9], [10]])]
        )
    assert rows == [1, 1] and answer["nll"] == [one["nll"] for one in found]
    losses(lm, 2, [(prompt, [7, 8]), (prompt, [7, 9]), (prompt, [8, 8])])
    assert rows == [1, 1, 2]


@pytest.mark.parametrize("mode", MODES)
def test_one_token_options_agree_with_losses_of_the_whole_text(lm, mode):
    """Off the border a text with its last token gives the same; on it that token closes the window before it."""
    reader = Reader(Subject(lm, plain_tokenizer()), parse_mode(mode))
    for length in (10, WINDOW + 5, 3 * WINDOW - 1):
        prompt = Prompt(list(range(50, 50 + length)))
        (found,) = losses(lm, mode, [(prompt, [9])])
        with evaluating(lm):
            whole = execute(reader, [ScoreText([*prompt.ids, 9])])[0]["losses"][-1].item()
        assert found["nll"] == pytest.approx(whole, rel=1e-4)
