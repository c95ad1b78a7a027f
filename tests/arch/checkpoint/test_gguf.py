"""GGUF files written here from tiny random models come back as the same models."""

import multiprocessing
import os
import signal
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.integrations import ggml

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.arch.checkpoint import load_tokenizer
from beacon_lit.arch.checkpoint.gguf import build_once, convert_gguf, gguf_tokenizer
from beacon_lit.arch.checkpoint.gguf_file import GgufFile
from beacon_lit.arch.checkpoint.gguf_weights import gguf_config
from beacon_lit.arch.plan.kinds import Memory, Sliding
from tests.arch.folders import no_weights

gguf = pytest.importorskip("gguf")  # the `demo` extra

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["h e", "Ġ Ġ", "ĠĠ Ġ", "l l", "he ll", "hell o"]
TOKENS = [*SPECIALS, *bytes_to_unicode().values(), *(merge.replace(" ", "") for merge in MERGES)]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] + '\n' + m['content'] }}<|im_end|>\n{% endfor %}"
SIZES = dict(
    vocab_size=len(TOKENS),
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=128,
    rms_norm_eps=1e-5,
    rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
)
# Older versions of transformers have one tokenizer for all files of the architecture phi3, that of Phi-3 mini.
OLDER = hasattr(ggml, "GGUFPhi3Converter")
NEWER = pytest.mark.skipif(OLDER, reason="needs a newer transformers")
NESTED = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 50000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}
PARTIAL = {"rope_type": "default", "rope_theta": 50000.0, "partial_rotary_factor": 0.5}
FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SIZES, tie_word_embeddings=False)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SIZES, tie_word_embeddings=False)),
    "phi3": (
        Phi3ForCausalLM,
        Phi3Config(**SIZES | {"rope_parameters": PARTIAL}, sliding_window=64, pad_token_id=None),
    ),
    "qwen3moe": (
        Qwen3MoeForCausalLM,
        Qwen3MoeConfig(**SIZES, num_experts=3, num_experts_per_tok=2, moe_intermediate_size=32, norm_topk_prob=True),
    ),
    "gemma2": (
        Gemma2ForCausalLM,
        Gemma2Config(
            **SIZES,
            query_pre_attn_scalar=16,
            sliding_window=9,
            attn_logit_softcapping=2.0,
            final_logit_softcapping=3.0,
            tie_word_embeddings=True,
        ),
    ),
    "gemma3": (
        Gemma3ForCausalLM,
        Gemma3TextConfig(
            **SIZES | {"num_hidden_layers": 7, "rope_parameters": NESTED},
            query_pre_attn_scalar=16,
            sliding_window=9,
            tie_word_embeddings=True,
        ),
    ),
}

GEMMA = ("gemma2", "gemma3")


def tiny_model(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model_class, config = FAMILIES[family]
    model = model_class(config).eval()
    with torch.no_grad():
        for weight in model.parameters():  # large and everywhere non-zero, so that no mistake can hide
            weight.copy_(torch.randn(weight.shape) * 0.2 + (1.0 if weight.dim() == 1 else 0.0))
        if family in GEMMA:  # llama.cpp stores its norms plus 1, which is exact for so few bits
            for weight in model.parameters():
                weight.copy_(weight.bfloat16())
    return model


def llama_cpp_order(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp rotates neighbouring dimensions where HF rotates halves, so its Llama q and k rows are interleaved."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def unstacked(weights: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights by the names of Hugging Face; the experts' gate and up apart, as llama.cpp has them."""
    for name, tensor in weights.items():
        experts, _, projection = name.rpartition(".")
        if projection == "gate_up_proj":
            yield from zip(
                (f"{experts}.gate_proj.weight", f"{experts}.up_proj.weight"), tensor.chunk(2, 1), strict=True
            )
        else:
            yield f"{name}.weight" if projection == "down_proj" else name, tensor


def write_gguf(
    path: Path, model: PreTrainedModel, family: str, quantised: bool = False, tensors: Any = None, **strings: str
) -> Path:
    config = model.config
    writer = gguf.GGUFWriter(path, family)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    if family != "phi3":  # has no such entry
        writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(int(config.head_dim * rope.get("partial_rotary_factor", 1.0)))
    if "factor" in rope:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
    if family == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if family == "qwen3moe":
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * len(SPECIALS) + [1] * (len(TOKENS) - len(SPECIALS)))
    writer.add_token_scores([0.0] * len(TOKENS))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(TEMPLATE)
    for key, value in strings.items():
        writer.add_string(key.replace("__", "."), value)
    names = gguf.get_tensor_name_map(
        {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}[family], config.num_hidden_layers
    )
    for name, tensor in unstacked(model.state_dict()) if tensors is None else tensors:
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        weight = tensor.numpy()
        if family == "llama" and ("q_proj" in name or "k_proj" in name):
            weight = llama_cpp_order(
                weight, config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            )
        if family in GEMMA and weight.ndim == 1:
            weight = weight + 1
        kind = gguf.GGMLQuantizationType.Q8_0 if quantised and weight.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(
            names.get_name(name, try_suffixes=(".weight", ".bias")) or name, gguf.quantize(weight, kind), raw_dtype=kind
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(3, 60)[None]).logits


@pytest.mark.skipif(not OLDER, reason="needs an older transformers")
def test_a_tokenizer_that_transformers_cannot_convert_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot convert the tokenizer"):
        gguf_tokenizer(write_gguf(tmp_path / "tiny.gguf", tiny_model("phi3"), "phi3"), tmp_path / "cache")


@pytest.mark.parametrize("family", [pytest.param(name, marks=NEWER if name == "phi3" else ()) for name in FAMILIES])
def test_model_comes_back_exactly(tmp_path: Path, family: str) -> None:
    model = tiny_model(family)
    folder = convert_gguf(write_gguf(tmp_path / "tiny.gguf", model, family), tmp_path / "cache")
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert loaded.config.model_type == model.config.model_type
    assert loaded.dtype == torch.float32
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in loaded.state_dict().items())
    # negative control below: the same weights in another order move the logits far more than this
    assert (logits(loaded) - logits(model)).abs().max() <= 1e-5
    heads = next(loaded.model.layers[0].self_attn.parameters()).data[:64]  # phi3: of the output, else of queries
    heads.copy_(torch.from_numpy(llama_cpp_order(heads.numpy(), 4).copy()))
    assert (logits(loaded) - logits(model)).abs().max() > 0.1


@pytest.mark.parametrize(
    ("name", "norm", "last", "memory", "layers"),
    [("gemma2", "attn_norm", 1, 1, 46), ("gemma3", "attn_q_norm", 6, 5, 62)],
)
def test_gemma_is_read_as_llama_cpp_computes_it(
    name: str, norm: str, last: int, memory: int, layers: int, tmp_path: Path
) -> None:
    """A norm of its own, its last layer, its layer with memory, and the layers of the largest model."""
    plain = tiny_model(name)
    path = write_gguf(tmp_path / "tiny.gguf", plain, name)
    header = GgufFile.read(path)
    norms = (norm, "post_attention_norm", "ffn_norm", "post_ffw_norm")  # llama.cpp's names; weights around 1 + 1
    assert all(1.5 < header.tensor(f"blk.{last}.{each}.weight").mean() < 2.5 for each in norms)
    lm = BeaconLM.from_pretrained(path, BeaconConfig(window=32, ratios=2))
    assert lm.groups.kinds == (Memory(), Sliding(9)) and lm.groups.with_memory == (memory,)
    ids = torch.arange(3, 35)[None]
    if name == "gemma2":
        plain.set_attn_implementation("eager")  # transformers 5.17 would take sdpa, which ignores the cap
    assert (lm(ids).logits - plain(ids).logits).abs().max() <= 1e-5
    changed = {f"{name}.block_count": layers, f"{name}.embedding_length": 100}
    largest = replace(header, metadata=header.metadata | changed)
    assert gguf_config(largest).query_pre_attn_scalar == 25 and gguf_config(header).query_pre_attn_scalar == 16


def config_without(name: str, *parts: str, folder: Path) -> Any:
    """The config of a tiny file whose metadata lack the names with these parts, as older files do."""
    header = GgufFile.read(write_gguf(folder / "tiny.gguf", tiny_model(name), name))
    older = {key: value for key, value in header.metadata.items() if not any(part in key for part in parts)}
    assert len(older) < len(header.metadata)
    return gguf_config(replace(header, metadata=older))


def test_gemma_2_of_older_files(tmp_path: Path) -> None:
    config = config_without("gemma2", "softcapping", "sli", folder=tmp_path)
    assert (config.attn_logit_softcapping, config.final_logit_softcapping, config.sliding_window) == (50, 30, 4096)


def test_gemma_3_of_older_files(tmp_path: Path) -> None:
    assert config_without("gemma3", ".rope.", folder=tmp_path).rope_parameters == {
        "full_attention": {"rope_type": "default", "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }


def test_quantised_weights_are_dequantised_exactly(tmp_path: Path) -> None:
    model = tiny_model("qwen2")
    folder = convert_gguf(write_gguf(tmp_path / "q8.gguf", model, "qwen2", quantised=True), tmp_path / "cache")
    got = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    for name, weight in model.state_dict().items():
        if weight.dim() == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            want = torch.from_numpy(gguf.dequantize(gguf.quantize(weight.numpy(), kind), kind))
            assert torch.equal(got[name], want)
            assert not torch.equal(want, weight)


def test_tokenizer_has_the_files_special_tokens_and_round_trips(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"), "llama")
    folder = convert_gguf(path, tmp_path / "cache")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (1, 2, 0)
    assert tokenizer.pad_token_id == 2  # not in the file: eos
    for settings in (model.config, model.generation_config):
        assert (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == (1, 2, 2)
    for text in ("hello  hello", "  x = 12\n\tnaïve 日本 ▁🎉 ", "<|im_start|>user\nhello<|im_end|>\n"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    # all three spaces before the digit go together; cut GPT-2's way they would be "ĠĠ" and "Ġ"
    assert tokenizer.tokenize("hello   12") == ["hello", "ĠĠĠ", "1", "2"]
    assert tokenizer("<|im_end|>").input_ids == [2]
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False)
    assert chat == "<|im_start|>user\nhello<|im_end|>\n"


def test_a_file_is_converted_once_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEACON_CACHE", str(tmp_path / "cache"))
    path = write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"), "llama")
    folder = convert_gguf(path)
    assert folder.parent == tmp_path / "cache"
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    (tmp_path / "elsewhere").mkdir()
    moved = path.rename(tmp_path / "elsewhere" / path.name)
    os.utime(moved, (0, 0))
    assert convert_gguf(moved) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    assert convert_gguf(moved, dtype=torch.bfloat16) != folder
    other = write_gguf(path, tiny_model("llama"), "llama", general__name="another")
    assert convert_gguf(other) != folder


def test_beacons_find_their_unpacked_backbone_on_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"), "llama")
    monkeypatch.setenv("BEACON_CACHE", str(tmp_path / "there"))
    BeaconLM.from_pretrained(str(path), BeaconConfig(window=32, placement="interleave")).save_pretrained(
        tmp_path / "beacons"
    )
    (tmp_path / "there").rename(tmp_path / "here")
    with pytest.raises(ValueError, match="if it has moved, say where to"):
        BeaconLM.from_pretrained(str(tmp_path / "beacons"))
    monkeypatch.setenv("BEACON_CACHE", str(tmp_path / "here"))
    lm = BeaconLM.from_pretrained(str(tmp_path / "beacons"))
    assert lm.config._name_or_path == str(convert_gguf(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), "no such GGUF file"),
        (lambda path: path.write_bytes(b""), "not a whole GGUF"),
        (lambda path: path.write_bytes(b"safetensors" * 100), "not a whole GGUF"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1000]), "not a whole GGUF"),
        (lambda path: path.write_bytes(path.read_bytes()[:1000]), "not a whole GGUF"),
        (lambda path: path.write_bytes(path.read_bytes()[:8] + struct.pack("<QQ", 2**60, 2**60)), "not a whole GGUF"),
    ],
    ids=["missing", "empty", "other", "truncated-weights", "truncated-header", "absurd-counts"],
)
def test_damaged_files_are_named(tmp_path: Path, change, message: str) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"), "llama")
    change(path)
    with pytest.raises(ValueError, match=message) as error:
        convert_gguf(path, tmp_path / "cache")
    assert str(path) in str(error.value)
    assert not [entry for entry in tmp_path.glob("cache/*") if entry.is_dir()]


def test_what_cannot_be_represented_is_refused(tmp_path: Path) -> None:
    model = tiny_model("llama")
    scaled = write_gguf(tmp_path / "yarn.gguf", model, "llama", llama__rope__scaling__type="yarn")
    with pytest.raises(ValueError, match="scales RoPE \\(yarn\\)"):
        convert_gguf(scaled, tmp_path / "cache")
    phi, factors = tiny_model("phi3"), ("rope_factors_long.weight", torch.ones(4))
    tensors = [*phi.state_dict().items(), factors]
    with pytest.raises(ValueError, match="scales RoPE \\(longrope\\)"):
        convert_gguf(write_gguf(tmp_path / "long.gguf", phi, "phi3", tensors=tensors), tmp_path / "cache")
    writer = gguf.GGUFWriter(tmp_path / "bert.gguf", "bert")
    writer.add_token_list(TOKENS)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ValueError, match=r"architecture 'bert'; allowed: llama, .*, gemma3"):
        convert_gguf(tmp_path / "bert.gguf", tmp_path / "cache")


# Folders appear whole or not at all. The builders below run in processes of their own, so they are named functions.


def build_slowly(folder: Path) -> None:
    (folder / "first").write_text(str(os.getpid()))
    assert not list(folder.parent.glob("built-*"))
    (folder.parent / f"built-{os.getpid()}").touch()
    multiprocessing.Event().wait(0.3)
    (folder / "second").touch()


def die_halfway(folder: Path) -> None:
    (folder / "first").touch()
    os.kill(os.getpid(), signal.SIGKILL)


def fail_halfway(folder: Path) -> None:
    (folder / "first").touch()
    raise RuntimeError("disk full")


def test_a_killed_build_leaves_nothing_and_is_made_good(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=build_once, args=(tmp_path / "model", die_halfway))
    process.start()
    process.join(20)
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "model").exists()
    with pytest.raises(RuntimeError, match="disk full"):
        build_once(tmp_path / "model", fail_halfway)
    assert [entry for entry in tmp_path.iterdir() if entry.is_dir()] == []
    folder = build_once(tmp_path / "model", lambda partial: (partial / "whole").touch())
    assert [entry.name for entry in folder.iterdir()] == ["whole"]


def test_two_processes_at_once_build_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=build_once, args=(tmp_path / "model", build_slowly)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(20)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(list(tmp_path.glob("built-*"))) == 1
    assert sorted(entry.name for entry in (tmp_path / "model").iterdir()) == ["first", "second"]


# Through the paths that users give


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BEACON_CACHE", str(tmp_path / "cache"))
    (tmp_path / "files").mkdir()
    return write_gguf(tmp_path / "files" / "tiny.gguf", tiny_model("qwen2"), "qwen2")


def cached(tmp_path: Path) -> list[str]:
    return sorted(entry.name.rpartition("-")[0].rpartition("-")[0] for entry in tmp_path.glob("cache/tiny-*"))


def test_a_file_or_its_folder_in_any_case(small: Path, tmp_path: Path) -> None:
    want = BeaconLM.from_pretrained(small, BeaconConfig(window=32, placement="interleave"))
    upper = small.rename(small.with_name("tiny.GGUF"))
    for path in (upper, upper.parent):
        lm = BeaconLM.from_pretrained(path, BeaconConfig(window=32, placement="interleave"))
        assert all(torch.equal(value, lm.state_dict()[name]) for name, value in want.state_dict().items())
        assert load_tokenizer(path).tokenize("hello   12") == ["hello", "ĠĠĠ", "1", "2"]
    assert cached(tmp_path) == ["tiny-float32", "tiny-tokenizer"]


def test_the_cache_has_the_dtype_that_is_asked_for(small: Path, tmp_path: Path) -> None:
    exact = BeaconLM.from_pretrained(small, BeaconConfig(window=32, placement="interleave"))
    half = BeaconLM.from_pretrained(
        small, BeaconConfig(window=32, placement="interleave"), dtype="bfloat16", beacon_dtype="float32"
    )
    assert cached(tmp_path) == ["tiny-bfloat16", "tiny-float32", "tiny-tokenizer"]
    with safe_open(Path(half.config._name_or_path) / "model.safetensors", "pt") as opened:
        names = list(opened.keys())
        assert all(torch.equal(opened.get_tensor(n), exact.state_dict()[n].to(torch.bfloat16)) for n in names)
    assert half.model.norm.weight.dtype == torch.bfloat16
    assert half.model.beacon_embed_tokens.weight.dtype == torch.float32


def test_beacons_find_their_backbone_in_another_dtype(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = BeaconLM.from_pretrained(small, BeaconConfig(window=32, placement="interleave"), dtype=torch.bfloat16)
    half.save_pretrained(tmp_path / "beacons")
    monkeypatch.setenv("BEACON_CACHE", str(tmp_path / "elsewhere"))
    (tmp_path / "cache").rename(tmp_path / "gone")
    folder = convert_gguf(small)
    lm = BeaconLM.from_pretrained(tmp_path / "beacons")
    assert lm.config._name_or_path == str(folder) and "float32" in str(folder)


def test_a_tokenizer_needs_no_weights(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_weights(monkeypatch)
    assert load_tokenizer(small).eos_token_id == 2
    assert cached(tmp_path) == ["tiny-tokenizer"]


def test_a_tensor_that_no_model_uses_is_refused(tmp_path: Path) -> None:
    model = tiny_model("llama")
    model.model.layers[0].self_attn.q_proj.bias = torch.nn.Parameter(torch.ones(64))
    with pytest.raises(ValueError, match=r"has blk\.0\.attn_q\.bias, which llama does not use"):
        convert_gguf(write_gguf(tmp_path / "tiny.gguf", model, "llama"), tmp_path / "cache")


def test_the_file_of_a_vocabulary_has_no_model(tmp_path: Path) -> None:
    model = tiny_model("llama")
    path = write_gguf(tmp_path / "vocab.gguf", model, "llama", tensors=())
    assert AutoTokenizer.from_pretrained(gguf_tokenizer(path, tmp_path / "cache")).eos_token_id == 2
    with pytest.raises(ValueError, match="holds a vocabulary without a model"):
        convert_gguf(path, tmp_path / "cache")
