"""What is trained besides the beacons is trained by every strategy that can as by one process."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from beacon_lit.cli.train import train
from tests.configs import composed
from tests.distributed.runs import losses, overrides, torchrun

TUNINGS = {"lora": ["tuning=lora", "tuning.lr=1e-2"], "full": ["tuning=full", "tuning.lr=1e-3"]}


@pytest.mark.parametrize(
    ("tuning", "strategy"), [("lora", "deepspeed_stage2"), ("full", "deepspeed_stage3"), ("full", "fsdp2")]
)
def test_two_ranks_train_what_one_does(tuning: str, strategy: str, inputs: tuple[Path, Path], tmp_path: Path) -> None:
    alone, spread = tmp_path / "alone", tmp_path / "spread"
    train(composed("train", *overrides("cpu", *inputs, alone), *TUNINGS[tuning], "trainer.accumulate_grad_batches=4"))
    torchrun(2, *overrides(strategy, *inputs, spread), *TUNINGS[tuning])
    assert_close(losses(spread), losses(alone), rtol=1e-3, atol=0)
    one, two = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for folder in (alone, spread)
    )
    assert one.keys() == two.keys()
    for name in one:
        assert_close(two[name], one[name], rtol=0, atol=2e-3, msg=name)
    assert {str(file.relative_to(alone)) for file in alone.glob("beacons/**/*")} == {
        str(file.relative_to(spread)) for file in spread.glob("beacons/**/*")
    }
