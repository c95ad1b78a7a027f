"""What a path holds is told before anything is loaded, with one sentence for whatever cannot be."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.arch.checkpoint import load_tokenizer, paths
from beacon_lit.arch.checkpoint.paths import find
from beacon_lit.tiny import byte_tokenizer
from tests.arch.checkpoint.test_options import put_on_hub
from tests.arch.folders import IDS, assert_same, edit_json, no_weights, save_backbone, trained

BEACON = BeaconConfig(window=8, ratios=(2, 4), sink=2, placement="interleave")
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 988097824\n".format("0" * 64)


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    byte_tokenizer().save_pretrained(tmp_path / "backbone")
    return save_backbone(tmp_path / "backbone")  # whose tokenizer is a Qwen2Tokenizer then, with one token more


def shards(folder: Path) -> list[Path]:
    """Save the backbone of a folder in several files."""
    lm = BeaconLM.from_pretrained(str(folder), BEACON)
    lm.save_backbone(folder)
    state, half = {}, 0
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    half = len(names) // 2
    files = []
    for i, part in enumerate((names[:half], names[half:]), 1):
        files.append(folder / f"model-{i:05}-of-00002.safetensors")
        save_file({name: tensors[name] for name in part}, files[-1], metadata={"format": "pt"})
        state |= dict.fromkeys(part, files[-1].name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": state}))
    return files


# Paths that work


def test_the_home_folder(backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    lm = trained(backbone)
    lm.save_pretrained(tmp_path / "beacons")
    edit_json(
        tmp_path / "beacons" / "beacon_config.json",
        backbone={
            **json.loads((tmp_path / "beacons" / "beacon_config.json").read_text())["backbone"],
            "name": "~/backbone",
        },
    )
    for path in ("~/beacons", Path("~/beacons")):
        assert_same(lm, BeaconLM.from_pretrained(path))
    assert_same(BeaconLM.from_pretrained("~/backbone", BEACON), BeaconLM.from_pretrained(backbone, BEACON))
    assert len(load_tokenizer("~/backbone")) == 259


def test_the_folder_of_a_run_stands_for_its_beacons(backbone: Path, tmp_path: Path) -> None:
    lm = trained(backbone)
    lm.save_pretrained(tmp_path / "run" / "beacons")
    (tmp_path / "run" / "config.yaml").write_text("seed: 0\n")
    assert_same(lm, BeaconLM.from_pretrained(tmp_path / "run"))
    assert len(load_tokenizer(tmp_path / "run")) == 259
    shutil.rmtree(tmp_path / "run" / "beacons")
    with pytest.raises(
        ValueError, match=r"is the folder of an unfinished run, without beacons/config\.json; allowed: "
    ):
        BeaconLM.from_pretrained(tmp_path / "run")


def test_weights_in_several_files(backbone: Path) -> None:
    whole = BeaconLM.from_pretrained(backbone, BEACON)
    files = shards(backbone)
    assert_same(whole, BeaconLM.from_pretrained(backbone, BEACON))
    files[1].unlink()
    with pytest.raises(ValueError, match=r"lacks model-00002-of-00002\.safetensors of the 2 files that model\.safete"):
        BeaconLM.from_pretrained(backbone, BEACON)


# Tokenizers


def test_beacons_have_their_backbones_tokenizer(backbone: Path, tmp_path: Path) -> None:
    lm = trained(backbone)
    lm.save_pretrained(tmp_path / "beacons")
    shutil.move(backbone, tmp_path / "moved")
    for tokenizer in (AutoTokenizer.from_pretrained(tmp_path / "beacons"), load_tokenizer(tmp_path / "beacons")):
        assert tokenizer("a").input_ids == byte_tokenizer()("a").input_ids and tokenizer.chat_template
    for file in (tmp_path / "beacons").glob("*token*"):
        file.unlink()
    with pytest.raises(ValueError, match=r"no such file or folder.*if it has moved, say where to: backbone="):
        load_tokenizer(tmp_path / "beacons")
    assert len(load_tokenizer(tmp_path / "beacons", backbone=str(tmp_path / "moved"))) == 259


def test_a_tokenizer_of_the_beacons_own_comes_first_and_stays(backbone: Path, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<new>", "<newer>"])
    tokenizer.save_pretrained(tmp_path / "beacons")
    trained(backbone).save_pretrained(tmp_path / "beacons")
    assert len(load_tokenizer(tmp_path / "beacons")) == len(tokenizer)


def test_options_of_a_tokenizer(backbone: Path, tmp_path: Path) -> None:
    assert load_tokenizer(backbone, padding_side="left", revision="any").padding_side == "left"
    name = put_on_hub(tmp_path / "cache", "someone/backbone", main=backbone)
    assert len(load_tokenizer(name, cache_dir=tmp_path / "cache")) == 259


def test_a_folder_with_a_tokenizer_alone(tmp_path: Path) -> None:
    byte_tokenizer().save_pretrained(tmp_path)
    assert len(load_tokenizer(tmp_path)) == 258
    with pytest.raises(ValueError, match=f"path={tmp_path} holds a tokenizer alone; allowed: "):
        BeaconLM.from_pretrained(tmp_path)


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    save_backbone(tmp_path)
    with pytest.raises(ValueError, match=r"has no tokenizer; allowed: .*tokenizer\.json or tokenizer\.model"):
        load_tokenizer(tmp_path)


# Paths that hold nothing to load


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def lose_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def lose_index(folder: Path) -> None:
    shards(folder)
    (folder / "model.safetensors.index.json").unlink()


def pointer(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(POINTER)

    return change


def adapter_beside(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def damaged_index(folder: Path) -> None:
    shards(folder)
    (folder / "model.safetensors.index.json").write_text("{}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove_weights, r"holds config\.json, but no weights"),
        (lose_config, r"holds weights, but no config\.json"),
        (lose_index, "parts of a model's weights, but not their index"),
        (damaged_index, "is not an index of weights"),
        (pointer("model.safetensors"), r"model\.safetensors is a Git LFS pointer, .*: git lfs pull"),
        (pointer("config.json"), r"config\.json is a Git LFS pointer"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), r"model\.safetensors is empty"),
        (adapter_beside, r"holds a whole model and an adapter \(adapter_config\.json\)"),
    ],
)  # fmt: skip
def test_a_model_that_is_not_whole(
    change: Callable[[Path], None], message: str, backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(backbone)
    no_weights(monkeypatch)
    with pytest.raises(ValueError, match=message) as error:
        BeaconLM.from_pretrained(backbone, BEACON)
    assert str(backbone) in str(error.value) and "\n" not in str(error.value)


def test_pointers_in_place_of_other_files(backbone: Path, tmp_path: Path) -> None:
    (backbone / "tokenizer.json").write_text(POINTER)
    BeaconLM.from_pretrained(backbone, BEACON)  # which needs no tokenizer
    with pytest.raises(ValueError, match=r"tokenizer\.json is a Git LFS pointer"):
        load_tokenizer(backbone)
    for name in ("last.ckpt", "model.gguf", "model.GGUF"):
        (tmp_path / name).write_text(POINTER)
        with pytest.raises(ValueError, match=f"{name} is a Git LFS pointer"):
            BeaconLM.from_pretrained(tmp_path / name)
    trained(backbone).save_pretrained(tmp_path / "beacons")
    (tmp_path / "beacons" / "beacon.safetensors").write_text(POINTER)
    with pytest.raises(ValueError, match=r"beacon\.safetensors is a Git LFS pointer"):
        BeaconLM.from_pretrained(tmp_path / "beacons")


@pytest.mark.parametrize("load", [lambda path: BeaconLM.from_pretrained(path, BEACON), load_tokenizer])
def test_no_such_path(load: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in (tmp_path / "none", "./none", "~/none", "some/where/else", tmp_path / "none.gguf", tmp_path / "x.ckpt"):
        with pytest.raises(ValueError, match=f"path={path}: no such file or folder; allowed: a hub id, ") as error:
            load(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "is an empty folder"),
        (lambda folder: (folder / "notes.txt").touch(), r"holds no model \(there is notes\.txt\)"),
        (lambda folder: save_backbone(folder / "sub"), "holds no model itself, but its subfolders do: sub"),
        (
            lambda folder: (folder / "params.json").touch(),
            r"holds a model in its maker's own format \(params\.json\), without config",
        ),
        (lambda folder: (folder / "beacon.safetensors").touch(), "holds beacons .*, but not their settings"),
        (
            lambda folder: [(folder / f"{x}.gguf").touch() for x in "ab"],
            r"holds several GGUF files",
        ),
    ],
)
def test_a_folder_with_nothing_to_load(make: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(ValueError, match=f"path={tmp_path} {message}.*; allowed: "):
        find(tmp_path, {})


def test_other_paths_with_nothing_to_load(backbone: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.safetensors is a file; allowed: "):
        BeaconLM.from_pretrained(backbone / "model.safetensors")
    (tmp_path / "models--someone--model").mkdir()
    with pytest.raises(ValueError, match="which the hub id finds: someone/model; allowed: "):
        BeaconLM.from_pretrained(tmp_path / "models--someone--model")


def test_a_name_that_is_meant_as_a_path_is_not_asked_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "find_file", None)  # asks the hub
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "model.bin").write_text("{}")
    ours = {folder: f"{folder} is a folder, so this is no hub id" for folder in ("outputs", "multirun", "runs")}
    cases = {f"{folder}/nope": why for folder, why in ours.items()} | {"nope": "a hub id is OWNER/NAME"}
    for path, why in cases.items():
        for load in (lambda path: BeaconLM.from_pretrained(path, BEACON), load_tokenizer):
            with pytest.raises(ValueError, match=f"path={path}: no such file or folder; allowed: .*{why}"):
                load(path)
    with pytest.raises(ValueError, match=r"path=runs/model\.bin is a file; allowed: "):
        load_tokenizer("runs/model.bin")
    with pytest.raises(TypeError):  # the hub is asked
        load_tokenizer("someone/nope")


def test_a_missing_folder_that_could_be_a_hub_id(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot load models/llama \(no such folder, so taken for a hub id\): "):
        BeaconLM.from_pretrained("models/llama", cache_dir=tmp_path, local_files_only=True)


def test_beacons_are_no_backbone(backbone: Path, tmp_path: Path) -> None:
    trained(backbone).save_pretrained(tmp_path / "beacons")
    with pytest.raises(ValueError, match=f"path={tmp_path}/beacons holds beacons alone; allowed: the backbone of "):
        BeaconLM.from_pretrained(tmp_path / "beacons", backbone=str(tmp_path / "beacons"))


def test_no_layer_slides(tmp_path: Path) -> None:
    """Qwen2 with `use_sliding_window`, where `max_window_layers` leaves no layer to slide."""
    options = dict(use_sliding_window=True, sliding_window=4)
    save_backbone(tmp_path / "all", **options, max_window_layers=2, layer_types=None)
    lm = BeaconLM.from_pretrained(tmp_path / "all", BEACON)
    with torch.no_grad():
        assert torch.equal(lm(IDS[:, :8]).logits, lm.dense(IDS[:, :8]).logits)
    save_backbone(tmp_path / "some", **options, max_window_layers=1, layer_types=None)
    with pytest.raises(ValueError, match="window=8 is not allowed; allowed: at most the backbone's sliding_window=4"):
        BeaconLM.from_pretrained(tmp_path / "some", BEACON)
