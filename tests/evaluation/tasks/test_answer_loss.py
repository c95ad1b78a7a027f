import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from beacon_lit.callbacks import EvaluationCallback
from beacon_lit.data.retrieval.drafts import KINDS
from beacon_lit.evaluation import Subject, choose_modes, flat_metrics, make_figures, run
from beacon_lit.evaluation.tasks.answer_loss import AnswerLoss
from tests.callbacks.tiny import TinyData, fit
from tests.configs import WORDS
from tests.evaluation.fakes import FakeLM, byte_tokenizer, tiny_lm
from tests.evaluation.finding import tokenizer


def documents(count: int = 12) -> list[tuple[str, list[int]]]:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 300)) + "." for _ in range(count)]
    return [(str(i), byte_tokenizer()(text)["input_ids"]) for i, text in enumerate(texts)]


class CopyingLM(FakeLM):
    """A token costs nothing if it follows its three predecessors somewhere before in what the mode sees, else 2 nats.

    Dense and ratios see all tokens, but with a ratio answers of digits are unknown; windows see only themselves.
    """

    def forward(self, input_ids, attention_mask=None, labels=None, ratios=None, **options):
        loss = self.copied(input_ids, self.beacon.window if ratios == "drop" else input_ids.shape[1])
        if ratios != "drop":
            loss[torch.isin(input_ids, torch.tensor(DIGITS))] = 2
        return SimpleNamespace(token_loss=loss, cache=self._cache([input_ids.shape[1]] * len(input_ids), ratios))

    def dense_token_loss(self, input_ids, attention_mask, labels):
        return self.copied(input_ids, input_ids.shape[1])

    def copied(self, input_ids, window):
        rows = torch.zeros(input_ids.shape)
        for row, ids in zip(rows, input_ids.tolist(), strict=True):
            for t in range(1, len(ids)):
                start = t // window * window
                seen = [tuple(ids[i : i + 4]) for i in range(start, t - 3)]
                row[t] = 0.0 if t - start >= 3 and tuple(ids[t - 3 : t + 1]) in seen else 2.0
        return rows


DIGITS = [byte_tokenizer()(digit)["input_ids"][0] for digit in "0123456789"]


@pytest.mark.parametrize("mode", ["dense", "window-only", "ratio 2"])
def test_the_loss_is_that_of_the_logits_at_the_answers(mode: str) -> None:
    lm = tiny_lm(400)
    task = AnswerLoss(lengths=(700, 720), kinds=("passkey", "copy"), questions=2, samples=2, template="plain")
    subject = Subject(lm, byte_tokenizer(), documents)
    scores = run({"answers": task}, subject, choose_modes(lm), batch_size=2, progress=False)["answers"]
    sums = {kind: np.zeros(2) for kind in task.kinds}
    lm.eval()
    for example in task.examples(subject):
        sample, ids = example.content, torch.tensor([example.content.ids])
        ratios = {"window-only": "drop", "ratio 2": 2}.get(mode)
        with torch.no_grad():
            logits = (lm.dense(ids) if mode == "dense" else lm(ids, ratios=ratios)).logits[0].double()
        places = [t for t in range(1, len(sample.ids)) if sample.answers[t]]
        nll = sum(-logits[t - 1].log_softmax(-1)[sample.ids[t]].item() for t in places)
        record = next(record for record in scores[mode].predictions if record["id"] == example.id)
        assert record["loss"] == pytest.approx(nll / len(places), rel=1e-4) and len(sample.ids) == record["length"]
        sums[example.about["kind"]] += nll, len(places)
    expected = {kind: nll / tokens for kind, (nll, tokens) in sums.items()}
    assert scores[mode].details == pytest.approx(expected, rel=1e-4)
    assert scores[mode].value == pytest.approx(sum(expected.values()) / 2, rel=1e-4)
    assert len({score.value for score in scores.values()}) == len(scores)


def test_answers_that_can_be_copied_cost_less_than_answers_that_cannot() -> None:
    task = AnswerLoss(lengths=(900,), questions=2, samples=2, template="plain")
    scores = run({"a": task}, Subject(CopyingLM(), byte_tokenizer(), documents), choose_modes(CopyingLM()))["a"]
    assert set(scores["dense"].details) == set(KINDS)
    assert scores["dense"].value < 1 < scores["ratio 2"].value < scores["window-only"].value
    assert all(value > 1.7 for value in scores["window-only"].details.values())
    passkeys, copies = scores["ratio 2"].details["passkey"], scores["ratio 2"].details["copy"]
    assert passkeys > 1.5 and copies == scores["dense"].details["copy"] < 0.6
    assert set(make_figures({"a": task}, {"": {"a": scores}})) == {"a_by_ratio"}


@pytest.mark.parametrize("chat", [False, True])
def test_samples_ask_about_held_out_text_in_the_tokenizers_template(chat: bool) -> None:
    tokens = tokenizer(chat, bos=True)
    task = AnswerLoss(lengths=(1200,), kinds=("needle", "codes"), questions=3, samples=2)
    made = [[(e.id, e.content.ids) for e in task.examples(Subject(None, tokens, documents))] for _ in range(2)]
    assert made[0] == made[1] and len({tuple(ids) for _, ids in made[0]}) == 4
    for example in task.examples(Subject(None, tokens, documents)):
        sample, text = example.content, tokens.decode(example.content.ids)
        assert len(sample.ids) == 1200 and ("[assistant]" in text) == chat and " wizards" in text
        said = tokens.decode([id for id, is_answer in zip(sample.ids, sample.answers, strict=True) if is_answer])
        assert len(sample.draft.exchanges) == 3 and all(e.answer in said for e in sample.draft.exchanges)
        assert len(said) < 12 + sum(len(e.answer) + 8 for e in sample.draft.exchanges)
    other = AnswerLoss(lengths=(1200,), kinds=("needle", "codes"), questions=3, samples=2, seed=1)
    assert made[0] != [(e.id, e.content.ids) for e in other.examples(Subject(None, tokens, documents))]


def test_training_logs_the_loss_of_each_kind(tmp_path, monkeypatch) -> None:
    logged: dict[str, float] = {}
    monkeypatch.setattr("beacon_lit.callbacks.evaluation.log_metrics", lambda trainer, values: logged.update(values))
    monkeypatch.setattr(TinyData, "validation_documents", lambda self: documents())
    task = AnswerLoss(lengths=(600,), kinds=("needle", "passkey"), questions=1)
    callback = EvaluationCallback({"answer_loss": task}, tmp_path, every_n_steps=3, at_start=False)
    fit(tmp_path, [callback])
    assert {"eval/answer_loss/dense", "eval/answer_loss/window-only", "eval/answer_loss/ratio_4"} <= set(logged)
    assert {f"more_eval/answer_loss/ratio_2/{kind}" for kind in task.kinds} <= set(logged)
    assert logged["eval/answer_loss/ratio_2"] == flat_metrics(callback.last)["answer_loss/ratio_2"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(lengths=[]), r"lengths=\[\] is not allowed"),
        (dict(lengths=[600], kinds=["riddle"]), r"kinds=\['riddle'\] is not allowed; allowed: passkey, needle"),
        (
            dict(lengths=[600], kinds=["copy", "copy"]),
            "kinds=.* is not allowed; allowed: one or more values, each once",
        ),
        (dict(lengths=[600], questions=0), "questions=0 is not allowed; allowed: at least 1"),
        (dict(lengths=[600], samples=0), "samples=0 is not allowed; allowed: at least 1"),
        (dict(lengths=[600], template="html"), "template='html' is not allowed"),
    ],
)
def test_a_setting_out_of_range_is_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnswerLoss(**settings)


@pytest.mark.parametrize(
    ("length", "texts", "message"),
    [
        (50, documents(), r"lengths=50 is not allowed for kind=needle: no sample of 50 tokens"),
        (
            1200,
            documents(1),
            r"lengths=\[1200\] with questions=8 need 2,224 tokens of .*, and data.validation has [\d,]+; allow",
        ),
        (1200, [], "data.validation has 0"),
    ],
)
def test_what_does_not_fit_is_named(length: int, texts: list, message: str) -> None:
    task = AnswerLoss(lengths=(length,), kinds=("needle",))
    with pytest.raises(ValueError) as error:
        task.examples(Subject(None, byte_tokenizer(), lambda: texts))
    assert re.search(message, str(error.value))
