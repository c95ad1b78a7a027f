"""The exported file holds what the plain backbone would hold, says so, and nothing else is taken for it."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from beacon_lit import BeaconCache, BeaconConfig
from beacon_lit.vllm import CacheFile, save_for_vllm
from beacon_lit.vllm.export import read_layers
from tests.arch.caches import model
from tests.arch.tiny import tiny, tokens


@pytest.mark.parametrize("placement", ["select", "interleave"])
def test_keys_and_values_are_those_of_the_plain_model(placement: str, tmp_path: Path) -> None:
    beacon = BeaconConfig(window=8, ratios=2, sink=1, overlap=2, placement=placement, params=("k", "v"))
    cache = tiny("llama", beacon).eval().compress(tokens(1, 29))
    file = save_for_vllm(cache, tmp_path / "new" / "book")
    assert file == CacheFile.read(tmp_path / "new" / "book")
    assert (file.slots, file.tokens, file.room, file.dtype) == (cache.rows[0].slots, 29, 3, "float32")
    layers = cache.to_transformers().layers
    saved = read_layers(tmp_path / "new" / "book")
    assert len(saved) == len(layers) == 2
    for (keys, values), layer in zip(saved, layers, strict=True):
        assert keys.shape == values.shape == (file.slots, 2, 8)
        assert torch.equal(keys, layer.keys[0].transpose(0, 1))
        assert torch.equal(values, layer.values[0].transpose(0, 1))
        assert not torch.equal(keys, values)


def test_the_dtype_is_the_cache_s_own(tmp_path: Path) -> None:
    cache = model("qwen2").compress(tokens(1, 20)).to(torch.bfloat16)
    assert save_for_vllm(cache, tmp_path / "book").dtype == "bfloat16"
    assert read_layers(tmp_path / "book")[1][0].dtype == torch.bfloat16


def test_an_older_file_stays_until_the_new_one_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = model()
    before = save_for_vllm(lm.compress(tokens(1, 20)), tmp_path / "book")

    def fail(*_: object, **__: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("beacon_lit.arch.cache_files.save_file", fail)
    with pytest.raises(OSError, match="the disk is full"):
        save_for_vllm(lm.compress(tokens(1, 29)), tmp_path / "book")
    assert CacheFile.read(tmp_path / "book") == before
    monkeypatch.undo()
    assert save_for_vllm(lm.compress(tokens(1, 29)), tmp_path / "book").tokens == 29
    assert CacheFile.read(tmp_path / "book").tokens == 29
    assert [path.name for path in tmp_path.iterdir()] == ["book"]


def test_what_vllm_cannot_go_on_from_is_refused(tmp_path: Path) -> None:
    lm, path = model("llama", "select", params=("k", "v")), tmp_path / "book"
    cache = lm.compress(tokens(2, 20))
    with pytest.raises(ValueError, match=r"a cache of 2 rows .* one document; allowed: cache.select\(\[row\]\)"):
        save_for_vllm(cache, path)
    with pytest.raises(ValueError, match=r"an empty cache .* nothing to load"):
        save_for_vllm(lm.compress(tokens(1, 1)).rollback(1), path)
    budgets = model("llama", "select", params=("k", "v"), head_budgets=[[1.5, 0.5], [1, 1]])
    with pytest.raises(ValueError, match=r"head_budgets .* different numbers of tokens, .* without head_budgets"):
        save_for_vllm(budgets.compress(tokens(1, 29)), path)
    with pytest.raises(ValueError, match=r"unfinished='beacons' .* allowed: .* unfinished='raw'"):
        save_for_vllm(model(unfinished="beacons").compress(tokens(1, 20)), path)
    with pytest.raises(ValueError, match="is a folder; allowed: a file's name"):
        save_for_vllm(cache.select([1]), tmp_path)
    assert not list(tmp_path.iterdir())


def test_other_files_are_refused(tmp_path: Path) -> None:
    cache = model().compress(tokens(1, 20))
    cache.save(tmp_path / "cache")
    save_for_vllm(cache, tmp_path / "book")
    with pytest.raises(ValueError, match="has the format 'beacon_cache-2'; allowed: 'beacon_vllm-1'"):
        CacheFile.read(tmp_path / "cache")
    with pytest.raises(ValueError, match="has the format 'beacon_vllm-1'; allowed: 'beacon_cache-2'"):
        BeaconCache.load(tmp_path / "book")
    with pytest.raises(ValueError, match=r"cannot load the cache .*missing"):
        CacheFile.read(tmp_path / "missing")
    whole = (tmp_path / "book").read_bytes()
    (tmp_path / "book").write_bytes(whole[:-100])
    for read in (CacheFile.read, read_layers):
        with pytest.raises(ValueError, match="cannot load the cache"):
            read(tmp_path / "book")


def test_any_program_can_read_the_file(tmp_path: Path) -> None:
    save_for_vllm(model().compress(tokens(1, 20)), tmp_path / "book")
    with safe_open(tmp_path / "book", "pt") as file:
        assert file.metadata()["format"] == "beacon_vllm-1"
        assert sorted(file.keys()) == [f"layers.{i}.{name}" for i in range(2) for name in ("keys", "values")]
