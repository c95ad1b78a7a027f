"""Every family trains on two ranks what it trains on one, spread by FSDP2, which gathers each layer by itself."""

from pathlib import Path

import pytest
import torch

from beacon_lit.cli.train import train
from beacon_lit.tiny import byte_tokenizer
from tests.arch.tiny import ALL, DENSE, hf_config
from tests.configs import composed
from tests.distributed.in_turn import SCRIPT, THEN
from tests.distributed.runs import check_same_training, overrides, torchrun

SIZES = {"vocab_size": 264, "max_position_embeddings": 2048, "bos_token_id": 256, "eos_token_id": 257}
ONCE = ["trainer.accumulate_grad_batches=1", "trainer.max_steps=2"]
FAMILIES = ALL[1:]  # test_strategies has the first


@pytest.fixture(scope="module")
def spread(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of each family: its backbone, and "spread", its run on two ranks, which train all in turn."""
    folder = tmp_path_factory.mktemp("families")
    runs: list[str] = []
    for family in FAMILIES:
        torch.manual_seed(0)
        backbone = folder / family / "backbone"
        DENSE[family](hf_config(family, **SIZES)).save_pretrained(backbone)
        byte_tokenizer().save_pretrained(backbone)
        runs += [THEN, *overrides("fsdp2", backbone, inputs[1], folder / family / "spread"), *ONCE]
    torchrun(2, *runs[1:], script=SCRIPT)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_two_ranks_train_what_one_does(family: str, spread: Path, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    settings = [*overrides("cpu", spread / family / "backbone", inputs[1], tmp_path), *ONCE]
    train(composed("train", *settings, "trainer.accumulate_grad_batches=2"))
    check_same_training(spread / family / "spread", tmp_path, steps=2)
