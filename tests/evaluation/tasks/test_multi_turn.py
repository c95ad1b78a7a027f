from math import exp

import pytest
import torch

from beacon_lit.evaluation.tasks import MultiTurnPerplexity
from beacon_lit.tiny import byte_tokenizer as chat_tokenizer
from tests.evaluation.chats import TURNS, asked, chat, write
from tests.evaluation.fakes import byte_tokenizer, tiny_lm


@pytest.fixture(scope="module")
def lm():
    return tiny_lm(258)


@pytest.mark.parametrize("mode", ["dense", "window-only", 2])
def test_turns_are_scored_each_after_all_before_it(tmp_path, lm, mode):
    """Against the losses of the conversation as one text, at the places where the answers are in it."""
    tokenizer = chat_tokenizer()
    score = asked(MultiTurnPerplexity(write(tmp_path / "turns.json", *TURNS)), mode, tokenizer, lm)
    totals: dict[int, list[float]] = {}
    means = []
    for row in TURNS:
        messages = row["conversations"][:6]
        answers = [message["content"] for message in messages if message["role"] == "assistant"]
        text = tokenizer.apply_chat_template(messages, tokenize=False)[: -len("\n")]
        ids = tokenizer(text)["input_ids"]
        losses = token_losses(lm, mode, ids)
        own = []
        for turn, answer in enumerate(answers):
            end = len(tokenizer(text[: text.index(f"{answer}<|im_end|>") + len(f"{answer}<|im_end|>")])["input_ids"])
            start = end - len(answer) - 1  # a token per byte, and the end of the turn
            totals.setdefault(turn, []).extend(losses[start:end])
            own += losses[start:end]
        means.append(sum(own) / len(own))
    assert score.details == pytest.approx({
        **{f"turn_{turn + 1}": exp(sum(part) / len(part)) for turn, part in totals.items()},
        "by_conversation": exp(sum(means) / len(means)),
    }, rel=1e-4)  # fmt: skip
    every = [loss for part in totals.values() for loss in part]
    assert score.value == pytest.approx(exp(sum(every) / len(every)), rel=1e-4)
    assert [len(record["tokens_by_turn"]) for record in score.predictions] == [3, 1]


def token_losses(lm, mode, ids):
    lm.eval()
    with torch.no_grad():
        ids = torch.tensor([ids])
        logits = (
            lm.dense(ids).logits if mode == "dense" else lm(ids, ratios={"window-only": "drop"}.get(mode, mode)).logits
        )
        log_p = logits[0, :-1].double().log_softmax(-1)
    return [0.0, *(-log_p.gather(1, ids[0, 1:, None])[:, 0]).tolist()]


def test_fewer_turns_are_the_beginning_of_more(tmp_path, lm):
    path = write(tmp_path / "turns.json", *TURNS)
    one, two = (asked(MultiTurnPerplexity(path, turns=turns), 2, chat_tokenizer(), lm) for turns in (1, 2))
    assert not MultiTurnPerplexity.higher_is_better
    assert set(one.details) == {"turn_1", "by_conversation"} and set(two.details) == {*one.details, "turn_2"}
    assert one.value == pytest.approx(one.details["turn_1"])


def test_conversations_and_settings_of_multi_turn_perplexity(tmp_path, lm):
    path = write(tmp_path / "turns.json", TURNS[0], chat("Anyone?"))
    with pytest.raises(ValueError, match=r"record turns\.json:2 lacks an answer"):
        asked(MultiTurnPerplexity(path), 2, chat_tokenizer(), lm)
    assert len(asked(MultiTurnPerplexity(path, max_examples=1), 2, chat_tokenizer(), lm).predictions) == 1
    with pytest.raises(ValueError, match=r"turns\.json:1: .*has none"):
        asked(MultiTurnPerplexity(path), 2, byte_tokenizer())
    with pytest.raises(ValueError, match=r"record turns\.json:1 has text; allowed: conversations"):
        asked(MultiTurnPerplexity(write(tmp_path / "turns.json", {"text": "a"})), 2, chat_tokenizer(), lm)
    with pytest.raises(ValueError, match=r"turns\.json, line 1: roles must be user, assistant"):
        bad = {"conversations": [{"role": "assistant", "content": "a"}]}
        asked(MultiTurnPerplexity(write(tmp_path / "turns.json", bad)), 2, chat_tokenizer(), lm)
    with pytest.raises(ValueError, match="turns=0"):
        MultiTurnPerplexity(turns=0)
