"""Every family trains on two ranks what it trains on one, spread by FSDP2, which gathers each layer by itself."""

from pathlib import Path

import pytest
import torch

from beacon_lit.cli.train import train
from beacon_lit.tiny import byte_tokenizer
from tests.arch.tiny import ALL, DENSE, hf_config
from tests.configs import composed
from tests.distributed.runs import check_same_training, overrides, torchrun

SIZES = {"vocab_size": 264, "max_position_embeddings": 2048, "bos_token_id": 256, "eos_token_id": 257}


@pytest.mark.parametrize("family", ALL[1:])  # test_strategies has the first
def test_two_ranks_train_what_one_does(family: str, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone, alone, spread = (tmp_path / name for name in ("backbone", "alone", "spread"))
    DENSE[family](hf_config(family, **SIZES)).save_pretrained(backbone)
    byte_tokenizer().save_pretrained(backbone)
    once = ["trainer.accumulate_grad_batches=1", "trainer.max_steps=2"]
    train(composed("train", *overrides("cpu", backbone, inputs[1], alone), *once, "trainer.accumulate_grad_batches=2"))
    torchrun(2, *overrides("fsdp2", backbone, inputs[1], spread), *once)
    check_same_training(spread, alone, steps=2)
