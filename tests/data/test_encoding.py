"""A text starts with what its tokenizer puts before texts, and nothing is put behind it."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest
from tokenizers import processors

from beacon_lit.data.encoding import all_prompt_ids, prompt_ids, start_ids, token_ids
from beacon_lit.data.length_rule import LengthRule
from beacon_lit.data.records import SkippedRecords, Tolerance
from beacon_lit.data.retrieval.drafts import Exchange
from beacon_lit.data.retrieval.prompt_format import plain_format
from beacon_lit.data.tokenize import make_samples
from tests.data import families

ROOT = Path(__file__).parents[2] / "beacon_lit"
# What the tokenizer writes around a text, by name: $A is the text.
AROUND = {"nothing": "$A", "bos": "<s> $A", "eos": "$A </s>", "both": "<s> $A </s>", "one token for both": "<s> $A <s>"}
STARTS = {"nothing": [], "bos": ["<s>"], "eos": [], "both": ["<s>"], "one token for both": ["<s>"]}


def made(around: str):
    tokenizer = families.llama_2()
    special = [("<s>", 1), ("</s>", 2)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(around, special_tokens=special)
    if around.endswith("<s>"):
        tokenizer.eos_token = "<s>"
    return tokenizer


@pytest.mark.parametrize("name", AROUND)
def test_a_text_has_its_start_once_and_no_end(name: str) -> None:
    tokenizer = made(AROUND[name])
    start = tokenizer.convert_tokens_to_ids(STARTS[name])
    words = token_ids(tokenizer, "Hi there")
    assert tokenizer.convert_ids_to_tokens(words) == ["▁Hi", "▁there"]
    assert start_ids(tokenizer) == start
    assert prompt_ids(tokenizer, "Hi there") == [*start, *words]
    assert prompt_ids(tokenizer, "<s>Hi there")[:2] == [1, words[0]]
    assert all_prompt_ids(tokenizer, ["Hi there", "<s>Hi there"]) == [[*start, *words], [1, *words]]
    assert all_prompt_ids(tokenizer, []) == []


def test_an_end_that_is_the_bos_token_as_well_is_not_a_start() -> None:
    tokenizer = made("$A <s>")
    assert tokenizer("")["input_ids"] == [tokenizer.bos_token_id] and start_ids(tokenizer) == []


@pytest.mark.parametrize("name", AROUND)
def test_training_text_ends_with_one_eos(name: str) -> None:
    tokenizer = made(AROUND[name])
    skipped = SkippedRecords(Tolerance(strict=True), "list", Counter())
    rule = LengthRule(min_length=1, max_length=64, window=1)
    (sample,) = make_samples([{"id": "a", "text": "Hi there"}], tokenizer, rule, skipped)
    words = token_ids(tokenizer, "Hi there")
    start = tokenizer.convert_tokens_to_ids(STARTS[name])
    assert sample.input_ids.tolist() == [*start, *words, tokenizer.eos_token_id]


@pytest.mark.parametrize("name", AROUND)
def test_retrieval_prompts_start_as_texts_do(name: str) -> None:
    tokenizer = made(AROUND[name])
    opening = plain_format(tokenizer).prompt("Hi there", [Exchange("Who?", "It is", "Ada")]).opening
    assert opening == prompt_ids(tokenizer, "Hi there")


def calls_of_tokenizers() -> list[str]:
    """Every call of a tokenizer in the package that lets the tokenizer choose special tokens, by file and line."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            is_call = re.search(r"(^|\.)tokenizer(\.encode)?$", called)
            given = [ast.unparse(keyword.value) for keyword in node.keywords if keyword.arg == "add_special_tokens"]
            if is_call and node.args and given != ["False"]:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    return found


def test_no_other_place_lets_the_tokenizer_choose_special_tokens() -> None:
    assert [place.partition(":")[0] for place in calls_of_tokenizers()] == ["data/encoding.py"]
