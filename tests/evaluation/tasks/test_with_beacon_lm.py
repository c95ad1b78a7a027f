"""The tasks on a real, tiny, random BeaconLM."""

import pytest
import torch

from beacon_lit.evaluation import Passkey, Perplexity, Subject, choose_modes, run
from tests.evaluation.fakes import byte_tokenizer, tiny_lm


@pytest.fixture(scope="module")
def lm():
    return tiny_lm(400)


@pytest.fixture(scope="module")
def results(lm):
    torch.manual_seed(1)
    documents = [(name, torch.randint(400, (100,)).tolist()) for name in "ab"]
    tasks = {"perplexity": Perplexity(length=40), "passkey": Passkey(lengths=(256, 300), depths=(0, 100))}
    subject = Subject(lm, byte_tokenizer(), lambda: documents)
    return documents, run(tasks, subject, choose_modes(lm), batch_size=2, progress=False)


def test_dense_perplexity_is_that_of_the_hugging_face_loss(lm, results):
    documents, scores = results
    pieces = torch.tensor([ids[start : start + 40] for _, ids in documents for start in (0, 40)])
    with torch.no_grad():
        loss = lm.dense(pieces, labels=pieces).loss
    assert scores["perplexity"]["dense"].value == pytest.approx(loss.exp().item(), rel=1e-4)


def test_the_first_window_reads_no_memory(results):
    _, scores = results
    first, last = ({mode: score.details[f"window_{i}"] for mode, score in scores["perplexity"].items()} for i in (0, 2))
    assert first["window-only"] == pytest.approx(first["dense"], rel=1e-4)  # and nothing is inserted into it
    assert len({round(value, 3) for value in last.values()}) == 4


@pytest.mark.parametrize("mode", ["dense", "window-only", "ratio 2", "ratio 4"])
def test_passkey_answers_are_the_argmax_of_whole_passes(lm, results, mode):
    from beacon_lit.data.retrieval.passkey import passkey_sample

    tokenizer = byte_tokenizer()
    record = results[1]["passkey"][mode].predictions[3]
    sample = passkey_sample(tokenizer, record["length"], record["depth"])
    ids, prompt = torch.tensor([sample.ids[: sample.length]]), sample.length
    ratios = {"window-only": "drop", "ratio 2": 2, "ratio 4": 4}.get(mode)
    lm.eval()
    with torch.no_grad():
        for _ in range(record["tokens_out"]):
            logits = lm.dense(ids).logits if mode == "dense" else lm(ids, ratios=ratios).logits
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
    answer = ids[0, prompt:].tolist()
    assert record["tokens_in"] == prompt and record["ended_by"] in {"length", "</s>"}
    assert record["prediction"] == tokenizer.decode(answer, skip_special_tokens=True)
    assert record["ratio"] == ratios
