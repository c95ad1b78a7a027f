"""A tokenizer without a network: byte-level BPE trained on a few lines, with chat templates of several kinds.

And workers that are forked.
"""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.warm import warm_python

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "[INST]", "[/INST]"]
TEXT = ["the quick brown fox jumps over the lazy dog", "user assistant system\n hello there, how are you? fine!"] * 4


@pytest.fixture(scope="session", autouse=True)
def warm_workers() -> None:
    """Start the processes of multiprocessing in milliseconds."""
    warm_python()


@pytest.fixture(scope="session")
def bpe() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


@pytest.fixture
def tokenizer(bpe: Tokenizer) -> PreTrainedTokenizerFast:
    """Without a chat template, without a padding token, and with nothing put around a text."""
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        bos_token="<|im_start|>",
        additional_special_tokens=["<|endoftext|>", "<s>", "</s>", "[INST]", "[/INST]"],
    )
