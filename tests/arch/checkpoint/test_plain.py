"""The backbone alone in a folder, as programs without beacons read it."""

from itertools import product
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from beacon_lit import BeaconConfig, BeaconLM
from tests.arch.checkpoint.test_adapter import adapted, fill
from tests.arch.folders import IDS
from tests.arch.quantizer import RowsConfig
from tests.arch.tiny import DENSE, FAMILIES, OTHERS, attention_of, tiny


@pytest.mark.parametrize(("family", "tied"), [*product(FAMILIES, [False, True]), *product(OTHERS, [False])])
@torch.no_grad()
def test_the_folder_is_the_dense_model(family: str, tied: bool, tmp_path: Path) -> None:
    lm = tiny(family, tie_word_embeddings=tied).eval()
    lm.save_backbone(tmp_path / "new" / "folder")
    options = {"dtype": "auto", "attn_implementation": attention_of(lm)}
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "new" / "folder", **options).eval()
    assert type(plain) is DENSE[family]
    assert not hasattr(plain.config, "beacon") and not [name for name in plain.state_dict() if "beacon" in name]
    assert torch.equal(plain(IDS).logits, lm.dense(IDS).logits)


def test_weights_keep_their_dtype(tmp_path: Path) -> None:
    lm = tiny(dtype=torch.bfloat16)
    lm.save_backbone(tmp_path)
    weights = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto").state_dict()
    assert all(torch.equal(value, lm.state_dict()[name]) for name, value in weights.items())


@torch.no_grad()
def test_an_adapter_is_left_out(tmp_path: Path) -> None:
    lm = fill(adapted(tiny())).eval()
    assert not torch.equal(lm.dense(IDS).logits, lm(IDS, ratios=2).logits)
    lm.save_backbone(tmp_path)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path)(IDS).logits, lm.dense(IDS).logits)


def test_a_quantised_backbone_is_refused(tmp_path: Path) -> None:
    tiny().save_backbone(tmp_path / "plain")
    config = BeaconConfig(window=8, ratios=2, placement="interleave")
    packed = BeaconLM.from_pretrained(str(tmp_path / "plain"), config, quantization_config=RowsConfig())
    with pytest.raises(ValueError, match=r"quantization_config=.* is not allowed to write the backbone; allowed: none"):
        packed.save_backbone(tmp_path / "packed")
