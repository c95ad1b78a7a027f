"""Unpack a GGUF file once into Hugging Face folders: one with weights, config and tokenizer, one with the tokenizer.

A GGUF file cannot be trained as it is, and dequantising takes a while. Therefore the first use unpacks the file into a
cache folder, and later uses find this folder. transformers converts the vocabulary; this module corrects what
transformers leaves out or gets wrong: which tokens begin, end and pad a text, and how SmolLM splits digits.
"""

import hashlib
import importlib.util
import logging
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from filelock import FileLock
from tokenizers import Tokenizer, decoders, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
)

from beacon_lit.arch.checkpoint.gguf_file import GgufFile
from beacon_lit.arch.checkpoint.gguf_weights import ARCHITECTURES, fill, gguf_config

log = logging.getLogger(__name__)

_TOKENIZER = "tokenizer"  # in the name of a cached folder, in place of a dtype
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
            rounds by up to 0.4 %, as much as a step of an 8-bit quantisation. Each dtype has a folder of its own.

    Returns:
        The model's folder inside `folder`.

    Raises:
        ValueError: the file is missing or damaged, has another architecture or RoPE scaling, or lacks a weight.
        ModuleNotFoundError: the package `gguf` is not installed.
    """
    path, tokenizer = Path(path).expanduser(), gguf_tokenizer(path, folder)
    target = _target(path, folder, str(dtype).removeprefix("torch."))
    return build_once(target, lambda partial: _unpack(path, partial, dtype, tokenizer))


def gguf_tokenizer(path: str | Path, folder: str | Path | None = None) -> Path:
    """Convert a GGUF file's tokenizer into a folder that `from_pretrained` of a tokenizer reads, without the weights.

    Args:
        path, folder: see `convert_gguf`, also for errors.

    Returns:
        The tokenizer's folder inside `folder`.
    """
    path = Path(path).expanduser()
    return build_once(
        _target(path, folder, _TOKENIZER), lambda partial: _tokenizer(_read_header(path)).save_pretrained(partial)
    )


def unpacked_here(path: str) -> str:
    """Find a model that was unpacked on another machine.

    Args:
        path: a hub id or a folder, such as the name of a backbone in the settings of beacons.

    Returns:
        If `path` is a missing folder, the folder of the same name in `cache_folder()`, or else the same model in
        another dtype; `path` if there is none. Equal names mean equal content, see `convert_gguf`.
    """
    if not Path(path).is_absolute() or Path(path).exists():
        return path
    stem, _, rest = Path(path).name.rpartition("-v")[0].rpartition("-")
    stem = stem.rpartition("-")[0]
    others = [f"{stem}-{dtype}-{rest}-v{_FORMAT}" for dtype in ("float32", "bfloat16", "float16")]
    found = (cache_folder() / name for name in (Path(path).name, *others))
    return next((str(folder) for folder in found if folder.is_dir()), path)


def _target(path: Path, folder: str | Path | None, part: str) -> Path:
    """Return the folder in the cache for a part of a file: the tokenizer, or the weights in a dtype."""
    if not path.is_file():
        raise ValueError(f"no such GGUF file: {path}; allowed: the path of an existing .gguf file")
    stat = path.stat()
    name = f"{path.stem}-{part}-{_content(path, stat.st_size, stat.st_mtime_ns)}-v{_FORMAT}"
    return (Path(folder) if folder is not None else cache_folder()) / name


@cache
def _content(path: Path, size: int, modified: int) -> str:
    """Return the start of the hash of a file's content. Size and time of the last change are part of the key."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


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


def _unpack(path: Path, folder: Path, dtype: torch.dtype, tokenizer_folder: Path) -> None:
    log.info("unpacking %s into %s (once)", path.name, folder.parent)
    header = _read_header(path)
    config, tokenizer = gguf_config(header), PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, getattr(tokenizer, name))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    fill(model, header, dtype)
    model.save_pretrained(folder)
    shutil.copytree(tokenizer_folder, folder, dirs_exist_ok=True)


def _read_header(path: Path) -> GgufFile:
    """Return the file's header, and refuse a file that cannot be used, before any weight is read."""
    if importlib.util.find_spec("gguf") is None:
        raise ModuleNotFoundError(f"reading {path.name} needs the package gguf: pip install 'beacon_lit[demo]'")
    header = GgufFile.read(path)
    try:
        architecture, tokens = (header.metadata[name] for name in ("general.architecture", "tokenizer.ggml.tokens"))
    except KeyError as error:
        raise ValueError(f"{path} is not a whole GGUF model file (no {error})") from error
    if architecture not in ARCHITECTURES:
        raise ValueError(f"{path} has architecture {architecture!r}; allowed: {', '.join(ARCHITECTURES)}")
    scaling = header.metadata.get(f"{architecture}.rope.scaling.type", "none")
    # llama.cpp stores the RoPE scaling of Llama 3 and Phi-3 as tensors of factors, without a name.
    factors = {"rope_freqs.weight": "llama3", "rope_factors_long.weight": "longrope"}
    found = [kind for name, kind in factors.items() if name in header.tensors]
    if architecture == "gemma3" and scaling == "linear":
        scaling = "none"  # as in transformers
    if scaling != "none" or found:
        raise ValueError(
            f"{path} scales RoPE ({found[0] if scaling == 'none' else scaling}), in llama.cpp's own way; "
            f"allowed: the model's folder with safetensors"
        )
    log.debug("%s: %s, %d tokens, %d tensors", path.name, architecture, len(tokens), len(header.tensors))
    return header


def _tokenizer(header: GgufFile) -> PreTrainedTokenizerFast:
    """Return the file's tokenizer, with the special tokens that the metadata names; without a pad token, eos pads."""
    path, metadata = header.path, header.metadata

    def token(name: str) -> str | None:
        number = metadata.get(f"tokenizer.ggml.{name}_token_id")
        return None if number is None else metadata["tokenizer.ggml.tokens"][number]

    special = {
        "bos_token": token("bos"),
        "eos_token": token("eos"),
        "unk_token": token("unknown"),
        "pad_token": token("padding") or token("eos"),
    }
    backend, expected = _backend(path, special), len(metadata["tokenizer.ggml.tokens"])
    found = backend.get_vocab_size()
    if found != expected:  # older versions of transformers take every Phi-3 for the first one
        raise ValueError(
            f"{path} has {expected} tokens, of which this version of transformers makes {found}; allowed: a newer "
            f"version, or the model's folder with safetensors"
        )
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
        **special,
        add_bos_token=metadata.get("tokenizer.ggml.add_bos_token", begins),
        add_eos_token=metadata.get("tokenizer.ggml.add_eos_token", False),
        chat_template=metadata.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
    )


def _backend(path: Path, special: dict[str, str | None]) -> Tokenizer:
    """Let transformers convert the file's tokenizer. 5.17 adds tokens of its own unless it is told the special ones."""
    try:
        # Not AutoTokenizer, which first reads the whole file for its config; the result is the same.
        return PreTrainedTokenizerFast.from_pretrained(path.parent, gguf_file=path.name, **special).backend_tokenizer
    except AttributeError as error:  # transformers 5.17 expects all that the first Phi-3 has
        raise ValueError(
            f"this version of transformers cannot convert the tokenizer of {path} ({error}); allowed: a newer version, "
            f"or the model's folder with safetensors"
        ) from error
