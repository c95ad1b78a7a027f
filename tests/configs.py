"""Compose the real configs, shrunk to a model and data of seconds."""

import json
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from transformers import LlamaConfig, LlamaForCausalLM

from beacon_lit.tiny import byte_tokenizer

ROOT = Path(__file__).parents[1]
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "seven", "wizards", "boil"]


def composed(name: str, *overrides: str) -> DictConfig:
    """conf/NAME.yaml with overrides as typed on the command line."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(name, overrides=list(overrides))


def small_backbone(folder: Path, seed: int = 0) -> Path:
    """A Llama of random weights over bytes, with its tokenizer, as a Hugging Face folder."""
    config = LlamaConfig(
        vocab_size=258, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, initializer_range=0.2, bos_token_id=256, eos_token_id=257,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # rounding decides between tokens of some weights, and not of seed 0
        LlamaForCausalLM(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def small_text(file: Path, documents: int = 12) -> Path:
    """JSON lines of made-up text, about 600 bytes each."""
    with file.open("w") as out:
        for i in range(documents):
            words = [WORDS[(i * 7 + j * (i + 3)) % len(WORDS)] for j in range(120)]
            out.write(json.dumps({"id": str(i), "text": " ".join(words)}) + "\n")
    return file


def small_model(backbone: Path, window: int = 64) -> list[str]:
    """Overrides that choose a small backbone, such as `small_backbone`, and small windows."""
    return ["model=llama3", f"model.path={backbone}", "beacon.overlap=0", f"beacon.window={window}"]


def small_run(backbone: Path, text: Path, folder: Path) -> list[str]:
    """Overrides of a training run that takes seconds."""
    return [
        *small_model(backbone, 32), "ratio=[2,4]", "data=text", f"data.train=[{text}]", f"data.validation=[{text}]",
        "data.max_length=160", "data.num_workers=0", f"data.cache={folder}/tokens",
        "trainer=cpu", "trainer.max_steps=4", "task.perplexity.length=128", "task.perplexity.max_pieces=2",
        "task.passkey.lengths=[300]", "task.passkey.depths=[50]", f"run_folder={folder}",
    ]  # fmt: skip
