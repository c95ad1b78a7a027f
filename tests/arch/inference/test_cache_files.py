"""Caches come back from disk bit for bit, and only the model that made one goes on from it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from beacon_lit import BeaconCache, BeaconConfig, BeaconLM
from beacon_lit.arch import cache_files
from beacon_lit.arch.inference.start import empty_cache
from tests.arch.caches import assert_unchanged, padded, snapshot
from tests.arch.tiny import ALL, tiny, tokens

BEACON = BeaconConfig(window=8, ratios=(2, 4), ratio_policy="cycle", sink=1, overlap=2, placement="interleave")
GREEDY = {"do_sample": False, "eos_token_id": None}


def make(**changes: Any) -> BeaconLM:
    """A model in eval mode; `changes` to its beacon settings or its backbone's config."""
    own = {name: changes.pop(name) for name in list(changes) if name in BEACON.to_dict()}
    family, seed = changes.pop("family", "llama"), changes.pop("seed", 0)
    return tiny(family, BeaconConfig(**{**BEACON.to_dict(), **own}), seed=seed, **changes).eval()


def read(lm: BeaconLM) -> BeaconCache:
    return lm.compress(*padded([tokens(length, seed=length) for length in (21, 3, 60)]))


def fork(lm: BeaconLM) -> BeaconCache:
    """Shares its memory's tensors with another cache."""
    return lm(tokens(3, 1), cache=read(lm).fork()).cache


def generation(lm: BeaconLM) -> BeaconCache:
    """Its layers are views of one storage."""
    options = {"max_new_tokens": 20, "return_dict_in_generate": True, **GREEDY}
    return lm.generate(tokens(2, 5), **options).past_key_values


def nothing(lm: BeaconLM) -> BeaconCache:
    """Has read nothing: all its tensors but one are the same empty one."""
    return lm(tokens(2, 3), use_cache=True).cache.rollback(3)


def empty(lm: BeaconLM) -> BeaconCache:
    return empty_cache(lm, 3, 8)


def many_rows(lm: BeaconLM) -> BeaconCache:
    return BeaconCache.stack([read(lm)] * 7).select([20, *range(19)])


@pytest.mark.parametrize("make_cache", [read, fork, generation, nothing, empty, many_rows])
@pytest.mark.parametrize(
    "changes",
    [{"dtype": torch.bfloat16}, {"unfinished": "beacons"}, {"ratios": (1,)}, {"ratio_policy": "adapt-9"}],
    ids=str,
)
@torch.no_grad()
def test_a_cache_comes_back_bit_for_bit(
    make_cache: Callable[[BeaconLM], BeaconCache], changes: dict[str, Any], tmp_path: Path
) -> None:
    lm = make(**changes)
    cache = make_cache(lm)
    before = snapshot(cache)
    for _ in range(2):  # the second file replaces the first
        cache.save(tmp_path / "new" / "cache")
    loaded = BeaconCache.load(str(tmp_path / "new" / "cache"))
    assert_unchanged(loaded, before)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["cache"]
    more = tokens(len(cache.rows), 13)
    one, two = (lm(more, cache=held).logits for held in (cache, loaded))
    assert torch.equal(one, two)


def test_a_ratio_that_is_a_word_comes_back(tmp_path: Path) -> None:
    lm = make()
    lm.compress(tokens(1, 20), ratios=["drop", 4, "drop"]).save(tmp_path / "cache")
    assert BeaconCache.load(tmp_path / "cache").rows[0].ratio == "drop"


@pytest.mark.parametrize("length", [0, 7, 8, 200, 0.5, -1])
def test_a_truncated_file_is_refused(length: int | float, tmp_path: Path) -> None:
    file = tmp_path / "cache"
    read(make()).save(file)
    content = file.read_bytes()
    file.write_bytes(content[: int(length * len(content)) if isinstance(length, float) else length])
    with pytest.raises(ValueError, match=str(file)):
        BeaconCache.load(file)


def test_what_holds_no_cache_is_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(3)}, tmp_path / "weights", metadata={"format": "pt"})
    save_file({"x": torch.zeros(3)}, tmp_path / "bare")
    (tmp_path / "text").write_text("no tensors in here")
    for name in ("weights", "bare", "text", "missing", ""):
        with pytest.raises(ValueError, match=str(tmp_path / name)):
            BeaconCache.load(tmp_path / name)


OTHERS: dict[str, dict[str, Any]] = {
    "weights of": {"seed": 1},
    "family": {"family": "mistral"},
    "window": {"window": 16},
    "sink": {"sink": 2},
    "overlap": {"overlap": 3},
    "placement": {"placement": "append"},
    "params": {"params": ("k", "v")},
    "rope_theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}},
    "rope_parameters": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}},
    "num_hidden_layers": {"num_hidden_layers": 3},
    "num_key_value_heads": {"num_key_value_heads": 4},
    "intermediate_size": {"intermediate_size": 40},
}


def assert_refused(lm: BeaconLM, cache: BeaconCache, what: str) -> None:
    """By every method that goes on from a cache, before anything runs."""
    rows = len(cache.rows)
    for ids in (tokens(rows, 4), tokens(rows, 100)):
        for go_on in (
            lambda ids=ids: lm(ids, cache=cache),
            lambda ids=ids: lm(ids, past_key_values=cache),
            lambda ids=ids: lm.compress(ids, cache=cache),
            lambda ids=ids: lm.generate(ids, cache=cache, max_new_tokens=2, **GREEDY),
            lambda ids=ids: lm.generate(ids, cache=cache, max_new_tokens=2, num_beams=2, **GREEDY),
        ):
            with pytest.MonkeyPatch.context() as patch, pytest.raises(ValueError, match=what):
                patch.setattr(BeaconLM, "run", None)
                go_on()


@pytest.mark.parametrize("what", OTHERS)
def test_another_models_cache_is_refused(what: str, tmp_path: Path) -> None:
    cache = read(make())
    cache.save(tmp_path / "cache")
    for held in (cache, BeaconCache.load(tmp_path / "cache")):
        assert_refused(make(**OTHERS[what]), held, f"made by another model: it has {what}")


def test_the_cache_of_a_backbone_with_another_cap_is_refused() -> None:
    cache = read(make(family="gemma2"))
    for cap in (None, 4.0):
        assert_refused(make(family="gemma2", attn_logit_softcapping=cap), cache, "it has attn_logit_softcapping=2.0")


@pytest.mark.parametrize(
    "part", ["model.embed_tokens", "layers.1.self_attn.beacon_v_proj", "model.beacon_embed_tokens"]
)
def test_other_weights_are_refused(part: str) -> None:
    lm = make()
    cache = read(lm)
    saved = {name: value.clone() for name, value in lm.state_dict().items()}
    lm.load_state_dict({name: value + 0.1 if part in name else value for name, value in saved.items()})
    assert_refused(lm, cache, f"it has weights of .*{part.split('.')[-1]}")
    lm.load_state_dict(saved)
    assert lm(tokens(3, 4), cache=cache).cache.seen_tokens == 64  # it is its own again


@pytest.mark.parametrize("rate", [1e-3, 1e-5])
def test_a_model_trained_one_step_further_refuses_what_it_read_before(rate: float) -> None:
    lm = make()
    cache = read(lm)
    optimizer = torch.optim.AdamW(lm.beacon_parameters(), lr=rate)
    lm.train()(tokens(1, 30), labels=tokens(1, 30)).loss.backward()
    optimizer.step()
    assert_refused(lm.eval(), cache, "it has weights of .*beacon")
    assert lm(tokens(3, 4), cache=read(lm)).cache.seen_tokens == 64


@pytest.mark.parametrize("family", ALL)
def test_the_same_model_from_disk_goes_on(family: str, tmp_path: Path) -> None:
    lm = make(family=family)
    lm.save_pretrained(tmp_path / "model", beacon_only=False)
    cache = read(lm)
    cache.save(tmp_path / "cache")
    again, loaded = BeaconLM.from_pretrained(str(tmp_path / "model")).eval(), BeaconCache.load(tmp_path / "cache")
    assert torch.equal(again(tokens(3, 13), cache=loaded).logits, lm(tokens(3, 13), cache=cache).logits)


def test_ratios_are_the_callers_affair() -> None:
    cache = read(make())
    lm = make(ratios=(8,), ratio_policy="random", eval_ratio=8, unfinished="beacons")
    assert lm(tokens(3, 4), cache=cache).cache.seen_tokens == 64


@pytest.mark.parametrize("other", [torch.float64, torch.bfloat16, "meta"])
def test_another_dtype_or_device_is_refused(other: torch.dtype | str) -> None:
    lm = make()
    assert_refused(lm, read(lm).to(other), str(other))
    if other is torch.float64:
        assert lm(tokens(3, 4), cache=read(lm).to(other).to(torch.float32)).cache.seen_tokens == 64


def as_written_before(path: Path) -> None:
    """Rewrite a cache's file in the format that has nothing to close windows with."""
    found, about = cache_files.read(path, "cpu")
    kept = {name: tensor for name, tensor in found.items() if ".own_" not in name}
    about.pop("selects")
    cache_files.write(path, kept, about, "beacon_cache-1")


@torch.no_grad()
def test_an_older_file_is_read_unless_its_windows_could_not_close(tmp_path: Path) -> None:
    inserting, selecting = make(), make(placement="select", params=("k", "v"))
    for lm in (inserting, selecting):
        read(lm).save(tmp_path / "cache")
        assert_unchanged(BeaconCache.load(tmp_path / "cache"), snapshot(read(lm)))
        as_written_before(tmp_path / "cache")
        older = BeaconCache.load(tmp_path / "cache")
        if lm is inserting:
            assert_unchanged(older, snapshot(read(lm)))
        else:
            assert_refused(
                lm,
                older,
                r"nothing to close its open window with, as placement='select' needs; an earlier version wrote it",
            )


def test_a_save_that_fails_leaves_the_file_before_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(tensors: dict[str, Tensor], file: Path, metadata: dict[str, str]) -> None:
        file.touch()
        raise OSError("no space left")

    file = tmp_path / "cache.safetensors"
    cache_files.write(file, {"a": torch.ones(2)}, {})
    monkeypatch.setattr(cache_files, "save_file", full)
    with pytest.raises(OSError, match="no space left"):
        cache_files.write(file, {"a": torch.zeros(2)}, {})
    assert cache_files.read(file, "cpu")[0]["a"].tolist() == [1, 1] and [*tmp_path.iterdir()] == [file]
