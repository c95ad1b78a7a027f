"""Run the layers: token ids, a plan and a cache -> hidden states and the next cache.

Shape legend: R raw tokens, P packed tokens (raw + beacon) of all rows, D model dim, H head dim.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as torch_checkpoint
from transformers import PretrainedConfig, PreTrainedModel

from beacon_lit.arch.cache import BeaconCache
from beacon_lit.arch.config import MLP_PROJECTIONS, BeaconConfig
from beacon_lit.arch.nn import own_maps
from beacon_lit.arch.nn.attention import BeaconAttention, Step
from beacon_lit.arch.nn.decoder import Decoder, RunLayer, run_layer
from beacon_lit.arch.nn.fuse import compile_pointwise, compiled_step
from beacon_lit.arch.nn.grouped import layer_steps
from beacon_lit.arch.nn.layer import BeaconLayer
from beacon_lit.arch.nn.logits import LogitScale
from beacon_lit.arch.nn.loss import LossHead
from beacon_lit.arch.nn.names import is_beacon
from beacon_lit.arch.nn.rope import Rope, positions
from beacon_lit.arch.nn.state import LayerState
from beacon_lit.arch.nn.windows import Operations, Ropes, WindowStep
from beacon_lit.arch.plan.build import build_layout
from beacon_lit.arch.plan.call import Call, plan_call
from beacon_lit.arch.plan.heads import HeadGroups
from beacon_lit.arch.plan.kinds import LayerKind, Memory
from beacon_lit.arch.plan.layout import Layout
from beacon_lit.arch.plan.rows import move
from beacon_lit.arch.plan.windows import Row
from beacon_lit.arch.ratios import Draw, Limits, Ratio, Ratios

ATTENTION_CAP, FINAL_CAP = "attn_logit_softcapping", "final_logit_softcapping"  # settings of configs: soft caps


class BeaconModel(PreTrainedModel):
    """A backbone with beacons that can run; caches, generation, checkpoints and losses build on this class.

    The class precedes a family's `...ForCausalLM` in the bases of a model class, and adds the beacons to its modules.

    Attributes:
        caps: the settings of the config, `ATTENTION_CAP` and `FINAL_CAP`, by which the family caps logits.
        beacon: the `BeaconConfig`.
        attn: attention kernel: "auto" (the best available), "flash_attn_4", "flash_attn", "varlen" or "sdpa".
        draw: counter of the next training step's random ratios.
        model: the backbone's decoder, with a beacon embedding.
        lm_head: the backbone's language-model head.
        groups: the groups of KV heads that keep the same of a text.
    """

    attention_class: ClassVar[type[BeaconAttention]]
    layer_class: ClassVar[type[BeaconLayer]]
    listed: ClassVar[bool]
    caps: ClassVar[tuple[str, ...]] = ()

    beacon: BeaconConfig
    attn: str
    draw: Draw
    model: Decoder
    lm_head: LossHead

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.beacon = BeaconConfig.from_dict(config.beacon)
        kinds = self.layer_kinds(config)
        self.groups = HeadGroups.of(self.beacon, kinds, config.num_key_value_heads)
        self.attn = "auto"
        self.decode_layer: RunLayer = run_layer
        self.operations = Operations()
        self.draw = Draw()
        for layer, kind in zip(self.model.layers, kinds, strict=True):
            layer.self_attn.__class__ = self.attention_class
            own_maps.install(layer.self_attn, kind.own_maps(self.beacon))
            if any(own.name in MLP_PROJECTIONS for own in self.beacon.own_maps):
                layer.__class__ = self.layer_class
                own_maps.check_mlp(layer.mlp, self.beacon.params)
                own_maps.install(layer.mlp, self.beacon.own_maps)
        embedding = self.model.embed_tokens.weight
        # No padding index: it would hold the only row's gradient at zero.
        self.model.beacon_embed_tokens = nn.Embedding(
            1, config.hidden_size, device=embedding.device, dtype=embedding.dtype
        )
        LossHead.install(self.lm_head, self.head_scale)
        self.freeze()

    @classmethod
    def layer_kinds(cls, config: PretrainedConfig) -> tuple[LayerKind, ...]:
        """Return what each layer keeps of a text; default: memory in all layers."""
        return (Memory(),) * config.num_hidden_layers

    def _sdpa_can_dispatch(self, is_init_check: bool = False) -> bool:
        """Whether the plain model may run on sdpa, in which transformers drops the cap of scores without a word."""
        cap = getattr(self.config, ATTENTION_CAP, None)
        if cap is not None:
            raise ValueError(
                f"attn_implementation='sdpa' is not allowed: it has no soft cap, which {ATTENTION_CAP}={cap} needs; "
                f"allowed: eager, flex_attention, flash_attention_2"
            )
        return super()._sdpa_can_dispatch(is_init_check)

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        """Whether experts can run in one grouped product; transformers searches the source of the class for that."""
        return plain_class(cls)._can_set_experts_implementation()

    @torch.no_grad()
    def initialize_beacons(self, part: nn.Module | None = None) -> None:
        """Start the own maps from the backbone's projections, and the beacon embedding from `embed_init`'s token.

        If the backbone has no such token, the embedding starts from the vocabulary's mean.

        Args:
            part: initialize only what starts from weights of this part, see `checkpoint.parts`; default: all.

        Raises:
            ValueError: the token's id is outside the vocabulary.
        """
        for layer in self.model.layers:
            if part in (None, layer):
                own_maps.initialize(layer.self_attn, self.beacon.own_maps)
                own_maps.initialize(layer.mlp, self.beacon.own_maps)
        embedding = self.model.embed_tokens
        if part not in (None, embedding) and not (part is self and self.lm_head.weight is embedding.weight):
            return
        field = f"{self.beacon.embed_init}_token_id"
        token = getattr(self.config, field, None)
        token = token[0] if isinstance(token, list) else token
        table = embedding.weight
        if token is not None and not 0 <= token < len(table):
            raise ValueError(f"{field}={token} is not allowed; allowed: 0 to {len(table) - 1}, or none")
        row = table.float().mean(0) if token is None else table[token]
        self.model.beacon_embed_tokens.weight.copy_(row[None])

    def freeze(self) -> None:
        """Freeze all parameters but the beacons'."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(is_beacon(name))

    def beacon_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the beacons' parameters, which are trained by default."""
        return (parameter for name, parameter in self.named_parameters() if is_beacon(name))

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the language-model head, as `resize_token_embeddings` does; the new head also computes losses."""
        super().set_output_embeddings(new_embeddings)
        LossHead.install(self.lm_head, self.head_scale)

    def resize_token_embeddings(self, *args: Any, **options: Any) -> nn.Module:
        """Change the size of the vocabulary; the backbone then has no name, since it is not the checkpoint's any more.

        New rows are frozen like the rest of the backbone. Save the whole model: `beacon_only=False`.
        """
        size, trained = self.config.vocab_size, {name for name, p in self.named_parameters() if p.requires_grad}
        found = super().resize_token_embeddings(*args, **options)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in trained)
        if self.config.vocab_size != size:
            self.config._name_or_path = ""
        return found

    def compile_pointwise(self) -> None:
        """Fuse pointwise operations with `torch.compile`.

        In passes over windows, these are norms, MLPs, the loss, and what comes before an attention kernel: selection,
        gathers and rotations. In static decoding, a whole layer is compiled. This saves time on a GPU. Results then
        differ from the backbone's in the last bits.
        """
        compile_pointwise(self.model.layers, self.lm_head)
        self.operations = self.operations.compiled()
        self.decode_layer = compiled_step()

    def checkpoint_activations(self, layers: int | None = None) -> None:
        """Recompute the activations of the first `layers` layers (default: all) in the backward pass.

        Fewer layers take more memory and less time.
        """
        self._set_gradient_checkpointing(True, partial(torch_checkpoint, use_reentrant=False))
        for layer in self.model.layers[len(self.model.layers) if layers is None else layers :]:
            layer.gradient_checkpointing = False

    def _set_gradient_checkpointing(self, enable: bool = True, *args: Any, **kwargs: Any) -> None:
        function = args[0] if args else kwargs.get("gradient_checkpointing_func")
        if enable and getattr(function, "keywords", {}).get("use_reentrant", True):
            raise ValueError("use_reentrant=True is not allowed: it gives wrong gradients here; allowed: False")
        super()._set_gradient_checkpointing(enable, *args, **kwargs)

    @property
    def has_experts(self) -> bool:
        """Whether a router chooses experts for each token."""
        return any(hasattr(module, "num_experts") for module in self.model.modules())  # type: ignore[attr-defined]

    @property
    def head_scale(self) -> LogitScale:
        """What makes the head's output logits, for families that divide it (Granite) or cap it (Gemma 2)."""
        return LogitScale(cap=getattr(self.config, FINAL_CAP, None))

    def scale_embeddings(self, embedded: Tensor) -> Tensor:
        """Scale the embeddings of tokens and beacons, if the family does so (Granite): (P, D) -> (P, D)."""
        return embedded

    def scale_beacons(self, embedded: Tensor) -> Tensor:
        """Scale the embeddings of beacons as the embedding module scales those of tokens (Gemma): (n, D) -> (n, D).

        The embedding of beacons starts from a token's, which is scaled when it is looked up.
        """
        scale = getattr(self.model.embed_tokens, "embed_scale", None)
        return embedded if scale is None else embedded * scale.to(embedded.dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        """Compute logits of final hidden states: (..., D) -> (..., V)."""
        return self.lm_head.scale.logits(self.lm_head(hidden))

    @property
    def positions(self) -> int:
        """Position slots of the backbone."""
        return positions(self.config)

    @property
    def limits(self) -> Limits:
        """Limits of the ratios on this backbone."""
        return self.beacon.limits(self.positions, self._cache_bytes(1, 0))

    def dense_cache_bytes(self, tokens: int) -> int:
        """Return the bytes of the keys and values that the backbone keeps for a number of tokens."""
        return self._cache_bytes(tokens, tokens)

    def _cache_bytes(self, tokens: int, sliding: int) -> int:
        """Count the bytes of tokens in layers with memory, and of the last ones of `sliding` tokens in others."""
        numbers = 0
        for layer, group in self.groups.parts:
            reach, heads = self.groups.kinds[group].reach, len(self.groups.members[group][layer])
            kept = tokens if reach is None else min(reach - 1, sliding)
            numbers += kept * 2 * heads * self.model.layers[layer].self_attn.head_dim
        return numbers * self.dtype.itemsize

    def cache_slots(self, tokens: int, ratio: Ratio) -> int:
        """Slots in use of a cache that has read a number of tokens, all windows at one ratio."""
        call = self.plan([tokens], None, self.beacon.unfinished, ratio)
        return call.advance([range(tokens)], self.beacon)[0].slots

    def plan(
        self,
        lengths: Sequence[int],
        cache: BeaconCache | None,
        unfinished: str,
        ratios: Ratios | None = None,
        draw: Draw | None = None,
        totals: Sequence[int] | None = None,
        more: Sequence[bool] | None = None,
    ) -> Call:
        """Plan a call that continues from `cache`; see `plan_call` for the other arguments and for errors."""
        states = None if cache is None else cache.rows
        return plan_call(self.beacon, self.limits, lengths, states, unfinished, ratios, draw, totals, more)

    def read(self, ids: Tensor, call: Call, cache: BeaconCache | None) -> tuple[Tensor, BeaconCache | None]:
        """Read new tokens under a plan. Strategies that spread the model over ranks hook into this method.

        Args:
            ids: (R,) int64 new tokens, rows end to end, on any device.
            call: the plan, made for `cache`.
            cache: the cache to continue from; None: the call keeps nothing.

        Returns:
            (R, D) final hidden states of the new tokens; and the next cache, None if `cache` is None.
        """
        return read(self, ids, call, cache)

    def run(
        self, ids: Tensor, layouts: Sequence[Layout], before: Sequence[LayerState] = ()
    ) -> tuple[Tensor, tuple[LayerState, ...]]:
        """Run all layers over all windows in one pass.

        Args:
            ids: (R,) int64 raw tokens in stream order, on the model's device.
            layouts: for each group of heads, where queries and keys come from, on the model's device.
            before: the state of each part of the cache, see `HeadGroups.parts`; with `Layout.cached` only.

        Returns:
            (R, D) final hidden states of the raw tokens; and the state of each part of the next cache.
        """
        layout = layouts[0]
        stream = self.embed(ids, 0 if layout.selection else layout.beacons)
        parts = self.groups.parts
        known: list[dict[int, LayerState]] = [{} for _ in layouts]
        for (layer, group), state in zip(parts, before, strict=False):
            known[group][layer] = state
        steps = tuple(self._step(stream, *group) for group in zip(layouts, self.groups.kinds, known, strict=True))
        hidden = self.run_layers(stream, layer_steps(steps, self.groups.members))
        after = tuple(steps[group].after[layer] for layer, group in parts) if layout.cached else ()
        return hidden[: layout.raw], after

    def embed(self, ids: Tensor, beacons: int) -> Tensor:
        """Embed raw tokens and a number of beacons: (R,) int64 -> (P, D) in stream order."""
        raw = self.model.embed_tokens(ids)
        added = self.model.beacon_embed_tokens(ids.new_zeros(beacons))
        return self.scale_embeddings(torch.cat([raw, self.scale_beacons(added.to(raw.dtype))]))

    def _step(self, like: Tensor, layout: Layout, kind: LayerKind, before: dict[int, LayerState]) -> WindowStep:
        added = None if layout.cached is None else self.rope(like, layout.cached.added_slot, kind)
        q_rope, k_rope = (self.rope(like, slots, kind) for slots in (layout.q_slot, layout.k_slot))
        return WindowStep(layout, Ropes(q_rope, k_rope, added), self.attn, self.operations, before)

    def layouts(self, rows: Sequence[Row], cached: bool = False, moving: bool = False) -> tuple[Layout, ...]:
        """Lay out a pass for each group of heads, on the model's device; see `build_layout`."""
        device = self.model.embed_tokens.weight.device
        return tuple(
            build_layout(kind.rows(rows, self.beacon), self.beacon, cached, moving, kind.reach).to(device)
            for kind in self.groups.kinds
        )

    def run_layers(self, stream: Tensor, steps: Sequence[Step], run: RunLayer = run_layer) -> Tensor:
        """Run all layers, each with its step, and the final norm: (P, D) embeddings in stream order -> (P, D)."""
        hidden = stream[None]
        for layer, step in zip(self.model.layers, steps, strict=True):
            hidden = run(layer, hidden, step)
        return self.model.norm(hidden)[0]

    def rope(self, like: Tensor, slots: Tensor, kind: LayerKind) -> Rope:
        """Compute cos and sin (n, H) at n slots of layers of a kind, in the dtype and on the device of `like`."""
        cos, sin = self.model.rotary_emb(like, slots[None])
        return cos[0], sin[0]


def plain_class(model_class: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """Return the family's class, from which a model's class is derived."""
    bases = (base for base in model_class.__mro__ if issubclass(base, PreTrainedModel))  # FSDP2 has one of its own
    return next(base for base in bases if not issubclass(base, BeaconModel))


def read(lm: BeaconModel, ids: Tensor, call: Call, cache: BeaconCache | None) -> tuple[Tensor, BeaconCache | None]:
    """Do what `BeaconModel.read` does, without the hooks of strategies; for use inside `forward`."""
    placing = lm.beacon.placing
    device = lm.model.embed_tokens.weight.device
    moving = not placing.runs or (placing.inserts and call.unfinished == "beacons")
    layouts = lm.layouts(call.rows, cache is not None, moving)
    if cache is None:
        return lm.run(move(ids, device), layouts)[0], None
    new = ids.split([row.new for row in call.rows])
    rerun = [ids.new_tensor(state.open_ids[: row.rerun]) for state, row in zip(call.states, call.rows, strict=True)]
    stream = torch.cat([some for pair in zip(rerun, new, strict=True) for some in pair])
    hidden, layers = lm.run(move(stream, device), layouts, cache.layers)
    cached = layouts[0].cached
    assert cached is not None
    kept = torch.cat([hidden.detach(), cache.hidden])[cached.hidden]
    states = call.advance([row.tolist() for row in new], lm.beacon)
    return hidden[cached.new], replace(cache, rows=states, layers=layers, hidden=kept, unfinished=call.unfinished)
