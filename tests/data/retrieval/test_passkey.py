import random

import pytest

from beacon_lit.data.retrieval.passkey import passkey_sample
from tests.evaluation.fakes import byte_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.mark.parametrize("length", [240, 256, 257, 999])
@pytest.mark.parametrize("depth", [0, 33.3, 100])
def test_the_prompt_is_exact_to_the_token(tokenizer, length, depth):
    sample = passkey_sample(tokenizer, length, depth)
    text = tokenizer.decode(sample.ids)
    assert sample.length == length == len(sample.ids) - len(sample.answer)
    assert tokenizer.decode(sample.answer) == sample.key
    assert text.endswith(f"The pass key is {sample.key}")
    assert tokenizer.decode(sample.ids[sample.position :]).lstrip("\n").startswith(f"The pass key is {sample.key}.")
    assert text.count(sample.key) == 3
    assert len(sample.key) == 5 and sample.key.isdigit()


def test_depth_places_the_key_among_the_filler(tokenizer):
    start, middle, end = (passkey_sample(tokenizer, 601, depth).position for depth in (0, 50, 100))
    assert middle - start == (end - start) // 2
    assert tokenizer.decode(passkey_sample(tokenizer, 601, 0).ids[:start]).endswith("at the end.\n\n")
    after = tokenizer.decode(passkey_sample(tokenizer, 601, 100).ids[end:])
    assert "river" not in after and "river" in tokenizer.decode(passkey_sample(tokenizer, 601, 50).ids[middle:])


def test_a_prefix_counts_as_part_of_the_prompt(tokenizer):
    sample = passkey_sample(tokenizer, 300, 50, prefix=[tokenizer.bos_token_id])
    assert sample.ids[0] == tokenizer.bos_token_id
    assert sample.length == 300 and tokenizer.decode(sample.answer) == sample.key


def test_keys_follow_the_seed_and_touch_no_random_state(tokenizer):
    before = random.getstate()
    same = {passkey_sample(tokenizer, 300, 50, seed=1).key for _ in range(3)}
    other = {passkey_sample(tokenizer, 300, 50, seed=1, index=index).key for index in range(20)}
    assert len(same) == 1 and len(other) > 15
    assert passkey_sample(tokenizer, 300, 50, seed=2).key not in same
    assert passkey_sample(tokenizer, 300, 50.0, seed=1).key in same
    assert random.getstate() == before


def test_bad_settings_are_named(tokenizer):
    with pytest.raises(ValueError, match=r"depth=101 must be between 0 and 100"):
        passkey_sample(tokenizer, 300, 101)
    with pytest.raises(ValueError, match=r"length=20 is too short for a passkey prompt; must be at least \d+") as error:
        passkey_sample(tokenizer, 20, 0)
    shortest = int(str(error.value).split("at least ")[1].split()[0])
    assert len(passkey_sample(tokenizer, shortest, 50).ids) == shortest + 5
    with pytest.raises(ValueError, match="length"):
        passkey_sample(tokenizer, shortest - 1, 50)
