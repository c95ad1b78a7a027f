"""A model whose scores can be told by hand, and a tokenizer that needs no download."""

from types import SimpleNamespace

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from torch import nn
from transformers import PreTrainedTokenizerFast

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
        self.beacon = SimpleNamespace(window=window, ratios=(4, 2))
        self.calls: list[object] = []

    @property
    def device(self) -> torch.device:
        return self.penalty.device

    def beacon_parameters(self):
        return iter([self.penalty])

    def forward(self, input_ids, attention_mask=None, labels=None, ratios=None, return_logits=True, logits_to_keep=0):
        self._record(ratios)
        later = 3.0 if ratios == "drop" else 1 + ratios / 10 + self.penalty
        loss = None if labels is None else self._loss(labels, later)
        logits = self._copy(input_ids, logits_to_keep, see_all=ratios != "drop") if return_logits else None
        return SimpleNamespace(token_loss=loss, logits=logits)

    def dense(self, input_ids, attention_mask=None, logits_to_keep=0):
        self._record("dense")
        return SimpleNamespace(logits=self._copy(input_ids, logits_to_keep, see_all=True))

    def dense_token_loss(self, input_ids, attention_mask, labels):
        self._record("dense")
        return self._loss(labels, 1.0)

    def _record(self, call) -> None:
        assert not any(module.training for module in self.modules())
        assert not torch.is_grad_enabled()
        self.calls.append(call)

    def _loss(self, labels, later):
        first_window = torch.arange(labels.shape[1]) < self.beacon.window
        loss = torch.where(first_window, torch.tensor(1.0), torch.as_tensor(later)).expand(labels.shape).clone()
        loss[:, 0] = 0
        return loss

    def _copy(self, input_ids, keep, see_all):
        logits = torch.zeros(len(input_ids), keep, self.vocabulary)
        for row, ids in enumerate(input_ids.tolist()):
            for column in range(keep):
                end = len(ids) - keep + column
                start = 0 if see_all else end // self.beacon.window * self.beacon.window
                logits[row, column, _copied(ids[start : end + 1])] = 1
        return logits


def _copied(seen: list[int]) -> int:
    """The token after the longest earlier match of the end of `seen`."""

    def match(i: int) -> int:
        length = 0
        while length < i and seen[i - 1 - length] == seen[-1 - length]:
            length += 1
        return length

    return seen[max(range(1, len(seen)), key=match)] if len(seen) > 1 else 0


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
