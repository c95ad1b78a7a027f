"""Unpack a GGUF file once into a Hugging Face folder (safetensors, config, tokenizer).

A GGUF file cannot be trained as it is, and reading the file takes tens of seconds. Therefore the first use unpacks the
file into a cache folder, and later uses find this folder. The reading is done by transformers, and this module corrects
what transformers leaves out or gets wrong: which tokens begin, end and pad a text, how SmolLM splits digits, and RoPE
scaling, which would be dropped.
"""

import hashlib
import importlib.util
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from tokenizers import Tokenizer, decoders, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils.quantization_config import GgufConfig

log = logging.getLogger(__name__)

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")  # as `general.architecture` spells them
_FORMAT = 1  # part of the name of a cached folder; raise the number when the content of folders changes


def cache_folder() -> Path:
    """Return the folder of unpacked models, `$BEACON_CACHE`, else `~/.cache/beacon_lit`, which may not exist yet."""
    return Path(os.environ.get("BEACON_CACHE") or "~/.cache/beacon_lit").expanduser()


def convert_gguf(path: str | Path, folder: str | Path | None = None, dtype: torch.dtype = torch.float32) -> Path:
    """Unpack a GGUF file into a folder that `from_pretrained` of a model or tokenizer reads.

    The folder is named by the file's content, so that a moved or reinstalled file finds the same folder. Two processes
    that convert a file at once share one conversion; see `build_once`.

    Args:
        path: a `.gguf` file, quantised or not, of an architecture in `ARCHITECTURES`.
        folder: the cache in which the model's folder is made; default: `cache_folder()`.
        dtype: dtype of the stored weights. float32 (the default) keeps the exact values; bfloat16 halves the folder and
            rounds by up to 0.4 %, as much as a step of an 8-bit quantisation.

    Returns:
        The model's folder inside `folder`.

    Raises:
        ValueError: the file is missing or damaged, or has another architecture or RoPE scaling.
        ModuleNotFoundError: `gguf` or `accelerate` is not installed; transformers needs both to read GGUF files.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"no such GGUF file: {path}; allowed: the path of an existing .gguf file")
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    name = f"{path.stem}-{str(dtype).removeprefix('torch.')}-{content[:16]}-v{_FORMAT}"
    target = (Path(folder) if folder is not None else cache_folder()) / name
    return build_once(target, lambda partial: _unpack(path, partial, dtype))


def unpacked_here(path: str) -> str:
    """Find a model that was unpacked on another machine.

    Args:
        path: a hub id or a folder, such as the name of a backbone in the settings of beacons.

    Returns:
        The folder of the same name in `cache_folder()`, if `path` is a missing folder and this one exists; else `path`.
        Equal names mean equal content, see `convert_gguf`.
    """
    own = cache_folder() / Path(path).name
    missing = Path(path).is_absolute() and not Path(path).exists()
    return str(own) if missing and own.is_dir() else path


def build_once(target: Path, build: Callable[[Path], None]) -> Path:
    """Make a folder, unless the folder exists; several processes may call this at once.

    The folder appears when it is complete: `build` fills a temporary folder, which is renamed at the end, under a lock
    that the operating system releases when the process ends. The next call deletes what a killed process left.

    Args:
        target: the folder.
        build: called with an empty folder to fill.

    Returns:
        `target`.
    """
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    with FileLock(target.with_name(f".{target.name}.lock")):
        if not target.is_dir():  # another process may have made the folder while this one waited
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                build(partial)
                partial.rename(target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return target


def _unpack(path: Path, folder: Path, dtype: torch.dtype) -> None:
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"reading {path.name} needs {' and '.join(missing)}: pip install {' '.join(missing)}, "
            "or both with pip install 'beacon_lit[demo]'"
        )
    log.info("unpacking %s into %s (once)", path.name, folder.parent)
    metadata = _read_metadata(path)
    tokenizer = _tokenizer(path, metadata)
    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    if head_dim := metadata.get(f"{metadata['general.architecture']}.attention.key_length"):
        config.head_dim = head_dim  # transformers sets 128 for every Qwen3
    model = AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        config=config,
        quantization_config=GgufConfig(dequantize=True),
        dtype=dtype,
    )
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(model.config, name, getattr(tokenizer, name))
        setattr(model.generation_config, name, getattr(tokenizer, name))
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def _read_metadata(path: Path) -> dict[str, Any]:
    """Return the file's key-value pairs, and refuse a file that cannot be used, before any weight is read."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
        architecture, tokens = metadata["general.architecture"], metadata["tokenizer.ggml.tokens"]
    except Exception as error:  # a damaged file raises errors of any kind, even OverflowError
        raise ValueError(f"{path} is not a whole GGUF model file ({type(error).__name__}: {error})") from error
    if architecture not in ARCHITECTURES:
        raise ValueError(f"{path} has architecture {architecture!r}; allowed: {', '.join(ARCHITECTURES)}")
    scaling = metadata.get(f"{architecture}.rope.scaling.type", "none")
    # llama.cpp stores Llama 3's RoPE scaling as a tensor of factors, without a name.
    if scaling != "none" or any(tensor.name == "rope_freqs.weight" for tensor in reader.tensors):
        raise ValueError(
            f"{path} scales RoPE ({'llama3' if scaling == 'none' else scaling}), which transformers ignores when it "
            "reads a GGUF file; allowed: the model's folder with safetensors"
        )
    log.debug("%s: %s, %d tokens, %d tensors", path.name, architecture, len(tokens), len(reader.tensors))
    return metadata


def _tokenizer(path: Path, metadata: dict[str, Any]) -> PreTrainedTokenizerFast:
    """Return the file's tokenizer, with the special tokens that the metadata names; without a pad token, eos pads."""

    def token(name: str) -> str | None:
        number = metadata.get(f"tokenizer.ggml.{name}_token_id")
        return None if number is None else metadata["tokenizer.ggml.tokens"][number]

    backend: Tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).backend_tokenizer
    if metadata.get("tokenizer.ggml.model") == "gpt2":
        backend.decoder = decoders.ByteLevel()  # transformers 5.17 adds steps that drop a leading space
    if metadata.get("tokenizer.ggml.pre") == "smollm":
        # transformers does not know this value. Without these steps, spaces before digits would be split differently
        # than in the model's training.
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    # Where a file does not say, llama.cpp begins texts with bos for SentencePiece vocabularies (Llama 2, Mistral) and
    # for Llama 3's.
    begins = metadata.get("tokenizer.ggml.model") == "llama" or metadata.get("tokenizer.ggml.pre") == "llama-bpe"
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=token("bos"),
        eos_token=token("eos"),
        unk_token=token("unknown"),
        pad_token=token("padding") or token("eos"),
        add_bos_token=metadata.get("tokenizer.ggml.add_bos_token", begins),
        add_eos_token=metadata.get("tokenizer.ggml.add_eos_token", False),
        chat_template=metadata.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
    )
