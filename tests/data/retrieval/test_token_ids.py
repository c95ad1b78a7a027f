"""Token ids are put together without a shift."""

from beacon_lit.data.retrieval.token_ids import insert, tokens_before


def test_statements_are_inserted_in_the_order_of_their_places():
    assert insert([1, 2, 3], [[7], [8, 8], [9]], [2, 0, 2]) == ([8, 8, 1, 2, 7, 9, 3], [4, 0, 5])
    assert insert([], [[7]], [0]) == ([7], [0])


def test_a_blank_stays_with_the_token_that_holds_it(any_tokenizer):
    ids = any_tokenizer("It is 12345", add_special_tokens=False)["input_ids"]
    cut = tokens_before(any_tokenizer, "It is ", ids)
    assert any_tokenizer.decode(ids[cut:]).strip() == "12345"
