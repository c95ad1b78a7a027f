"""Models whose parameters are spread over ranks read into caches and generate as whole ones do, in training, too."""

from pathlib import Path
from typing import Any

import pytest
import torch

from beacon_lit import BeaconCache, BeaconLM
from tests.configs import composed
from tests.distributed.generating import OPTIONS, CachedLoss, generating, ids, sampled, texts
from tests.distributed.runs import beacons, losses, overrides, torchrun
from train import train

STRATEGIES = ["ddp", "deepspeed_stage2", "deepspeed_stage3", "fsdp2"]
ELSEWHERE = "of rank 1 differs from that of rank 0, with which it shares the model; allowed: the same on every rank"
REFUSED = [
    f"what generate was given {ELSEWHERE}",
    f"what dense_generate was given {ELSEWHERE}",
    f"the length of the texts {ELSEWHERE}",
    "generate is not allowed in training mode where the model is spread over ranks, each of which draws ratios of its "
    "own; allowed: lm.eval()",
]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_generating_on_the_way_disturbs_nothing_and_gives_what_a_whole_model_does(
    strategy: str, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    plain, watched = tmp_path / "plain", tmp_path / "watched"
    random = ["ratio=[2,4,8]", "beacon.ratio_policy=random", "trainer.max_steps=3"]
    torchrun(2, *overrides(strategy, *inputs, plain), *random)
    torchrun(2, *overrides(strategy, *inputs, watched), *random, *generating(watched / "texts"))
    assert losses(watched) == losses(plain)
    own, theirs = beacons(watched), beacons(plain)
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[name], theirs[name]) for name in own)

    spread = strategy in ("deepspeed_stage3", "fsdp2")
    lm = BeaconLM.from_pretrained(str(watched / "beacons"), dtype=torch.float32).eval()
    expected = texts(lm, tmp_path / "whole.cache")
    for rank in range(2):
        found: dict[str, Any] = torch.load(watched / "texts" / f"rank-{rank}.pt")
        for name, values in expected.items():
            assert torch.equal(found[name], values), name
        assert not found["drew"]
        if not (spread and rank):  # ranks that share a model draw what rank zero draws
            torch.set_rng_state(found["state"])
            drawn = sampled(lm)
        assert torch.equal(found["sampled"], drawn)
        assert found.get("refused", []) == (REFUSED if spread else [])
        cache = BeaconCache.load(watched / "texts" / f"rank-{rank}.cache")  # refused if it is another model's
        text = lm.generate(ids(1, 20, seed=2), cache=cache, do_sample=False, **OPTIONS)
        assert torch.equal(text, expected["from a cache"])


def test_a_training_step_may_make_a_cache(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    """DeepSpeed has asked for weights ahead by then."""
    alone, spread = tmp_path / "alone", tmp_path / "spread"
    train(composed("train", *overrides("cpu", *inputs, alone), "trainer.accumulate_grad_batches=4"))
    cached = f"objective._target_={CachedLoss.__module__}.CachedLoss"
    torchrun(2, *overrides("deepspeed_stage3", *inputs, spread), cached)
    assert losses(spread) == pytest.approx(losses(alone), rel=1e-4)
