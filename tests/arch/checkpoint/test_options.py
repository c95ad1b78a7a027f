"""Options of Hugging Face's `from_pretrained`: they reach the weights of whatever kind of checkpoint it is."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers.utils.hub as transformers_hub
from safetensors.torch import load_file

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.arch.checkpoint import save_published
from tests.arch.folders import IDS, assert_same, no_weights, save_backbone, trained
from tests.arch.tiny import tiny

BEACON = BeaconConfig(window=8, ratios=(2, 4), sink=2, placement="interleave")
KINDS = pytest.mark.parametrize("kind", ["backbone", "full", "published", "beacons"])


def save(lm: BeaconLM, kind: str, folder: Path) -> Path:
    """`lm` in a folder of its kind; nothing to do for its own plain backbone."""
    if kind == "published":
        save_published(lm, folder)
    elif kind != "backbone":
        lm.save_pretrained(folder, beacon_only=kind == "beacons")
    return folder


@pytest.fixture
def lm(tmp_path: Path) -> BeaconLM:
    """A trained model, its plain backbone in the folder "backbone"."""
    return trained(save_backbone(tmp_path / "backbone"), BEACON)


def put_on_hub(cache: Path, name: str, **revisions: Path) -> str:
    """Folders as revisions of a repository that has been downloaded; returns its id."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    for i, (revision, folder) in enumerate(revisions.items()):
        commit = f"{i:040x}"
        shutil.copytree(folder, repository / "snapshots" / commit)
        (repository / "refs" / revision).write_text(commit)
    return name


# Where files are


@KINDS
def test_revision_and_cache_dir(kind: str, tmp_path: Path) -> None:
    folders = {}
    for revision, seed in (("main", 0), ("other", 1)):
        backbone = save_backbone(tmp_path / revision / "backbone", seed=seed)
        folders[revision] = save(trained(backbone, BEACON), kind, tmp_path / revision / kind)
    name = put_on_hub(tmp_path / "cache", f"someone/{kind}", **folders)
    options: dict[str, Any] = {"cache_dir": tmp_path / "cache", "local_files_only": True}
    for revision, folder in folders.items():
        found = BeaconLM.from_pretrained(name, BEACON, revision=revision, **options)
        assert_same(BeaconLM.from_pretrained(folder, BEACON), found)
    assert_same(BeaconLM.from_pretrained(folders["main"], BEACON), BeaconLM.from_pretrained(name, BEACON, **options))
    with pytest.raises(ValueError, match=name):
        BeaconLM.from_pretrained(name, BEACON, revision="none", **options)
    with pytest.raises(ValueError, match=name):
        BeaconLM.from_pretrained(name, BEACON, cache_dir=tmp_path / "elsewhere", local_files_only=True)


def test_for_a_local_folder_of_beacons_they_are_the_backbones(tmp_path: Path) -> None:
    revisions = {name: save_backbone(tmp_path / name, seed=seed) for seed, name in enumerate(("main", "other"))}
    name = put_on_hub(tmp_path / "cache", "someone/backbone", **revisions)
    options: dict[str, Any] = {"cache_dir": tmp_path / "cache"}
    lm = trained(name, BEACON, revision="other", **options)
    lm.save_pretrained(tmp_path / "beacons")
    assert_same(lm, BeaconLM.from_pretrained(tmp_path / "beacons", revision="other", **options))
    with pytest.raises(ValueError, match="other weights"):
        BeaconLM.from_pretrained(tmp_path / "beacons", **options)
    with pytest.raises(ValueError, match=r"someone/backbone \(the backbone of "):
        BeaconLM.from_pretrained(tmp_path / "beacons")


def test_for_beacons_on_the_hub_they_are_the_beacons(tmp_path: Path) -> None:
    cache: dict[str, Any] = {"cache_dir": tmp_path / "cache"}
    backbone = put_on_hub(tmp_path / "cache", "someone/backbone", main=save_backbone(tmp_path / "backbone"))
    lm = trained(backbone, BEACON, **cache)
    lm.save_pretrained(tmp_path / "repository" / "inside")
    name = put_on_hub(tmp_path / "cache", "someone/beacons", v1=tmp_path / "repository")
    options = {"revision": "v1", "subfolder": "inside", **cache}
    assert_same(lm, BeaconLM.from_pretrained(name, **options))
    found = BeaconLM.from_pretrained(tmp_path / "repository", subfolder="inside", **cache)
    assert_same(lm, found)


@KINDS
def test_subfolder(kind: str, lm: BeaconLM, tmp_path: Path) -> None:
    save(lm, kind, tmp_path / kind)
    found = BeaconLM.from_pretrained(tmp_path, BEACON, subfolder=kind)
    assert_same(BeaconLM.from_pretrained(tmp_path / kind, BEACON), found)
    with pytest.raises(ValueError, match=str(tmp_path)):
        BeaconLM.from_pretrained(tmp_path, BEACON, subfolder="none")


@KINDS
def test_token_goes_along_with_every_file(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache: dict[str, Any] = {"cache_dir": tmp_path / "cache"}
    backbone = put_on_hub(tmp_path / "cache", "someone/backbone", main=save_backbone(tmp_path / "folder"))
    folder, name = tmp_path / kind, backbone
    if kind != "backbone":
        save(trained(backbone, BEACON, **cache), kind, folder)
        name = put_on_hub(tmp_path / "cache", f"someone/{kind}", main=folder)
    find, calls = transformers_hub.cached_files, []

    def recorded(path_or_repo_id: str, filenames: list[str], **options: Any) -> Any:
        calls.extend((path_or_repo_id, file, options.get("token")) for file in filenames)
        return find(path_or_repo_id, filenames, **options)

    monkeypatch.setattr(transformers_hub, "cached_files", recorded)
    BeaconLM.from_pretrained(name, BEACON, token="secret", beacon_dtype="auto", **cache)
    assert {token for _, _, token in calls} == {"secret"}
    files = {(source, file) for source, file, _ in calls}
    weights = backbone if kind == "beacons" else name
    assert {(name, "beacon_config.json"), (weights, "config.json"), (weights, "model.safetensors")} <= files
    assert ((name, "beacon.safetensors") in files) == (kind == "beacons")


def test_shards_on_the_hub(lm: BeaconLM, tmp_path: Path) -> None:
    """Float32 beacons of a half-precision backbone are read again from those shards that have some."""
    mixed = trained(tmp_path / "backbone", BEACON, dtype="bfloat16", beacon_dtype="float32")
    mixed.save_pretrained(tmp_path / "full", beacon_only=False, max_shard_size="20KB")
    name = put_on_hub(tmp_path / "cache", "someone/full", main=tmp_path / "full")
    for wanted in ("auto", "float32", torch.float32):
        assert_same(mixed, BeaconLM.from_pretrained(name, cache_dir=tmp_path / "cache", beacon_dtype=wanted))


# What weights become


@KINDS
def test_dtype(kind: str, lm: BeaconLM, tmp_path: Path) -> None:
    folder = save(lm, kind, tmp_path / kind)
    for dtype in ("bfloat16", torch.bfloat16):
        for name in ("dtype", "torch_dtype"):
            half = BeaconLM.from_pretrained(folder, BEACON, **{name: dtype})
            assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    for options in ({"dtype": "auto"}, {"dtype": None}, {}):
        own = BeaconLM.from_pretrained(folder, BEACON, **options)
        assert {parameter.dtype for parameter in own.parameters()} == {torch.float32}


@KINDS
def test_beacon_dtype_auto_keeps_every_bit(kind: str, tmp_path: Path) -> None:
    backbone = save_backbone(tmp_path / "backbone", dtype=torch.bfloat16)
    lm = trained(backbone, BEACON, beacon_dtype="float32")
    found = BeaconLM.from_pretrained(save(lm, kind, tmp_path / kind), BEACON, beacon_dtype="auto")
    assert {p.dtype for n, p in found.named_parameters() if "beacon" not in n} == {torch.bfloat16}
    if kind == "backbone":  # which has none: they are made in its dtype
        assert {p.dtype for p in found.beacon_parameters()} == {torch.bfloat16}
    else:
        assert_same(lm, found)


@KINDS
@pytest.mark.parametrize("device_map", ["cpu", "auto", torch.device("cpu"), {"": "cpu"}], ids=str)
def test_device_map(kind: str, device_map: Any, lm: BeaconLM, tmp_path: Path) -> None:
    folder = save(lm, kind, tmp_path / kind)
    found = BeaconLM.from_pretrained(folder, BEACON, device_map=device_map)
    assert_same(BeaconLM.from_pretrained(folder, BEACON), found)
    assert torch.equal(found.dense(IDS).logits, lm.dense(IDS).logits)
    half = BeaconLM.from_pretrained(folder, BEACON, device_map=device_map, dtype="bfloat16", beacon_dtype="float32")
    assert {parameter.dtype for parameter in half.beacon_parameters()} == {torch.float32}


def test_the_attention_of_the_untouched_backbone(lm: BeaconLM, tmp_path: Path) -> None:
    eager = BeaconLM.from_pretrained(tmp_path / "backbone", BEACON, attn_implementation="eager")
    assert eager.config._attn_implementation == "eager"
    torch.testing.assert_close(eager.dense(IDS).logits, lm.dense(IDS).logits)


# Refused, before weights are read


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widnow": 8}, r"widnow=8 is not allowed; allowed: fields of the backbone's config, .*device_map.*token"),
        ({"ignore_mismatched_sizes": True}, "ignore_mismatched_sizes=True is not allowed"),
        ({"output_loading_info": True}, "output_loading_info=True is not allowed"),
        ({"state_dict": {}}, "state_dict={} is not allowed"),
        ({"dtype": "bf16"}, "dtype='bf16' is not allowed; allowed: auto, float32, bfloat16, float16"),
        ({"dtype": torch.int8}, "dtype=torch.int8 is not allowed"),
        ({"dtype": 16}, "dtype=16 is not allowed"),
        ({"beacon_dtype": "half-precision"}, "beacon_dtype='half-precision' is not allowed"),
        ({"device_map": {"model": "cpu", "lm_head": "disk"}}, "puts the model on cpu, disk; allowed: one device"),
        ({"device_map": {"model": 0, "lm_head": 1}}, "puts the model on 0, 1; allowed: one device"),
        ({"device_map": {"": "disk"}}, "puts the model on disk; allowed: one device"),
        ({"backbone": "other"}, "backbone='other' is not allowed for .* no beacons alone"),
    ],
    ids=str,
)
def test_options_that_are_not_allowed(
    options: Mapping[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_backbone(tmp_path)
    no_weights(monkeypatch)
    with pytest.raises(ValueError, match=message):
        BeaconLM.from_pretrained(folder, BEACON, **options)


def test_a_device_map_that_turns_out_to_offload(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"device_map|offload"):
        BeaconLM.from_pretrained(save_backbone(tmp_path), BEACON, device_map="auto", max_memory={"cpu": "30KB"})


def test_beacon_dtype_needs_safetensors(tmp_path: Path) -> None:
    """Without them the beacons would come rounded to the backbone's dtype."""
    tiny("qwen2", BEACON).save_pretrained(tmp_path, beacon_only=False)
    state = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    BeaconLM.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no safetensors, which beacon_dtype"):
        BeaconLM.from_pretrained(tmp_path, beacon_dtype="float32")
