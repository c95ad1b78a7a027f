"""A beacon model as a slow loop over windows: what one pass over all of them must reproduce.

Written from the definition, with no code of `beacon_lit.arch`: one row, one window after another, explicit lists of
keys and values before RoPE as memory, and a mask decided pair by pair. Only weights, norms and MLPs are the model's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beacon_lit import BeaconLM

# What a token leaves behind in a layer: its key before RoPE and its value, each (K, H).
Entry = tuple[Tensor, Tensor]
HeadEntry = tuple[Tensor, Tensor]  # of one KV head, each (H,)


@dataclass(frozen=True)
class Token:
    """Token number `index` of its kind in its window; a beacon's unit ends at raw token `after`."""

    is_beacon: bool
    index: int
    after: int = 0


@dataclass(frozen=True)
class Rule:
    """A placement by its definition.

    Attributes:
        sees: whether a token of a window sees another, or itself, of the same window.
        inserts: beacons come as soon as their unit is complete; else they wait for the window's end.
        sees_tail: whether a token sees the overlap.
        slot: of a token in its window, from the tokens that precede or accompany it in the window; default: the number
            of tokens of the window that it sees, itself left out.
        keeps: what memory gets where beacons do not run, one head's entries: from the entries of the window's raw
            tokens, those that the beacons' projections make of them, and (layer, head, number of beacons on average,
            raw tokens that are in memory already).
    """

    sees: Callable[[Token, Token], bool]
    inserts: bool = False
    sees_tail: Callable[[Token], bool] = lambda query: True
    slot: Callable[[Token, Sequence[Token]], int] | None = None
    keeps: Callable[[list[HeadEntry], list[HeadEntry], Sequence[int]], list[HeadEntry]] | None = None


@dataclass
class State:
    """What a layer remembers: memory of each KV head at slots 0, 1, ..., and right behind it the last window's tail.

    A layer with a sliding window remembers the raw tokens of the text instead.
    """

    memory: list[list[HeadEntry]]
    tail: list[Entry] = field(default_factory=list)
    text: list[Entry] = field(default_factory=list)


def oracle_logits(
    lm: BeaconLM, ids: Tensor, ratios: Sequence[int | str], unfinished: str, rule: Rule | None = None
) -> Tensor:
    """(L,) ids -> (L, V) logits of every raw token, differentiable."""
    window, rule = lm.beacon.window, rule or RULES[lm.beacon.placement]
    states = [State([[] for _ in range(lm.config.num_key_value_heads)]) for _ in lm.model.layers]
    logits = []
    for start in range(0, len(ids), window):
        part = ids[start : start + window]
        is_open = start + window >= len(ids)
        ratio = ratios[start // window]
        tokens = window_tokens(lm, rule, len(part), ratio, inserted=not (is_open and unfinished == "raw"))
        logits.append(run_window(lm, rule, part, tokens, ratio, start, states))
    return torch.cat(logits)


def oracle_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean loss of the labels after the first, -100 ignored; 0 where there is none."""
    losses = F.cross_entropy(logits[:-1], labels[1:], reduction="none", ignore_index=-100)
    return losses.sum() / max(1, int((labels[1:] != -100).sum()))


def window_tokens(lm: BeaconLM, rule: Rule, size: int, ratio: int | str, inserted: bool) -> list[Token]:
    """The window's tokens, raw ones first."""
    raw = [Token(False, i) for i in range(size)]
    whole = size == lm.beacon.window or rule.inserts
    if ratio in (0, "drop") or not inserted or not whole or rule.keeps is not None:
        return raw
    return raw + [Token(True, j, (j + 1) * ratio - 1) for j in range(size // ratio)]


def interleave(query: Token, key: Token) -> bool:
    """All before it, where each beacon stands behind its unit."""
    if query.is_beacon == key.is_beacon:
        return key.index <= query.index
    return key.index <= query.after if query.is_beacon else key.after < query.index


def append(query: Token, key: Token) -> bool:
    """A beacon all raw tokens, a raw token no beacon."""
    if query.is_beacon == key.is_beacon:
        return key.index <= query.index
    return query.is_beacon


def step_expansion(query: Token, key: Token) -> bool:
    """A beacon the units up to its own, a raw token no beacon."""
    return interleave(query, key) and (query.is_beacon or not key.is_beacon)


RULES = {
    "interleave": Rule(interleave, inserts=True),
    "append": Rule(append),
    "step-expansion": Rule(step_expansion),
}


def run_window(
    lm: BeaconLM, rule: Rule, ids: Tensor, tokens: list[Token], ratio: int | str, start: int, states: list[State]
) -> Tensor:
    """One window through all layers. Updates `states`; returns the logits of its raw tokens."""
    raw, tail = len(ids), max(len(state.tail) for state in states)
    visible = torch.tensor([[rule.sees_tail(q)] * tail + [rule.sees(q, k) for k in tokens] for q in tokens])
    own = [sum(rule.sees(q, k) for k in tokens) - 1 if rule.slot is None else rule.slot(q, tokens) for q in tokens]
    slots = tail + torch.tensor(own)  # behind memory
    beacons = lm.model.beacon_embed_tokens.weight.expand(len(tokens) - raw, -1)
    x = torch.cat([lm.model.embed_tokens.weight[ids], beacons]) * embedding_multiplier(lm)
    factor = getattr(lm.config, "residual_multiplier", 1.0)
    is_beacon = torch.tensor([token.is_beacon for token in tokens])[:, None]
    for i, (layer, state) in enumerate(zip(lm.model.layers, states, strict=True)):
        norms = norms_of(layer)
        normed = norms[0](x)
        if "sliding" in layer_type(lm, i):
            x = x + norms[1](attend_text(lm, layer.self_attn, normed, tokens, start, state))
            x = x + norms[3](layer.mlp(norms[2](x)[None])[0])
            continue
        attended, own = attend(lm, layer.self_attn, normed, is_beacon, visible, slots, state)
        kept = [of_head(own[raw:], head) for head in range(len(state.memory))]
        if rule.keeps is not None and ratio not in (0, "drop") and raw == lm.beacon.window:
            others = entries(layer.self_attn, normed, torch.ones_like(is_beacon))
            about = raw // int(ratio), max(lm.beacon.sink - start, 0)
            kept = [rule.keeps(of_head(own, h), of_head(others, h), (i, h, *about)) for h in range(len(state.memory))]
        x = x + factor * norms[1](attended)
        x = x + factor * norms[3](layer.mlp(norms[2](x)[None])[0])
        remember(lm, state, own[:raw], kept, ratio, start)
    logits = F.linear(lm.model.norm(x)[:raw], lm.lm_head.weight) / getattr(lm.config, "logits_scaling", 1.0)
    return capped(logits, getattr(lm.config, "final_logit_softcapping", None))


def capped(x: Tensor, cap: float | None) -> Tensor:
    """Gemma 2's soft cap."""
    return x if cap is None else cap * torch.tanh(x / cap)


def embedding_multiplier(lm: BeaconLM) -> float:
    """What embeddings are multiplied by; Gemma's is rounded to float32."""
    if hasattr(lm.config, "query_pre_attn_scalar"):
        return torch.tensor(lm.config.hidden_size).sqrt().item()
    return getattr(lm.config, "embedding_multiplier", 1.0)


def norms_of(layer: nn.Module) -> list[nn.Module]:
    """The norms before and after attention, before and after the MLP."""
    if hasattr(layer, "pre_feedforward_layernorm"):
        names = ("input", "post_attention", "pre_feedforward", "post_feedforward")
        return [getattr(layer, f"{name}_layernorm", nn.Identity()) for name in names]  # VaultGemma: not behind
    if hasattr(layer, "input_layernorm"):
        return [layer.input_layernorm, nn.Identity(), layer.post_attention_layernorm, nn.Identity()]
    return [nn.Identity(), layer.post_attention_layernorm, nn.Identity(), layer.post_feedforward_layernorm]


def of_head(own: list[Entry], head: int) -> list[HeadEntry]:
    """The entries of one KV head."""
    return [(key[head], value[head]) for key, value in own]


def remember(
    lm: BeaconLM, state: State, raw: list[Entry], kept: list[list[HeadEntry]], ratio: int | str, start: int
) -> None:
    """What of a finished window later ones see: its raw tokens' entries, and those that memory keeps for each head."""
    state.tail = []
    sink = [entry for i, entry in enumerate(raw) if start + i < lm.beacon.sink]
    for head, memory in enumerate(state.memory):
        if ratio == 0:
            memory += of_head(raw, head)
        elif ratio != "drop":
            memory += of_head(sink, head) + kept[head]
    if ratio not in (0, "drop") and lm.beacon.overlap:
        state.tail = raw[max(len(raw) - lm.beacon.overlap, 0) :]


def attend(
    lm: BeaconLM, attention: nn.Module, x: Tensor, is_beacon: Tensor, visible: Tensor, slots: Tensor, state: State
) -> tuple[Tensor, list[Entry]]:
    """(T, D) -> (T, D), and each token's entry."""
    q = normed(attention, "q", project(attention, "q", x, is_beacon))
    own = entries(attention, x, is_beacon)
    heads = []
    scale, cap = scale_of(lm, attention), getattr(lm.config, "attn_logit_softcapping", None)
    for head in range(q.shape[1]):
        group = head * len(state.memory) // q.shape[1]
        memory = state.memory[group]
        seen = [*memory, *of_head([*state.tail, *own], group)]
        keys, values = (torch.stack(part) for part in zip(*seen, strict=True))
        earlier = torch.arange(len(seen) - len(own))  # memory is 0, 1, ..., the tail follows
        q_slots = len(memory) + slots
        rotated = rotate(lm, attention, keys[:, None], torch.cat([earlier, q_slots]))[:, 0]
        scores = rotate(lm, attention, q[:, head : head + 1], q_slots)[:, 0] @ rotated.T * scale
        sees = torch.cat([visible.new_ones(len(q), len(memory)), visible], 1)
        heads.append(capped(scores, cap).masked_fill(~sees, float("-inf")).softmax(-1) @ values)
    return project(attention, "o", torch.cat(heads, -1), is_beacon), own


def attend_text(lm: BeaconLM, attention: nn.Module, x: Tensor, tokens: list[Token], start: int, state: State) -> Tensor:
    """(T, D) -> (T, D) in a layer with a sliding window over the raw tokens of the text. Updates `state`.

    A beacon stands where the last raw token of its unit stands, and no token sees it.
    """
    is_beacon = torch.tensor([token.is_beacon for token in tokens])[:, None]
    places = torch.tensor([start + (token.after if token.is_beacon else token.index) for token in tokens])
    own = entries(attention, x, is_beacon)
    state.text += [entry for entry, token in zip(own, tokens, strict=True) if not token.is_beacon]
    keys, values = (torch.stack(part) for part in zip(*state.text, strict=True))
    q = rotate(lm, attention, normed(attention, "q", project(attention, "q", x, is_beacon)), places)
    keys = rotate(lm, attention, keys, torch.arange(len(keys)))
    distance = places[:, None] - torch.arange(len(keys))
    sees = (distance >= 0) & (distance < lm.config.sliding_window)
    group = q.shape[1] // keys.shape[1]
    heads = []
    for head in range(q.shape[1]):
        scores = q[:, head] @ keys[:, head // group].T * scale_of(lm, attention)
        scores = capped(scores, getattr(lm.config, "attn_logit_softcapping", None))
        heads.append(scores.masked_fill(~sees, float("-inf")).softmax(-1) @ values[:, head // group])
    return project(attention, "o", torch.cat(heads, -1), is_beacon)


def entries(attention: nn.Module, x: Tensor, is_beacon: Tensor) -> list[Entry]:
    """What each token leaves behind."""
    k, v = (project(attention, name, x, is_beacon) for name in "kv")
    return list(zip(normed(attention, "k", k), v.unflatten(-1, (-1, attention.head_dim)), strict=True))


def normed(attention: nn.Module, name: str, x: Tensor) -> Tensor:
    """(T, heads x H) queries or keys -> (T, heads, H), normalised per head or over all heads, if at all."""
    norm = getattr(attention, f"{name}_norm", nn.Identity())
    heads = x.unflatten(-1, (-1, attention.head_dim))
    whole = getattr(norm, "weight", x[0, :0]).shape == x.shape[-1:]
    return norm(x).view_as(heads) if whole else norm(heads)


def project(attention: nn.Module, name: str, x: Tensor, is_beacon: Tensor) -> Tensor:
    """The backbone's projection of raw tokens; of beacons their own, if they have one."""
    weight, bias = backbone_weights(attention, name)
    special = getattr(attention, f"beacon_{name}_proj", None)
    own = (weight, bias) if special is None else (special.weight, special.bias)
    return torch.where(is_beacon, F.linear(x, *own), F.linear(x, weight, bias))


def backbone_weights(attention: nn.Module, name: str) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a projection, which may be rows of one for q, k and v."""
    base = getattr(attention, f"{name}_proj", None)
    if base is not None:
        return base.weight, base.bias
    queries, keys = attention.config.num_attention_heads, attention.config.num_key_value_heads
    first = {"q": 0, "k": queries, "v": queries + keys, "end": queries + 2 * keys}
    ends = [first[each] * attention.head_dim for each in (name, {"q": "k", "k": "v", "v": "end"}[name])]
    return attention.qkv_proj.weight[slice(*ends)], None


def scale_of(lm: BeaconLM, attention: nn.Module) -> float:
    """What products of queries and keys are multiplied by."""
    scalar = getattr(lm.config, "query_pre_attn_scalar", attention.head_dim)
    return getattr(lm.config, "attention_multiplier", scalar**-0.5)


def layer_type(lm: BeaconLM, layer: int) -> str:
    """What the config says about a layer."""
    return (getattr(lm.config, "layer_types", None) or ["full_attention"] * len(lm.model.layers))[layer]


def rotate(lm: BeaconLM, attention: nn.Module, x: Tensor, slots: Tensor) -> Tensor:
    """RoPE of (tokens, heads, H): halves (a, b) of the dimensions that turn, by an angle of slot times frequency."""
    rope = lm.model.rotary_emb
    if not getattr(lm.config, "no_rope_layers", [1] * len(lm.model.layers))[attention.layer_idx]:
        return x
    kind = f"{layer_type(lm, attention.layer_idx)}_" if hasattr(rope, "full_attention_inv_freq") else ""
    frequencies, scaling = (getattr(rope, f"{kind}{name}") for name in ("inv_freq", "attention_scaling"))
    x, rest = x.split([2 * len(frequencies), x.shape[-1] - 2 * len(frequencies)], -1)
    angle = slots[:, None].float() * frequencies.float()
    cos, sin = ((f(angle) * scaling).to(x.dtype)[:, None] for f in (torch.cos, torch.sin))
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)
