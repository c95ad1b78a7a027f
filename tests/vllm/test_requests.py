"""Requests and engines that would answer wrongly are refused."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from beacon_lit.vllm import CacheFile, save_for_vllm
from beacon_lit.vllm.requests import check_engine, check_prompt, find
from tests.arch.caches import model
from tests.arch.tiny import tokens

FILE = CacheFile(slots=3, tokens=9, room=2, dtype="float32", backbone={})


@pytest.mark.parametrize("ids", [[0, 0, 0, 5], [7, 7, 7, 5, 7], [0, 0, 0, 5, 0, 0]])
def test_placeholders_and_a_question(ids: list[int]) -> None:
    check_prompt(ids, FILE, None)


@pytest.mark.parametrize(
    "ids, message",
    [
        ([0, 0, 5], "begins with 2 times token 0; allowed: one token 3 times, since the cache has 3 slots"),
        ([7, 7, 7, 7, 5], "begins with 4 times token 7; allowed: one token 3 times"),
        ([1, 2, 3, 4], "begins with 1 times token 1"),
        ([0, 0, 0], "placeholders alone .* allowed: a question"),
        ([], "without token ids"),
        (None, "without token ids"),
    ],
)
def test_other_prompts_are_refused(ids: list[int] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_prompt(ids, FILE, None)


def test_logits_of_placeholders_are_refused() -> None:
    with pytest.raises(ValueError, match=r"prompt_logprobs=0 .* placeholders have none"):
        check_prompt([0, 0, 0, 5], FILE, 0)


def test_a_request_names_a_file_in_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "caches"
    for path in (folder / "a" / "book", tmp_path / "secret"):
        file = save_for_vllm(model().compress(tokens(1, 20)), path)
    (folder / "link").symlink_to(tmp_path / "secret")
    assert find({"beacon_cache": "a/book"}, folder, {}) == (folder / "a" / "book", file)
    for name in ("../secret", str(tmp_path / "secret"), "link", "a/../../secret"):
        with pytest.raises(ValueError, match=r"it is outside .* allowed: a file in this folder"):
            find({"beacon_cache": name}, folder, {})
    with pytest.raises(ValueError, match=r"cannot load the cache .*no-such"):
        find({"beacon_cache": "no-such"}, folder, {})
    with pytest.raises(ValueError, match="another hidden_size"):
        find({"beacon_cache": "a/book"}, folder, {"hidden_size": 31})
    for params in ({"beacon_cahce": "a/book"}, {"beacon_cache": 3}, {"beacon_cache": "a/book", "more": 1}):
        with pytest.raises(ValueError, match=r'kv_transfer_params=.* allowed: {"beacon_cache": NAME}'):
            find(params, folder, {})


def engine(**settings: Any) -> SimpleNamespace:
    """What `check_engine` reads of vLLM's settings."""
    transfer = {"kv_role": "kv_consumer", "kv_load_failure_policy": "fail"}
    parallel = {"decode_context_parallel_size": 1, "prefill_context_parallel_size": 1}
    return SimpleNamespace(
        cache_config=SimpleNamespace(enable_prefix_caching=settings.get("enable_prefix_caching", False)),
        kv_transfer_config=SimpleNamespace(**{name: settings.get(name, value) for name, value in transfer.items()}),
        parallel_config=SimpleNamespace(**{name: settings.get(name, value) for name, value in parallel.items()}),
        speculative_config=settings.get("speculative_config"),
    )


FULL, SLIDING = SimpleNamespace(sliding_window=None), SimpleNamespace(sliding_window=4096)


@pytest.mark.parametrize(
    "settings, specs, message",
    [
        ({"enable_prefix_caching": True}, [FULL], "same placeholders.* allowed: --no-enable-prefix-caching"),
        ({"kv_role": "kv_both"}, [FULL], "nothing is saved; allowed: 'kv_consumer'"),
        ({"kv_load_failure_policy": "recompute"}, [FULL], "read as text; allowed: 'fail'"),
        ({"speculative_config": {}}, [FULL], "speculative_config .* allowed: none"),
        ({"decode_context_parallel_size": 2}, [FULL], "decode_context_parallel_size=2 .* allowed: 1"),
        ({}, [SLIDING], "sliding_window=4096, .* allowed: full attention"),
        ({}, [FULL, SLIDING], "sliding_window=4096, 2 kinds of layers"),
        ({}, [FULL, FULL], "2 kinds of layers"),
    ],
)
def test_engines_that_would_mix_or_forget_memory_are_refused(settings: dict, specs: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_engine(engine(**settings), specs)
    check_engine(engine(), [FULL])
