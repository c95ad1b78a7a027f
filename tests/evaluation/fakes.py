"""Models whose scores can be worked out by hand, a tiny real one, and a tokenizer that needs no download."""

from types import SimpleNamespace

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from torch import nn
from transformers import LlamaConfig, PreTrainedTokenizerFast

from beacon_lit import BeaconConfig, BeaconLM

WINDOW = 16


class FakeLM(nn.Module):
    """Tokens of the first window cost 1 nat. Later ones: dense 1, window-only 3, ratio a 1 + a / 10 + `penalty`.

    Its logits come from copying: it predicts what followed the longest earlier match of the latest tokens, among the
    tokens that the mode sees: all of them, but with "drop" those of the window alone.
    """

    def __init__(self, vocabulary: int = 512, window: int = WINDOW, penalty: float = 0.0) -> None:
        super().__init__()
        self.penalty = nn.Parameter(torch.tensor(penalty))  # plays the beacons: training it changes ratios alone
        self.backbone = nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5)).requires_grad_(False)
        self.vocabulary = vocabulary
        self.beacon = BeaconConfig(window=window, ratios=(4, 2), placement="interleave")
        self.positions = 4096
        self.generation_config = SimpleNamespace(eos_token_id=None)
        self.calls: list[object] = []

    @property
    def device(self) -> torch.device:
        return self.penalty.device

    def beacon_parameters(self):
        return iter([self.penalty])

    def forward(self, input_ids, attention_mask=None, labels=None, ratios=None, return_logits=True, use_cache=False):
        self._record(ratios)
        assert labels is not None and not return_logits and use_cache
        later = 3.0 if ratios == "drop" else 1 + ratios / 10 + self.penalty
        lengths = [input_ids.shape[1]] * len(input_ids) if attention_mask is None else attention_mask.sum(1).tolist()
        return SimpleNamespace(token_loss=self._loss(labels, later), cache=self._cache(lengths, ratios))

    def dense_token_loss(self, input_ids, attention_mask, labels):
        self._record("dense")
        return self._loss(labels, 1.0)

    def generate(self, input_ids, attention_mask, generation_config, ratios=None, **options):
        self._record(ratios)
        sequences = self._copied(input_ids, attention_mask, generation_config, see_all=ratios != "drop")
        lengths = (attention_mask.sum(1) + sequences.shape[1] - input_ids.shape[1]).tolist()
        return SimpleNamespace(sequences=sequences, past_key_values=self._cache(lengths, ratios))

    def dense_generate(self, input_ids, attention_mask, generation_config, **options):
        self._record("dense")
        return SimpleNamespace(
            sequences=self._copied(input_ids, attention_mask, generation_config, see_all=True), past_key_values=None
        )

    def dense_cache_bytes(self, tokens):
        return 4 * tokens

    def _cache(self, lengths, ratios):
        """Four bytes a slot."""
        kept = [length if ratios == "drop" else length // ratios for length in lengths]
        return SimpleNamespace(
            select=lambda rows: SimpleNamespace(visible=SimpleNamespace(nbytes=4 * sum(kept[row] for row in rows)))
        )

    def _record(self, call) -> None:
        assert not any(module.training for module in self.modules())
        assert not torch.is_grad_enabled()
        self.calls.append(call)

    def _loss(self, labels, later):
        first_window = torch.arange(labels.shape[1]) < self.beacon.window
        loss = torch.where(first_window, torch.tensor(1.0), torch.as_tensor(later)).expand(labels.shape).clone()
        loss[:, 0] = 0
        return loss

    def _copied(self, input_ids, attention_mask, config, see_all):
        assert not config.do_sample and config.num_beams == 1
        rows = []
        for ids, mask in zip(input_ids.tolist(), attention_mask.tolist(), strict=True):
            seen = [token for token, is_there in zip(ids, mask, strict=True) if is_there]
            new = []
            for _ in range(config.max_new_tokens):
                last = len(seen) - 1  # the window that the latest token is in
                start = 0 if see_all else last // self.beacon.window * self.beacon.window
                new.append(_copied(seen[start:]))
                seen.append(new[-1])
            rows.append(ids + new)
        return torch.tensor(rows)


class AnsweringLM(FakeLM):
    """Answers with what `said` makes of the text that its mode sees, and an end token."""

    tokenizer: PreTrainedTokenizerFast

    def said(self, text: str) -> str:
        raise NotImplementedError

    def _copied(self, input_ids, attention_mask, config, see_all):
        rows = []
        for ids, mask in zip(input_ids.tolist(), attention_mask.tolist(), strict=True):
            seen = [token for token, is_there in zip(ids, mask, strict=True) if is_there]
            start = 0 if see_all else (len(seen) - 1) // self.beacon.window * self.beacon.window
            answer = self.said(self.tokenizer.decode(seen[start:]))
            new = [*self.tokenizer(answer)["input_ids"], self.tokenizer.eos_token_id]
            rows.append(ids + (new + [0] * config.max_new_tokens)[: config.max_new_tokens])
        return torch.tensor(rows)


def _copied(seen: list[int]) -> int:
    """The token after the longest earlier match of the end of `seen`."""

    def match(i: int) -> int:
        length = 0
        while length < i and seen[i - 1 - length] == seen[-1 - length]:
            length += 1
        return length

    return seen[max(range(1, len(seen)), key=match)] if len(seen) > 1 else 0


def tiny_lm(vocabulary: int) -> BeaconLM:
    """A real BeaconLM, tiny and with random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, initializer_range=0.3,
    )  # fmt: skip
    return BeaconLM.from_config(config, BeaconConfig(window=WINDOW, ratios=(2, 4), sink=1, placement="interleave"))


def byte_tokenizer(bos: bool = False) -> PreTrainedTokenizerFast:
    """A small byte-level BPE, digits one by one; with `bos`, texts begin with <s>."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "</s>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(["The pass key is hidden. The river is wide and the hills are low."] * 3, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
