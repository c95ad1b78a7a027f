"""GGUF files, unpacked once into a Hugging Face folder (safetensors, config, tokenizer).

A GGUF file cannot be trained on as it is, and reading it takes tens of seconds, so the first use of a file unpacks it
into a cache folder and later uses find that folder. transformers does the reading; what it leaves out or gets wrong
is put right here: which tokens begin, end and pad a text, how SmolLM splits digits, RoPE scaling it would drop.
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
_FORMAT = 1  # part of every cached folder's name: raise it when the folders' content changes


def cache_folder() -> Path:
    """Where unpacked models are kept: `$BEACON_CACHE`, else `~/.cache/beacon_lit`. It may not exist yet."""
    return Path(os.environ.get("BEACON_CACHE") or "~/.cache/beacon_lit").expanduser()


def convert_gguf(path: str | Path, folder: str | Path | None = None, dtype: torch.dtype = torch.float32) -> Path:
    """Unpack a GGUF file into a folder that `from_pretrained` of a model or tokenizer reads.

    The folder is found again by the file's content, so moving or reinstalling the file costs nothing.
    It appears whole or not at all, and two processes that ask at once share one conversion.

    Args:
        path: the `.gguf` file, of architecture llama, mistral, qwen2 or qwen3; quantised or not.
        folder: the cache in which the model's own folder is made (default: `cache_folder()`).
        dtype: what the weights are stored in. float32 (the default) holds the unpacked values as the file means them;
            bfloat16 halves the folder but rounds by up to 0.4 %, of the order of an 8-bit quantisation's own steps.

    Returns:
        the model's folder inside `folder`.

    Raises:
        ValueError: the file is missing, damaged, of another architecture, or has RoPE scaling.
        ModuleNotFoundError: `gguf` or `accelerate`, which transformers needs to read GGUF files, is not installed.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"no such GGUF file: {path}; give the path of an existing .gguf file")
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    name = f"{path.stem}-{str(dtype).removeprefix('torch.')}-{content[:16]}-v{_FORMAT}"
    target = (Path(folder) if folder is not None else cache_folder()) / name
    return build_once(target, lambda partial: _unpack(path, partial, dtype))


def unpacked_here(path: str) -> str:
    """`path`, or, if it names a folder that is not there, the one of this name in `cache_folder()`: a model unpacked on
    another machine is found on this one. The name tells what was in the file."""
    own = cache_folder() / Path(path).name
    elsewhere = Path(path).is_absolute() and not Path(path).exists()
    return str(own) if elsewhere and own.is_dir() else path


def build_once(target: Path, build: Callable[[Path], None]) -> Path:
    """Make the folder `target` with `build(folder)`, unless it is there already.

    `build` fills a folder beside `target` that is renamed at the very end, under a lock that dies with its process.
    So a process killed half-way leaves no `target`, and the next one clears away what it left.
    """
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    with FileLock(target.with_name(f".{target.name}.lock")):
        if not target.is_dir():  # another process may have made it while this one waited
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
            "or the extra that brings both: pip install 'beacon_lit[demo]'"
        )
    log.info("unpacking %s into %s (once)", path.name, folder.parent)
    metadata = _read_metadata(path)
    tokenizer = _tokenizer(path, metadata)
    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    if head_dim := metadata.get(f"{metadata['general.architecture']}.attention.key_length"):
        config.head_dim = head_dim  # transformers takes 128 for every Qwen3
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
    """The file's key-value pairs. Damage and whatever we cannot represent is found here, before any weight is read."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
        architecture, tokens = metadata["general.architecture"], metadata["tokenizer.ggml.tokens"]
    except Exception as error:  # the reader trusts the file, so a damaged one raises anything, OverflowError included
        raise ValueError(f"{path} is not a whole GGUF model file ({type(error).__name__}: {error})") from error
    if architecture not in ARCHITECTURES:
        raise ValueError(f"{path} has architecture {architecture!r}; supported are {', '.join(ARCHITECTURES)}")
    scaling = metadata.get(f"{architecture}.rope.scaling.type", "none")
    # llama.cpp stores Llama 3's RoPE scaling as a tensor of factors instead of naming it
    if scaling != "none" or any(tensor.name == "rope_freqs.weight" for tensor in reader.tensors):
        raise ValueError(
            f"{path} scales RoPE ({'llama3' if scaling == 'none' else scaling}), which is lost when transformers reads "
            "a GGUF file; load the model's safetensors folder instead"
        )
    log.debug("%s: %s, %d tokens, %d tensors", path.name, architecture, len(tokens), len(reader.tensors))
    return metadata


def _tokenizer(path: Path, metadata: dict[str, Any]) -> PreTrainedTokenizerFast:
    """The file's tokenizer, with the special tokens that its metadata names (pad falls back to eos)."""

    def token(name: str) -> str | None:
        number = metadata.get(f"tokenizer.ggml.{name}_token_id")
        return None if number is None else metadata["tokenizer.ggml.tokens"][number]

    backend: Tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).backend_tokenizer
    if metadata.get("tokenizer.ggml.model") == "gpt2":
        backend.decoder = decoders.ByteLevel()  # transformers 5.17 adds steps that eat a leading space
    if metadata.get("tokenizer.ggml.pre") == "smollm":
        # transformers has no entry for it; without this, spaces before a digit are cut unlike in the model's training
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    # files that do not say: llama.cpp begins with bos for SentencePiece vocabularies (Llama 2, Mistral) and Llama 3's
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
