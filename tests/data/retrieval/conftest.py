"""Tokenizers of retrieval samples."""

import pytest
from transformers import PreTrainedTokenizerBase

from beacon_lit.tiny import byte_tokenizer
from tests.evaluation import fakes


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return byte_tokenizer()


@pytest.fixture(scope="module", params=["bytes", "merges"])
def any_tokenizer(request) -> PreTrainedTokenizerBase:
    """One token per byte; or merged ones, with a bos before every text."""
    if request.param == "bytes":
        return byte_tokenizer()
    tokenizer = fakes.byte_tokenizer()
    tokenizer.chat_template = byte_tokenizer().chat_template
    tokenizer.add_special_tokens({"eos_token": "</s>", "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return tokenizer
