"""vLLM answers from exported caches as our model does, token for token, and refuses what would be wrong."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.arch.tiny import tokens
from tests.vllm.served import Question, asked, compressing, environment, saved, settings

pytestmark = pytest.mark.vllm
COUNT = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vllm")
    saved(folder / "backbone")
    return folder


@pytest.fixture(scope="module")
def questions(folder: Path) -> list[Question]:
    """Two documents of different lengths, with a question each."""
    return [
        asked(compressing(), folder / "caches", name, tokens(length, seed=length).tolist(), ids, COUNT)
        for name, length, ids in (("one", 324, [5, 6, 7]), ("two", 263, [8, 9, 10, 11, 12]))
    ]


@pytest.fixture(scope="module")
def llm(folder: Path, questions: list[Question]) -> Iterator[Any]:
    from vllm import LLM

    with environment():
        yield LLM(str(folder / "backbone"), **settings(folder / "caches"))


def generated(llm: Any, prompts: Sequence[Sequence[int]], caches: Sequence[str | None], **options: Any) -> list[Any]:
    """The output of every prompt, all asked at once; `caches` names the cache of each."""
    from vllm import SamplingParams

    chosen = {"max_tokens": COUNT, "temperature": 0, "ignore_eos": True, **options}
    named = [{"extra_args": {"kv_transfer_params": {"beacon_cache": name}}} if name else {} for name in caches]
    params = [SamplingParams(**chosen, **extra) for extra in named]
    outputs = llm.generate([{"prompt_token_ids": list(ids)} for ids in prompts], params, use_tqdm=False)
    return [output.outputs[0] for output in outputs]


def preemptions(llm: Any) -> int:
    return next(metric.value for metric in llm.get_metrics() if metric.name == "vllm:num_preemptions")


def test_answers_are_ours(llm: Any, questions: list[Question]) -> None:
    assert questions[0].answer != questions[1].answer
    for question in questions:
        (output,) = generated(llm, [question.prompt], [question.cache])
        assert list(output.token_ids) == question.answer


@pytest.mark.parametrize("order", [(0, 1), (0, 1, 0)])
def test_several_documents_in_one_batch(order: tuple[int, ...], llm: Any, questions: list[Question]) -> None:
    chosen = [questions[place] for place in order]
    before = preemptions(llm)
    outputs = generated(llm, [question.prompt for question in chosen], [question.cache for question in chosen])
    assert [list(output.token_ids) for output in outputs] == [question.answer for question in chosen]
    # The blocks hold two answers. A third makes vLLM drop the keys and values of a request, and load them again.
    assert (preemptions(llm) > before) == (len(order) > 2)


def test_another_cache_gives_another_answer(llm: Any, folder: Path, questions: list[Question]) -> None:
    """The answer depends on the file alone, not on what an earlier request left in the blocks."""
    one = questions[0]
    other = asked(compressing(), folder / "caches", "three", tokens(324, seed=1).tolist(), one.ids, COUNT)
    assert other.slots == one.slots and other.answer != one.answer
    for question in (one, other, one):
        (output,) = generated(llm, [question.prompt], [question.cache])
        assert list(output.token_ids) == question.answer


def test_plain_prompts_are_served_as_well(llm: Any, questions: list[Question]) -> None:
    ids = tokens(1, 20, seed=3)
    options: dict[str, Any] = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = compressing().generate(ids, max_new_tokens=COUNT, **options)[0, 20:].tolist()
    outputs = generated(llm, [ids[0].tolist(), questions[0].prompt], [None, questions[0].cache])
    assert [list(output.token_ids) for output in outputs] == [expected, questions[0].answer]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda q: ([0, *q.prompt], q.cache, {}), "begins with 89 times token 0; allowed: one token 88 times"),
        (lambda q: (q.prompt[1:], q.cache, {}), "begins with 87 times token 0"),
        (lambda q: (q.prompt[: q.slots], q.cache, {}), "placeholders alone"),
        (lambda q: ([5], q.cache, {}), "begins with 1 times token 5"),
        (lambda q: (q.prompt, "missing", {}), "cannot load the cache"),
        (lambda q: (q.prompt, "../backbone/config.json", {}), "it is outside"),
        (lambda q: (q.prompt, "other", {}), "made on a backbone with another weights of first q_proj"),
        (lambda q: (q.prompt, q.cache, {"prompt_logprobs": 1}), "prompt_logprobs=1"),
    ],
)
def test_a_refused_request_ends_alone(
    change: Any, message: str, llm: Any, folder: Path, questions: list[Question], caplog: pytest.LogCaptureFixture
) -> None:
    asked(compressing(seed=1), folder / "caches", "other", tokens(324, seed=324).tolist(), [5, 6, 7], 2)
    ids, cache, options = change(questions[0])
    (refused,) = generated(llm, [ids], [cache], **options)
    assert refused.finish_reason == "error" and not refused.token_ids
    assert message in caplog.text
    refused, answered = generated(llm, [ids, questions[1].prompt], ["missing", questions[1].cache])
    assert refused.finish_reason == "error" and list(answered.token_ids) == questions[1].answer


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"enable_prefix_caching": True}, "enable_prefix_caching=True .* --no-enable-prefix-caching"),
        ({"kv_load_failure_policy": "recompute"}, "kv_load_failure_policy='recompute'"),
    ],
)
def test_an_engine_that_would_mix_documents_does_not_start(changed: dict, message: str, folder: Path) -> None:
    from vllm import LLM

    values = settings(folder / "caches")
    for name, value in changed.items():
        (values["kv_transfer_config"] if name.startswith("kv_") else values)[name] = value
    with environment(), pytest.raises(ValueError, match=message):
        LLM(str(folder / "backbone"), **values)
