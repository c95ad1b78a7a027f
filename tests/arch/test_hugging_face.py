"""What is expected of a Hugging Face model works, or is refused in one sentence."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    DynamicCache,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    pipeline,
)

from beacon_lit import BeaconConfig, BeaconLM
from beacon_lit.tiny import byte_tokenizer
from tests.arch.folders import IDS, assert_same, save_backbone, trained
from tests.arch.tiny import FAMILIES, tiny, tokens

BEACON = BeaconConfig(window=8, ratios=(2, 4), sink=2, overlap=3, eval_ratio=2, placement="interleave")


@pytest.fixture
def lm() -> BeaconLM:
    return tiny("qwen2", BEACON).eval()


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    byte_tokenizer().save_pretrained(tmp_path / "backbone")
    return save_backbone(tmp_path / "backbone", vocab_size=260)


# The vocabulary


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
def test_resized_vocabulary(family: str, tied: bool) -> None:
    lm = tiny(family, BEACON, tie_word_embeddings=tied)
    before = lm.eval()(IDS, ratios=2, labels=IDS)
    size, trained_names = lm.config.vocab_size, {name for name, p in lm.named_parameters() if p.requires_grad}
    lm.resize_token_embeddings(size + 7)
    after = lm(IDS, ratios=2, labels=IDS)
    assert after.logits.shape[-1] == size + 7 == len(lm.get_input_embeddings().weight)
    assert torch.allclose(after.logits[..., :size], before.logits, atol=1e-6)
    assert after.loss > before.loss  # the loss is that of the new head
    assert {name for name, p in lm.named_parameters() if p.requires_grad} == trained_names
    assert (lm.lm_head.weight is lm.model.embed_tokens.weight) == tied
    new = torch.full((1, 20), size + 6)
    assert lm.generate(new, max_new_tokens=2, do_sample=False).shape == (1, 22)
    lm.train()(new, labels=new).loss.backward()
    assert all(parameter.grad is not None for parameter in lm.beacon_parameters())


def test_a_resized_model_is_saved_whole(backbone: Path, tmp_path: Path) -> None:
    lm = trained(backbone, BEACON)
    lm.resize_token_embeddings(300)
    lm.save_pretrained(tmp_path / "whole", beacon_only=False)
    assert_same(lm, BeaconLM.from_pretrained(tmp_path / "whole"))
    lm.save_pretrained(tmp_path / "beacons")  # no backbone of this size is on disk but in the folder above
    with pytest.raises(ValueError, match=r"does not say which backbone it is for; name it: backbone=\.\.\."):
        BeaconLM.from_pretrained(tmp_path / "beacons")


def test_another_head(lm: BeaconLM) -> None:
    lm.tie_weights()
    want = lm(IDS, ratios=2, labels=IDS)
    head = torch.nn.Linear(lm.config.hidden_size, lm.config.vocab_size, bias=False)
    head.weight = lm.get_output_embeddings().weight
    lm.set_output_embeddings(head)
    assert torch.equal(lm(IDS, ratios=2, labels=IDS).loss, want.loss)
    lm.set_input_embeddings(lm.get_input_embeddings())
    assert torch.equal(lm(IDS, ratios=2).logits, want.logits)


# Arguments of forward and generate


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"past_key_values": DynamicCache()},
            "past_key_values=DynamicCache is not allowed: .*; allowed: a BeaconCache",
        ),
        ({"cache": DynamicCache()}, "DynamicCache is not allowed"),
        ({"position_ids": torch.arange(29)[None]}, "position_ids is not allowed: .*; allowed: attention_mask"),
        ({"cache_position": torch.arange(29)}, "cache_position is not allowed"),
        ({"inputs_embeds": torch.zeros(1, 29, 32)}, "inputs_embeds is not allowed: .*; allowed: input_ids"),
        ({"output_attentions": True}, "output_attentions is not allowed: .*; allowed: observe="),
        ({"output_hidden_states": True}, "output_hidden_states is not allowed: .*; allowed: observe="),
        ({"input_ids": None}, "input_ids=None is not allowed"),
    ],
)
def test_arguments_that_cannot_be_honoured(arguments: dict[str, Any], message: str, lm: BeaconLM) -> None:
    with pytest.raises(ValueError, match=message):
        lm(**{"input_ids": IDS, "ratios": 2, **arguments})


def test_arguments_that_ask_for_nothing(lm: BeaconLM) -> None:
    nothing = dict(inputs_embeds=None, output_attentions=None, output_hidden_states=False, return_dict=None)
    out = lm(input_ids=IDS, token_type_ids=torch.zeros_like(IDS), ratios=2, **nothing)
    assert torch.equal(out.logits, lm(IDS, ratios=2).logits)
    assert isinstance(lm(IDS, ratios=2, return_dict=False), tuple)
    with pytest.raises(TypeError, match="forward has no argument 'labells'"):
        lm(IDS, labells=IDS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"past_key_values": DynamicCache()}, "past_key_values=DynamicCache is not allowed"),
        ({"inputs_embeds": torch.zeros(1, 9, 32)}, "inputs_embeds is not allowed: .*; allowed: input_ids"),
        ({"prompt_lookup_num_tokens": 2}, "prompt_lookup_num_tokens is not allowed: .*; allowed: greedy search"),
    ],
)
def test_options_of_generate_that_cannot_be_honoured(options: dict[str, Any], message: str, lm: BeaconLM) -> None:
    with pytest.raises(ValueError, match=message):
        lm.generate(IDS, max_new_tokens=2, **options)


def test_assisted_generation_is_refused(lm: BeaconLM) -> None:
    with pytest.raises(ValueError, match=r"assistant_model is not allowed: .*; allowed: greedy search"):
        lm.generate(IDS, max_new_tokens=2, assistant_model=lm)


# What others do with a model


def test_a_pipeline(lm: BeaconLM, backbone: Path, tmp_path: Path) -> None:
    lm = trained(backbone, BEACON).eval()
    lm.save_pretrained(tmp_path / "beacons")
    texts = ["hello there, how are you?", "a"]
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "return_full_text": False}
    want = pipeline("text-generation", model=lm, tokenizer=byte_tokenizer())(texts, **options)
    for given in (str(tmp_path / "beacons"), lm):
        tokenizer = None if given is not lm else byte_tokenizer()
        pipe = pipeline("text-generation", model=given, tokenizer=tokenizer, batch_size=2)
        assert type(pipe.model) is type(lm) and pipe(texts, **options) == want


def test_dtypes(lm: BeaconLM) -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        assert lm.to(dtype)(IDS, ratios=2).logits.dtype == dtype
    assert lm.half().dtype == torch.float16 and lm.float().dtype == torch.float32


def test_a_whole_pickle(lm: BeaconLM) -> None:
    buffer = io.BytesIO()
    torch.save(lm, buffer)
    buffer.seek(0)
    assert_same(lm, torch.load(buffer, weights_only=False))


def test_gradient_checkpointing(lm: BeaconLM) -> None:
    def gradients() -> list[torch.Tensor]:
        lm.zero_grad()
        lm(IDS, labels=IDS, ratios=2).loss.backward()
        return [parameter.grad.clone() for parameter in lm.beacon_parameters()]

    lm.train()
    want = gradients()
    lm.gradient_checkpointing_enable()
    lm.enable_input_require_grads()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(gradients(), want, strict=True))
    with pytest.raises(ValueError, match="use_reentrant=True is not allowed"):
        lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    lm.gradient_checkpointing_disable()
    assert all(torch.equal(a, b) for a, b in zip(gradients(), want, strict=True))


def test_peft_around_the_model(lm: BeaconLM, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    plain = lm(IDS, ratios=2).logits
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    model = peft.get_peft_model(lm, config)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert names and all("lora" in name and "beacon" not in name for name in names)
    model(input_ids=IDS, labels=IDS, ratios=2).loss.backward()
    adapted = model.eval()(input_ids=IDS, ratios=2).logits
    assert (adapted - plain).abs().max() > 1e-3
    assert model.generate(input_ids=IDS, max_new_tokens=2).shape == (1, 31)
    model.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(tiny("qwen2", BEACON).eval(), tmp_path / "adapter")
    assert torch.equal(again(input_ids=IDS, ratios=2).logits, adapted)
    assert torch.allclose(model.merge_and_unload()(IDS, ratios=2).logits, adapted, atol=1e-5)


def test_push_without_a_network(lm: BeaconLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"push_to_hub\('someone/beacons'\) failed: .*; allowed: with a network"):
        lm.push_to_hub("someone/beacons")
    with pytest.raises(ValueError, match=r"push_to_hub is not allowed with beacon_only=True; .* lm\.push_to_hub"):
        lm.save_pretrained(tmp_path, push_to_hub=True)


def test_what_is_pushed_are_the_beacons(backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, pushed = trained(backbone, BEACON), []

    def upload(self: Any, folder: str, *_: Any, **__: Any) -> None:
        pushed.extend(sorted(file.name for file in Path(folder).iterdir()))

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda *_, **__: type("Url", (), {"repo_id": "a/b"})())
    monkeypatch.setattr(BeaconLM, "_upload_modified_files", upload)
    card = type("Card", (), {"save": lambda *_: None})()
    monkeypatch.setattr("transformers.utils.hub.create_and_tag_model_card", lambda *_, **__: card)
    lm.push_to_hub("a/b")
    assert {"beacon.safetensors", "beacon_config.json", "config.json", "tokenizer.json"} <= set(pushed)
    assert "model.safetensors" not in pushed


def test_a_trained_backbone_is_not_left_out_silently(
    backbone: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lm = trained(backbone, BEACON)
    lm.save_pretrained(tmp_path / "one")
    assert not caplog.records
    lm.model.norm.requires_grad_(True)
    lm.save_pretrained(tmp_path / "two")
    assert "leaves out the backbone, which is trained as well" in caplog.text


# Hugging Face's Trainer


class StopAt(TrainerCallback):
    """End training after a step, as a time limit does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


def trainer(lm: BeaconLM, folder: Path, *callbacks: TrainerCallback, **options: Any) -> Trainer:
    pytest.importorskip("accelerate")  # the `demo` extra
    rows = [{"input_ids": row, "labels": row} for row in tokens(8, 29)]
    arguments = TrainingArguments(
        str(folder), max_steps=4, per_device_train_batch_size=2, save_steps=2, learning_rate=1e-2, report_to=[],
        use_cpu=True, disable_tqdm=True, **options,
    )  # fmt: skip
    return Trainer(lm, arguments, train_dataset=rows, eval_dataset=rows[:4], callbacks=list(callbacks))


def fresh(backbone: Path) -> BeaconLM:
    """A model that draws no ratios, of which Hugging Face's checkpoints know nothing."""
    return BeaconLM.from_pretrained(backbone, BeaconConfig(window=8, ratios=2, sink=2, placement="interleave"))


def test_the_trainer_resumes(backbone: Path, tmp_path: Path) -> None:
    whole = fresh(backbone)
    trainer(whole, tmp_path / "whole", gradient_accumulation_steps=2).train()
    trainer(fresh(backbone), tmp_path / "parts", StopAt(2), gradient_accumulation_steps=2).train()
    saved = tmp_path / "parts" / "checkpoint-2"
    lm = fresh(backbone)
    trainer(lm, tmp_path / "parts", gradient_accumulation_steps=2).train(resume_from_checkpoint=str(saved))
    assert_same(whole, lm)
    assert_same(whole, BeaconLM.from_pretrained(tmp_path / "parts" / "checkpoint-4"))
    early, late = BeaconLM.from_pretrained(saved).state_dict(), lm.state_dict()
    assert any(not torch.equal(early[name], late[name]) for name in early)
    assert sum(file.stat().st_size for file in saved.glob("*.safetensors")) < 100_000  # the beacons alone


def test_the_trainer_resumes_with_an_adapter(backbone: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")

    def adapted() -> BeaconLM:
        torch.manual_seed(0)
        lm = fresh(backbone)
        lm.add_adapter(peft.LoraConfig(r=2, target_modules=["q_proj"]))
        return lm

    whole = adapted()
    trainer(whole, tmp_path / "whole").train()
    trainer(adapted(), tmp_path / "parts", StopAt(2)).train()
    lm = adapted()
    trainer(lm, tmp_path / "parts").train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-2"))
    assert_same(whole, lm)
    assert any("lora_B" in name and value.any() for name, value in lm.state_dict().items())
    assert_same(whole, BeaconLM.from_pretrained(tmp_path / "parts" / "checkpoint-4"))


def test_the_trainer_loads_the_best_model(backbone: Path, tmp_path: Path) -> None:
    lm = fresh(backbone)
    run = trainer(
        lm, tmp_path / "run", eval_strategy="steps", eval_steps=2, load_best_model_at_end=True, greater_is_better=True,
        metric_for_best_model="loss",
    )  # fmt: skip
    run.train()
    best = Path(run.state.best_model_checkpoint)
    assert best.name == "checkpoint-2"  # the one with the greatest loss, which the last one does not have
    assert_same(lm, BeaconLM.from_pretrained(best))
