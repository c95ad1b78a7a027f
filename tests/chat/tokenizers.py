"""Tokenizers of several kinds, trained on a few lines, and chat templates that treat earlier turns differently."""

from functools import cache
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from beacon_lit.demo import smollm2
from beacon_lit.tiny import CHAT_TEMPLATE as CHATML

LINES = [
    "The quick brown fox jumps over the lazy dog, while seven wizards boil 1234 eggs.",
    "Don't stop! It's café time:\n\n\tthere are 99 bottles   of beer; nobody's counting...",
    "<think>\nhm, what\n</think>\n\nYes. user assistant system [INST] [/INST] << SYS >>\n",
] * 3
WORDS = r" ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+\n*|\s*\n+|\s+(?!\S)|\s+"

# Reasoning stays in the last answer alone, and what opens an answer is not what stands there later.
REASONING = (
    "{%- set ns = namespace(last=-1) %}{%- for m in messages %}{%- if m.role == 'user' %}"
    "{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for m in messages %}{%- set content = m.content %}"
    "{%- if m.role == 'assistant' and loop.index0 < ns.last and '</think>' in content %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{{- '<|im_start|>' + m.role + '\n' + content + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n<think>\n\n</think>\n\n' }}{%- endif %}"
)
# Contents are stripped, and the system message is part of the first turn.
INST = (
    "{%- if messages[0].role == 'system' %}{%- set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
    "{%- set turns = messages[1:] %}{%- else %}{%- set system = '' %}{%- set turns = messages %}{%- endif %}"
    "{%- for m in turns %}{%- if m.role == 'user' %}"
    "{{- '<|im_start|>[INST] ' + (system if loop.first else '') + m.content.strip() + ' [/INST]' }}"
    "{%- else %}{{- ' ' + m.content.strip() + ' <|im_end|>' }}{%- endif %}{%- endfor %}"
)
# The system message moves to the last turn of the user's, so that everything shifts.
MOVING = (
    "{%- set ns = namespace(last=-1, system='') %}{%- for m in messages %}{%- if m.role == 'user' %}"
    "{%- set ns.last = loop.index0 %}{%- elif m.role == 'system' %}{%- set ns.system = m.content + '\n' %}{%- endif %}"
    "{%- endfor %}{%- for m in messages %}{%- if m.role != 'system' %}"
    "{{- '<|im_start|>' + (ns.system if loop.index0 == ns.last else '') + m.content + '<|im_end|>' }}{%- endif %}"
    "{%- endfor %}"
)
TEMPLATES = {"chatml": CHATML, "reasoning": REASONING, "inst": INST, "moving": MOVING}


def words() -> Tokenizer:
    """Byte-level BPE within the words of a regular expression, after NFC."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(WORDS), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return _trained(tokenizer, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def metaspace() -> Tokenizer:
    """BPE over whole texts, spaces among the letters, as SentencePiece does it: no words at all."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _trained(
        tokenizer, special_tokens=["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))], max_token_length=9
    )


def metaspace_words() -> Tokenizer:
    """BPE within words that begin with a space; the first of a text gets one."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    return _trained(tokenizer, special_tokens=["<unk>"])


def prefixed() -> Tokenizer:
    """Byte-level BPE that puts a space before a text that has none."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    return _trained(tokenizer, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def _trained(tokenizer: Tokenizer, **options: Any) -> Tokenizer:
    options.setdefault("special_tokens", [])
    trainer = trainers.BpeTrainer(vocab_size=640, show_progress=False, **options)
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


@cache
def tokenizer(kind: str) -> Any:
    """A tokenizer by name, with ChatML's markers as special tokens."""
    if kind == "smollm2":
        return AutoTokenizer.from_pretrained(smollm2())
    backend = {"words": words, "metaspace": metaspace, "metaspace_words": metaspace_words, "prefixed": prefixed}[kind]()
    backend.add_special_tokens([AddedToken(name, normalized=False) for name in ("<|im_start|>", "<|im_end|>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=CHATML,
    )


KINDS = ("words", "prefixed", "metaspace", "metaspace_words", "smollm2")
