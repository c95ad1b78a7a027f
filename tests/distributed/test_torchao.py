"""Beacons are trained on a backbone that torchao quantises, by one process and by two ranks."""

from pathlib import Path

from hydra.utils import instantiate

from beacon_lit import BeaconLM
from beacon_lit.arch.nn.packed import is_packed
from beacon_lit.cli.train import train
from tests.configs import composed
from tests.distributed.runs import check_same_training, overrides, torchrun

INT8 = (
    "+model.backbone.quantization_config={_target_: transformers.TorchAoConfig,"
    " quant_type: {_target_: torchao.quantization.Int8WeightOnlyConfig}}"
)


def test_two_ranks_train_what_one_does(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    train(composed("train", *overrides("cpu", *inputs, one), INT8, "trainer.accumulate_grad_batches=4"))
    torchrun(2, *overrides("ddp", *inputs, two), INT8)
    check_same_training(two, one)
    lm = instantiate(composed("train", *overrides("cpu", *inputs, tmp_path), INT8).model.backbone)
    assert sum(map(is_packed, lm.parameters())) == 7 * len(lm.model.layers)
    trained = BeaconLM.from_pretrained(one / "beacons")  # on the backbone as it is
    assert not any(map(is_packed, trained.parameters()))
