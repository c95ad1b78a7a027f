"""Models whose parameters are spread over ranks read into caches and generate as whole ones do, in training, too."""

from pathlib import Path
from typing import Any

import pytest
import torch

from beacon_lit import BeaconCache, BeaconLM
from tests.configs import small_backbone, small_text
from tests.distributed.generating import OPTIONS, generating, ids, sampled, texts
from tests.distributed.runs import beacons, losses, overrides, torchrun

STRATEGIES = ["ddp", "deepspeed_stage2", "deepspeed_stage3", "fsdp2"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    return small_backbone(folder / "backbone"), small_text(folder / "text.jsonl", 40)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_generating_on_the_way_disturbs_nothing_and_gives_what_a_whole_model_does(
    strategy: str, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    plain, watched = tmp_path / "plain", tmp_path / "watched"
    random = ["ratio=[2,4,8]", "beacon.ratio_policy=random"]
    torchrun(2, *overrides(strategy, *inputs, plain), *random)
    torchrun(2, *overrides(strategy, *inputs, watched), *random, *generating(watched / "texts"))
    assert losses(watched) == losses(plain)
    own, theirs = beacons(watched), beacons(plain)
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[name], theirs[name]) for name in own)

    lm = BeaconLM.from_pretrained(str(watched / "beacons"), dtype=torch.float32).eval()
    expected = texts(lm, tmp_path / "whole.cache")
    for rank in range(2):
        found: dict[str, Any] = torch.load(watched / "texts" / f"rank-{rank}.pt")
        for name, values in expected.items():
            assert torch.equal(found[name], values), name
        assert not found["drew"]
        if rank == 0:
            torch.set_rng_state(found["state"])
            drawn = sampled(lm)
        assert torch.equal(found["sampled"], drawn) or strategy in ("ddp", "deepspeed_stage2")
        cache = BeaconCache.load(watched / "texts" / f"rank-{rank}.cache")  # refused if it is another model's
        text = lm.generate(ids(1, 20, seed=2), cache=cache, do_sample=False, **OPTIONS)
        assert torch.equal(text, expected["from a cache"])
