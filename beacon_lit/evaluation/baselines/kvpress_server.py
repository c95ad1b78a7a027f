"""Answers prompts whose cache methods of kvpress have compressed. A program of its own, which needs no beacon_lit.

    python kvpress_server.py BACKBONE DEVICE DTYPE

kvpress needs an older transformers than beacon_lit, hence an environment and a process of its own. Each line of
standard input is a batch, and gets a line on standard output with an answer to each request:

    {"method": "compactor", "requests": [{"ids": [...], "tail": 100, "keep": 500, "max_new_tokens": 20,
                                          "min_new_tokens": 0, "end_tokens": [2]}, ...]}
    [{"ids": [...], "kept": 600.0, "seconds": 0.5}, ...]

A prompt without its last `tail` tokens is read and compressed by itself to `keep` keys per head and layer, on average.
The tail follows, then greedy decoding, all requests at once; "kept" counts the keys behind the tail. What methods with
a budget per head (KVzip, AdaKV) remove is only masked by kvpress: such keys do not count as kept, but take time and
memory.

Shapes: `B` requests, `H` key and value heads, `S` tokens of the compressed text, `D` width of a head.
"""

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from importlib.machinery import ModuleSpec
from itertools import groupby
from time import perf_counter
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer, DynamicCache

Request = Mapping[str, Any]
Layer = tuple[Tensor, Tensor, Tensor]  # keys (H, S, D), values (H, S, D), which of them are kept (H, S)
Press = Callable[[Any, float], Any]

# By the name in configs: kvpress, share of the keys to remove -> a press. Variants begin with the name of their method.
METHODS: dict[str, Press] = {
    "kvzip": lambda kv, share: kv.KVzipPress(share),
    "kvzip_layerwise": lambda kv, share: kv.KVzipPress(share, layerwise=True),
    "kvzip_plus": lambda kv, share: kv.KVzipPress(share, kvzip_plus_normalization=True),
    "compactor": lambda kv, share: kv.CompactorPress(share),
    "expected_attention": lambda kv, share: kv.AdaKVPress(kv.ExpectedAttentionPress(share, epsilon=1e-2)),
    "expected_attention_eps0": lambda kv, share: kv.AdaKVPress(kv.ExpectedAttentionPress(share)),
    "expected_attention_uniform": lambda kv, share: kv.ExpectedAttentionPress(share, epsilon=1e-2),
    "snapkv": lambda kv, share: kv.SnapKVPress(share),
    "snapkv_adakv": lambda kv, share: kv.AdaKVPress(kv.SnapKVPress(share)),
    "keydiff": lambda kv, share: kv.KeyDiffPress(share),
    "streaming": lambda kv, share: kv.StreamingLLMPress(share),
    "knorm": lambda kv, share: kv.KnormPress(share),
}


def answers(model: Any, requests: Sequence[Request], make_press: Callable[[float], Any]) -> Iterator[dict[str, Any]]:
    """Answer a batch.

    Args:
        model: the backbone.
        requests: as in the module's docstring, of any lengths.
        make_press: share of the keys to remove -> a press, a context manager for a model.

    Yields:
        For each request in order the "ids" of the answer with its end token, "kept" and "seconds" (shared evenly).
    """
    for _, group in groupby(requests, lambda request: request["tail"]):  # tails of one length are read at once
        rows, start = list(group), perf_counter()
        model.set_attn_implementation("sdpa")
        states = [compress(model, row["ids"][: -row["tail"]], row["keep"], make_press) for row in rows]
        kept = [sum(keep.sum().item() / len(keep) for *_, keep in state) / len(state) for state in states]
        model.set_attn_implementation("kept")
        found = decode(model, states, rows)
        seconds = (perf_counter() - start) / len(rows)
        for row, ids, keys in zip(rows, found, kept, strict=True):
            yield {"ids": ids, "kept": keys + row["tail"], "seconds": seconds}


def compress(model: Any, ids: Sequence[int], keep: int, make_press: Callable[[float], Any]) -> list[Layer]:
    """Read a text and compress its cache to `keep` keys per head; a text that is not longer stays whole."""
    torch.manual_seed(0)  # Compactor draws a random projection
    cache = DynamicCache()
    # Presses round the number of kept keys down.
    with nullcontext() if keep >= len(ids) else make_press(1 - (keep + 1e-3) / len(ids))(model):
        model.model(input_ids=torch.tensor([ids], device=model.device), past_key_values=cache)
    return [_layer(module, layer) for module, layer in zip(_attentions(model), cache.layers, strict=True)]


def _attentions(model: Any) -> list[Any]:
    return [layer.self_attn for layer in model.model.layers]


def _layer(module: Any, layer: Any) -> Layer:
    """Take what is left of a layer's cache, and which keys the press has masked."""
    keep = torch.ones(layer.keys.shape[1:3], dtype=torch.bool, device=layer.keys.device)
    masked = getattr(module, "masked_key_indices", None)  # row, head and token of each
    if masked is not None:
        keep[masked[1].to(keep.device), masked[2].to(keep.device)] = False
        module.masked_key_indices = None
    return layer.keys[0], layer.values[0], keep


def decode(model: Any, states: Sequence[Sequence[Layer]], requests: Sequence[Request]) -> list[list[int]]:
    """Read the tails of requests, of one length, behind their compressed texts, and decode greedily."""
    cache = DynamicCache()
    for index, module in enumerate(_attentions(model)):
        keys, values, module.keep = (_stacked([state[index][part] for state in states]) for part in range(3))
        cache.update(keys, values, index)
    ids = torch.tensor([row["ids"][-row["tail"] :] for row in requests], device=model.device)
    first = torch.tensor([[len(row["ids"]) - row["tail"]] for row in requests], device=model.device)
    positions = first + torch.arange(ids.shape[1], device=model.device)
    found: list[list[int]] = [[] for _ in requests]
    unfinished = set(range(len(requests)))
    while unfinished:
        out = model(input_ids=ids, position_ids=positions, past_key_values=cache, logits_to_keep=1)
        logits = out.logits[:, -1]
        for row in unfinished:
            if len(found[row]) < requests[row]["min_new_tokens"]:
                logits[row, requests[row]["end_tokens"]] = -torch.inf
        ids, positions = logits.argmax(-1, keepdim=True), positions[:, -1:] + 1
        for row, token in ((row, int(ids[row])) for row in sorted(unfinished)):
            found[row].append(token)
            if token in requests[row]["end_tokens"] or len(found[row]) == requests[row]["max_new_tokens"]:
                unfinished.remove(row)
    for module in _attentions(model):
        del module.keep
    return found


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Stack (H, S, ...) tensors as rows, with zeros in front of the shorter ones."""
    width = max(tensor.shape[1] for tensor in tensors)
    out = tensors[0].new_zeros(len(tensors), tensors[0].shape[0], width, *tensors[0].shape[2:])
    for row, tensor in enumerate(tensors):
        out[row, :, width - tensor.shape[1] :] = tensor
    return out


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: None, scaling: float | None = None, **_: Any
) -> tuple[Tensor, None]:
    """Attend to the kept keys of each row and head, `module.keep` (B, H, S), and causally to those behind them."""
    (rows, heads, new, width), groups = query.shape, query.shape[1] // key.shape[1]
    behind = key.shape[2] - module.keep.shape[2]
    causal = torch.ones(new, behind, dtype=torch.bool, device=key.device).tril(behind - new)
    text = module.keep[:, :, None].expand(-1, -1, new, -1)
    seen = torch.cat([text, causal.expand(rows, key.shape[1], -1, -1)], -1).repeat(1, 1, groups, 1)
    query = query.reshape(rows, key.shape[1], groups * new, width)
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scaling)
    return out.reshape(rows, heads, new, width).transpose(1, 2), None


def load(backbone: str, device: str, dtype: str) -> Any:
    """Load a backbone from a folder."""
    AttentionInterface.register("kept", attend)
    model = AutoModelForCausalLM.from_pretrained(backbone, dtype=getattr(torch, dtype), attn_implementation="sdpa")
    return model.to(device).eval()


def import_kvpress(backbone: str) -> ModuleType:
    """Import kvpress, for texts in the tokens of a backbone."""
    for name, members in {"datasets": {"load_dataset": None}, "fire": {}}.items():
        if importlib.util.find_spec(name) is None:  # kvpress imports it, but none of the methods uses it
            sys.modules[name] = ModuleType(name)
            sys.modules[name].__spec__ = ModuleSpec(name, None)
            vars(sys.modules[name]).update(members)
    kvpress = importlib.import_module("kvpress")
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    kvzip: Any = importlib.import_module("kvpress.presses.kvzip_press")
    kvzip.AutoTokenizer = SimpleNamespace(from_pretrained=lambda _: tokenizer)  # which it loads anew for every text
    return kvpress


@torch.no_grad()
def main() -> None:
    """Answer lines until standard input ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not get among the answers
    backbone, device, dtype = sys.argv[1:]
    kvpress, model = import_kvpress(backbone), load(backbone, device, dtype)
    for line in sys.stdin:
        batch = json.loads(line)
        found = answers(model, batch["requests"], lambda share: METHODS[batch["method"]](kvpress, share))  # noqa: B023
        print(json.dumps(list(found)), file=out, flush=True)
        if model.device.type == "cuda":
            torch.cuda.empty_cache()  # beacon_lit uses the same GPU


if __name__ == "__main__":
    main()
