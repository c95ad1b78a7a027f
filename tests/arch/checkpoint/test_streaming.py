"""Loading part by part: the same model as loading it whole, whatever spreads the parts."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import nn

from beacon_lit import BeaconLM
from tests.arch.folders import BEACON, assert_same, edit_json, save_backbone, trained
from tests.arch.tiny import EXPERTS, FAMILIES, SLIDING, hf_config


class Parts(list):
    """Stands for a strategy: notes the parts, none of which may hold a parameter that is not there."""

    def __call__(self, part: nn.Module) -> None:
        assert not any(parameter.is_meta for parameter in part.parameters())
        self.append(part)


def both(path: Path, **options) -> tuple[BeaconLM, BeaconLM, Parts]:
    parts = Parts()
    return (
        BeaconLM.from_pretrained(str(path), **options),
        BeaconLM.from_pretrained(str(path), shard=parts, **options),
        parts,
    )


@pytest.mark.parametrize(
    ("family", "tied"), [*product(FAMILIES, [False, True]), *product(("phi3", *SLIDING, *EXPERTS), [False])]
)
def test_a_backbone(family: str, tied: bool, tmp_path: Path) -> None:
    save_backbone(tmp_path, family, dtype=torch.bfloat16, tie_word_embeddings=tied)
    whole, streamed, parts = both(tmp_path, beacon=BEACON, beacon_dtype="float32")
    assert_same(whole, streamed)
    dtypes = {name: value.dtype for name, value in whole.named_parameters()}
    assert dtypes == {name: value.dtype for name, value in streamed.named_parameters()}
    assert len(set(dtypes.values())) == 2
    assert [name for name, value in streamed.named_parameters() if value.requires_grad] == [
        name for name in dtypes if ".beacon_" in name
    ]
    ends = [] if tied else [streamed.model.embed_tokens], [] if tied else [streamed.lm_head]
    assert parts == [*ends[0], *streamed.model.layers, *ends[1], streamed]
    assert (streamed.lm_head.weight is streamed.model.embed_tokens.weight) == tied


@pytest.mark.parametrize("options", [{}, {"dtype": "float32"}, {"beacon_dtype": "auto"}, {"dtype": "auto"}])
def test_beacons_alone_and_whole_models(options: dict, tmp_path: Path) -> None:
    save_backbone(tmp_path / "backbone", dtype=torch.bfloat16)
    beacon = replace(BEACON, overlap=0)  # as published
    lm = trained(tmp_path / "backbone", beacon, beacon_dtype="float32")
    lm.save_pretrained(tmp_path / "beacons")
    lm.save_pretrained(tmp_path / "whole", beacon_only=False, max_shard_size="20KB")
    lm.save_published(tmp_path / "published")
    for folder in ("beacons", "whole", "published"):
        whole, streamed, _ = both(tmp_path / folder, **options)
        assert_same(whole, streamed)
        assert streamed.model.beacon_embed_tokens.weight.dtype == whole.model.beacon_embed_tokens.weight.dtype, folder


def test_random_weights() -> None:
    parts = Parts()
    torch.manual_seed(0)
    whole = BeaconLM.from_config(hf_config("llama"), BEACON)
    torch.manual_seed(0)
    assert_same(whole, BeaconLM.from_config(hf_config("llama"), BEACON, shard=parts))
    assert len(parts) == 3 + len(whole.model.layers)


def test_what_cannot_be_streamed_is_refused(tmp_path: Path) -> None:
    save_backbone(tmp_path / "a")
    with pytest.raises(ValueError, match=r"device_map='cpu' is not allowed where a strategy shards the model"):
        BeaconLM.from_pretrained(str(tmp_path / "a"), BEACON, shard=Parts(), device_map="cpu")
    edit_json(tmp_path / "a" / "config.json", intermediate_size=40)
    with pytest.raises(ValueError, match=r"model.safetensors has .*mlp\.\w+_proj.weight of shape"):
        BeaconLM.from_pretrained(str(tmp_path / "a"), BEACON, shard=Parts())
    edit_json(tmp_path / "a" / "config.json", num_hidden_layers=3, layer_types=["full_attention"] * 3)
    with pytest.raises(ValueError, match=r"lacks \d+ weights of the backbone"):
        BeaconLM.from_pretrained(str(tmp_path / "a"), BEACON, shard=Parts())
    (tmp_path / "a" / "model.safetensors").rename(tmp_path / "a" / "pytorch_model.bin")
    with pytest.raises(ValueError, match="has no safetensors"):
        BeaconLM.from_pretrained(str(tmp_path / "a"), BEACON, shard=Parts())
