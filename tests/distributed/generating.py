"""What a model reads and writes between two training steps, wherever its parameters are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import DynamicCache

from beacon_lit import BeaconLM
from beacon_lit.arch.checkpoint import is_spread

OPTIONS: dict[str, Any] = {"ratios": 4, "max_new_tokens": 6, "eos_token_id": None, "pad_token_id": 0}


def ids(*shape: int, seed: int = 0) -> Tensor:
    """Random bytes, none of them 0, which stands for padding."""
    return torch.randint(1, 256, shape, generator=torch.Generator().manual_seed(seed))


QUESTION = ids(1, 60, seed=2)


@torch.no_grad()
def texts(lm: BeaconLM, cache_file: Path) -> dict[str, Tensor]:
    """What the model makes of prompts and of caches of several windows of 32 tokens, the last of which fills up while
    the model writes. Nothing is drawn.

    Args:
        lm: in eval mode.
        cache_file: where to save a cache of some text.
    """
    cache = lm.compress(ids(1, 290, seed=1), ratios=4)  # of more windows than one chunk
    cache.save(cache_file)
    mask = torch.ones(2, 318, dtype=torch.int64)
    mask[0, :160] = 0
    padded = ids(2, 318, seed=3) * mask
    dense, of_hf = DynamicCache(), {name: value for name, value in OPTIONS.items() if name != "ratios"}
    lm.dense(QUESTION[:, :-1], past_key_values=dense, use_cache=True)
    return {
        "from a prompt": lm.generate(ids(1, 124, seed=4), do_sample=False, **OPTIONS),
        "from prompts of many windows": lm.generate(padded, attention_mask=mask, do_sample=False, **OPTIONS),
        "from a cache": lm.generate(QUESTION, cache=cache, do_sample=False, **OPTIONS),
        "from a cache and one token": lm.generate(QUESTION[:, :1], cache=cache, do_sample=False, **OPTIONS),
        "with beacons as tokens come": lm.generate(QUESTION, unfinished="beacons", do_sample=False, **OPTIONS),
        "by beams": lm.generate(QUESTION, cache=cache, do_sample=False, num_beams=2, **OPTIONS),
        "read on": lm(QUESTION, cache=cache, ratios=4).logits.argmax(-1),
        "begun": lm(QUESTION[:, :20], use_cache=True).cache.layers[-1].open_k,
        "dense": lm.dense(QUESTION[:, -1:], past_key_values=dense, use_cache=True).logits,
        "by the dense model": lm.dense_generate(QUESTION, do_sample=False, **of_hf),
    }


class Generate(Callback):
    """After every second optimizer step: what a model that trains reads and writes, to `folder`/rank-R.pt, the newest
    alone.

    Beside `texts` sampled ones, with the state of the random numbers before; "drew" says whether `texts` changed it;
    "refused" what was said to a rank that did something else than the others.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches or not trainer.global_step % 2:
            return
        lm: Any = pl_module.lm
        self.folder.mkdir(parents=True, exist_ok=True)
        lm.eval()
        before = torch.get_rng_state()
        found: dict[str, Any] = texts(lm, self.folder / f"rank-{trainer.global_rank}.cache")
        found["drew"] = not torch.equal(torch.get_rng_state(), before)
        found["state"] = before
        found["sampled"] = sampled(lm)
        if is_spread(lm):
            found["refused"] = refusals(lm, trainer.global_rank)
        lm.train()
        torch.save(found, self.folder / f"rank-{trainer.global_rank}.pt")


def sampled(lm: BeaconLM) -> Tensor:
    """Texts that are drawn, and end at different lengths."""
    options = OPTIONS | {"eos_token_id": list(range(0, 256, 8))}
    return lm.generate(ids(3, 92, seed=5), do_sample=True, temperature=2.0, **options)


def refusals(lm: BeaconLM, rank: int) -> list[str]:
    """What a model that is spread says to what would leave one rank waiting for the others."""
    text, said = ids(1, 40, seed=rank), []
    calls: list[Callable[[], Any]] = [
        lambda: lm.generate(text, **OPTIONS),
        lambda: lm.dense_generate(text),
        lambda: lm.compress(ids(1, 300 + rank), ratios=4),
        lambda: lm.train().generate(ids(1, 40), **OPTIONS),
    ]
    for call in calls:
        with pytest.raises(ValueError) as caught:
            call()
        said.append(str(caught.value))
    return said


class CachedLoss:
    """An objective: to predict the next token, in a pass that also makes a cache."""

    def __call__(self, lm: BeaconLM, batch: dict[str, Any], ratios: Any) -> tuple[Tensor, dict[str, Tensor]]:
        out = lm(batch["input_ids"], batch.get("attention_mask"), labels=batch["labels"], ratios=ratios, use_cache=True)
        assert out.cache is not None and not isinstance(out.cache.hidden, DTensor)
        return out.token_loss, {}


def generating(folder: Path) -> list[str]:
    """Overrides that put it into a run."""
    return [f"+callbacks.generating={{_target_: {__name__}.Generate, folder: {folder}}}"]
