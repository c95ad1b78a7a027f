"""Write the inputs of the runs: a backbone with random weights, and documents of given lengths."""

import copy
import json
import random
from pathlib import Path

import torch
from accelerate import init_empty_weights
from safetensors.torch import save_file
from transformers import Qwen2ForCausalLM

from beacon_lit.tiny import byte_tokenizer
from benchmarks.shapes import SHAPES

FILE_BYTES = 2**30


def write_backbone(shape: str, folder: Path) -> Path:
    """Write a Hugging Face folder with bf16 weights in files of about a GiB, unless it exists."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(SHAPES[shape])
    config.dtype = "bfloat16"
    with init_empty_weights():
        names = {name: value.shape for name, value in Qwen2ForCausalLM(config).named_parameters()}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where, part, size = {}, {}, 0
    for number, (name, wanted) in enumerate(names.items()):
        value = torch.randn(wanted, device=device, dtype=torch.bfloat16) * 0.02
        part[name] = (value + 1 if "norm" in name else value).cpu()
        size += part[name].nbytes
        if size > FILE_BYTES or number == len(names) - 1:
            file = f"model-{len(set(where.values())):05d}.safetensors"
            save_file(part, folder / file, metadata={"format": "pt"})
            where |= dict.fromkeys(part, file)
            part, size = {}, 0
    config.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def write_text(lengths: list[int], file: Path, documents: int = 64) -> Path:
    """Write JSON lines of random letters; a document has the given number of tokens, including its EOS token."""
    rng = random.Random(0)
    with file.open("w") as out:
        for number in range(documents):
            length = lengths[number % len(lengths)]
            out.write(json.dumps({"id": str(number), "text": "".join(rng.choices("abcdefgh ", k=length - 1))}) + "\n")
    return file
