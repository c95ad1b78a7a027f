"""BeaconLM: a Hugging Face causal language model whose windows see earlier ones through beacons."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as torch_checkpoint
from transformers import PretrainedConfig
from transformers.utils import ModelOutput

from beacon_lit.arch import checkpoint
from beacon_lit.arch.attention import BeaconAttention, Rope, Step, WindowStep
from beacon_lit.arch.cache import BeaconCache, LayerState, RowState
from beacon_lit.arch.call import Call, plan_call, totals
from beacon_lit.arch.checkpoint import is_beacon
from beacon_lit.arch.compression import BeaconCompression
from beacon_lit.arch.config import UNFINISHED, BeaconConfig
from beacon_lit.arch.decoding import Decoding
from beacon_lit.arch.fingerprint import check_cache, fingerprint
from beacon_lit.arch.generation import BeaconGeneration
from beacon_lit.arch.layout import Layout, build_layout
from beacon_lit.arch.loss import LossHead, divergence_and_slope, loss_and_slope
from beacon_lit.arch.plain import PlainBackbone
from beacon_lit.arch.ratio import Draw, Ratios
from beacon_lit.arch.rows import Rows, check_ids, move
from beacon_lit.arch.teacher import Teacher, dense_rows
from beacon_lit.arch.windows import Row

# The mixin comes before a family's ...ForCausalLM; telling mypy so keeps `super()` typed.
if TYPE_CHECKING:
    from transformers import LlamaForCausalLM as _Backbone
else:
    _Backbone = object


@dataclass
class BeaconOutput(ModelOutput):
    """What a forward pass returns.

    Attributes:
        loss: sum of token losses over the number of labelled tokens; set if labels are given. Scalar float32.
        logits: (B, L, V), or fewer columns with `logits_to_keep`: every raw token, beacons removed; 0 at padding.
        token_loss: (B, L) float32 nats: at [b, t] the loss of label [b, t]; 0 where there is none.
        token_kl: (B, L) float32 nats, with a teacher: KL(teacher || model) of the distributions that predict label
            [b, t]; 0 where there is no label, or the teacher does not read.
        taught: (B, L) bool, with a teacher: where there is a label and the teacher reads.
        cache: what to go on from; set if `cache` or `use_cache` is given.
        rows: what the pass did to each row: its windows, with the ratio and the beacons of each. In training mode
            only, and not in a tuple, which holds tensors and caches alone.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    token_loss: Tensor | None = None
    token_kl: Tensor | None = None
    taught: Tensor | None = None
    cache: BeaconCache | Decoding | None = None
    rows: tuple[Row, ...] | None = None

    @property
    def past_key_values(self) -> BeaconCache | Decoding | None:
        """Another name for `cache`."""
        return self.cache


class BeaconLM(BeaconCompression, BeaconGeneration, PlainBackbone, _Backbone):
    """Mixin that makes a family's `...ForCausalLM` a beacon model (arXiv 2401.03462).

    Made by `from_pretrained` and `from_config`; every model they return is an instance of this class and of the
    family's. Parameter names are the backbone's own, plus `model.beacon_embed_tokens.weight` and
    `model.layers.{i}.self_attn.beacon_{q,k,v,o}_proj.{weight,bias}`. All but the beacons' are frozen. `add_adapter`
    puts a LoRA adapter on the backbone.

    Attributes:
        beacon: the `BeaconConfig`.
        attn: attention kernel: "auto" (the best available), "flash_attn", "varlen" or "sdpa".
        draw: counter of the next training step's random ratios.
    """

    families: ClassVar[dict[str, type["BeaconLM"]]] = {}
    attention_class: ClassVar[type[BeaconAttention]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        BeaconLM.families[cls.config_class.model_type.removeprefix("beacon_")] = cls

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.beacon = BeaconConfig.from_dict(config.beacon)
        self.attn = "auto"
        self.draw = Draw()
        for layer in self.model.layers:
            layer.self_attn.__class__ = self.attention_class
            layer.self_attn.install(self.beacon.params)
        embedding = self.model.embed_tokens.weight
        # No padding index: it would hold the only row's gradient at zero.
        self.model.beacon_embed_tokens = nn.Embedding(
            1, config.hidden_size, device=embedding.device, dtype=embedding.dtype
        )
        self.lm_head.__class__ = LossHead
        self.lm_head.compute, self.lm_head.diverge = loss_and_slope, divergence_and_slope
        self.freeze()

    @classmethod
    def from_config(
        cls,
        hf_config: PretrainedConfig,
        beacon: BeaconConfig | None = None,
        *,
        attn: str = "auto",
        shard: checkpoint.Shard | None = None,
    ) -> "BeaconLM":
        """A model with random weights; the beacons start from the backbone's projections.

        Args:
            hf_config: LlamaConfig, MistralConfig, Qwen2Config or Qwen3Config.
            beacon: default: the settings in `hf_config`, else `BeaconConfig()`.
            attn: "auto", "flash_attn", "varlen" or "sdpa".
            shard: spreads each part of the model over ranks; every rank makes the same model first.

        Raises:
            ValueError: another architecture, a RoPE type whose frequencies change with the length, a window beyond
                the backbone's positions, or a kernel that cannot be used.
        """
        beacon = beacon or checkpoint.config_settings(hf_config) or BeaconConfig()
        model_class, config = checkpoint.beacon_model(cls.families, hf_config, beacon, attn)
        model = model_class(config)
        model.attn = attn
        for part in checkpoint.parts(model):
            model.initialize_beacons(part)
            if shard is not None:
                shard(part)
        return model

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, path: str, beacon: BeaconConfig | None = None, *, attn: str = "auto", **options: Any
    ) -> "BeaconLM":
        """Load a backbone, with beacons if the checkpoint has some; see `checkpoint.load` for sources and errors.

        Args:
            path: hub id, folder, GGUF file, published beacon checkpoint, or folder written by `save_pretrained`.
            beacon: settings; default: those of the checkpoint, else `BeaconConfig()`.
            attn: "auto", "flash_attn", "varlen" or "sdpa".
            options: `dtype`, `backbone`, `allow_other_backbone`, `shard`, and those of Hugging Face.
        """
        return checkpoint.load(cls.families, path, beacon, attn, **options)

    def save_pretrained(self, save_directory: Any, *args: Any, beacon_only: bool = True, **options: Any) -> None:
        """Write the beacons alone, with the backbone's name and fingerprint; or all as a Hugging Face folder.

        Where parameters are spread over ranks every rank must call it, and `is_main_process` says which writes.
        An adapter goes with the beacons; for a Hugging Face folder merge it first (`merge_adapter`).

        Raises:
            ValueError: an option other than `state_dict` with `beacon_only`, all with an adapter; see also
                `checkpoint.save_beacons`.
        """
        write = options.get("is_main_process", True)
        if not beacon_only:
            checkpoint.adapter.check_merged(self)
            if checkpoint.is_spread(self) and options.get("state_dict") is None:
                options["state_dict"] = checkpoint.collect(dict(self.named_parameters()), write)
            if write:
                super().save_pretrained(save_directory, *args, **options)
            return
        state, unused = options.pop("state_dict", None), [*map(repr, args), *(options.keys() - {"is_main_process"})]
        if unused:
            raise ValueError(f"{unused[0]} is not allowed with beacon_only=True; allowed: state_dict, is_main_process")
        checkpoint.save_beacons(self, save_directory, state, write)

    def save_published(self, folder: str | Path, **options: Any) -> None:
        """Write all in the layout of the published checkpoints; see `checkpoint.save_published`."""
        checkpoint.save_published(self, folder, **options)

    def add_adapter(self, adapter_config: Any, adapter_name: None = None) -> None:
        """Put a LoRA adapter on projections of the backbone, and train it; see `checkpoint.adapter.add`.

        Args:
            adapter_config: a `peft.LoraConfig`.
            adapter_name: None; a model has one adapter.
        """
        checkpoint.adapter.add(self, adapter_config)

    def merge_adapter(self) -> None:
        """Make the adapter a part of the backbone's weights, rounded to their dtype: load them in float32 before."""
        checkpoint.adapter.merge(self)

    @torch.no_grad()
    def initialize_beacons(self, part: nn.Module | None = None) -> None:
        """Start the beacon projections from the backbone's, the beacon embedding from `embed_init`'s token.

        Where the backbone has no such token, the embedding starts from the vocabulary's mean.

        Args:
            part: only what starts from weights of this part of the model, see `checkpoint.parts`; default: all.
        """
        for layer in self.model.layers:
            if part in (None, layer):
                layer.self_attn.initialize()
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
        """Leave only the beacons to be trained."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(is_beacon(name))

    def beacon_parameters(self) -> Iterator[nn.Parameter]:
        """What is trained by default."""
        return (parameter for name, parameter in self.named_parameters() if is_beacon(name))

    @property
    def positions(self) -> int:
        """Position slots of the backbone."""
        return checkpoint.positions(self.config)

    def compile_pointwise(self) -> None:
        """Fuse norms, MLPs, rotations and the loss with `torch.compile`; attention and layout stay as they are.

        Pays on a GPU. Results then differ from the backbone's in the last bits.
        """
        rotate = torch.compile(self.attention_class.rotate, dynamic=True)
        for layer in self.model.layers:
            layer.self_attn.rotate = rotate
            for part in (layer.mlp, layer.input_layernorm, layer.post_attention_layernorm):
                part.compile(dynamic=True)
        self.lm_head.compute = torch.compile(loss_and_slope, dynamic=True)
        self.lm_head.diverge = torch.compile(divergence_and_slope, dynamic=True)

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
            raise ValueError("use_reentrant=True is not allowed, it gives wrong gradients here; allowed: False")
        super()._set_gradient_checkpointing(enable, *args, **kwargs)

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        ratios: Ratios | None = None,
        unfinished: str | None = None,
        return_logits: bool = True,
        logits_to_keep: int = 0,
        cache: BeaconCache | Decoding | None = None,
        use_cache: bool = False,
        past_key_values: BeaconCache | None = None,
        return_dict: bool = True,
        total_length: int | Sequence[int] | None = None,
        teacher: Teacher | None = None,
    ) -> BeaconOutput | tuple:
        """All windows of all rows in one pass.

        Args:
            input_ids: (B, L) int64.
            attention_mask: (B, L) of 0 and 1, left or right padding; with a cache the last columns of a longer one
                count. On the CPU it costs no synchronisation.
            labels: (B, L) int64, unshifted; -100 and padding are ignored.
            ratios: None (the policy), one ratio, one per window that the call touches, or a sequence per row; see
                `ratio.passed_ratios`.
            unfinished: "raw" or "beacons"; default: the cache's, else "raw" in training mode, else the config's.
            return_logits: False leaves them out; a loss alone never holds the logits of a whole step.
            logits_to_keep: only the last columns' logits; 0 for all.
            cache: continue that sequence; logits and losses are of the new tokens. (`generate` passes its own state.)
            use_cache: return a cache (always so when one is given).
            past_key_values: another name for `cache`.
            return_dict: False gives a tuple.
            total_length: tokens that the sequences will have, or each of them, for the policy "adapt-N"; default:
                those read so far.
            teacher: have the dense backbone read the rows, too, without gradients, and give `token_kl`.

        Raises:
            ValueError: an empty batch, shapes that differ, ids outside the vocabulary, ratios that are not allowed, a
                cache of another model, dtype, device, batch size or mode, more slots than the backbone has positions,
                or a teacher without labels or with a cache.
        """
        cache = past_key_values if cache is None else cache
        if attention_mask is not None and cache is not None:
            attention_mask = attention_mask[:, -input_ids.shape[1] :]
        if isinstance(cache, Decoding):
            return BeaconOutput(logits=cache.step(input_ids), cache=cache)
        if cache is not None:
            check_cache(cache, self)
        rows = Rows.of(input_ids, attention_mask)
        ids = rows.pack(input_ids)
        check_ids(ids, self.config.vocab_size, "input_ids")
        targets = None if labels is None else self._targets(rows, labels)
        if teacher is not None and (labels is None or cache is not None or use_cache):
            raise ValueError("teacher=... is not allowed without labels or with a cache; allowed: labels, no cache")
        draw = self.draw if self.training else None
        mode = self._mode(unfinished, cache)
        ends = totals(total_length, len(rows.lengths))
        call = plan_call(self.beacon, self.positions, rows.lengths, cache, mode, ratios, draw, ends)
        if self.training:
            self.draw = self.draw.next()
        if teacher is not None:  # first, while no activations are held
            reads = teacher.reads(rows.lengths, self.positions)
            dense = self._dense_hidden(ids, rows.lengths, reads)
        hidden, after = self._read(ids, rows, call, cache, use_cache or cache is not None)
        output = BeaconOutput(cache=after, rows=call.rows if self.training and return_dict else None)
        if teacher is not None and targets is not None:
            compared = self._compared(hidden, dense, rows, targets, reads, teacher)
            output.token_loss, output.token_kl, output.taught = compared
            output.loss = compared[0].sum() / (targets != -100).sum().clamp(min=1)
        elif labels is not None and targets is not None:
            output.token_loss, output.loss = self._losses(hidden, rows, targets, labels, cache)
        if return_logits:
            columns = range(rows.width)[-logits_to_keep:]
            output.logits = self.lm_head(rows.unpack(hidden, columns))
        return output if return_dict else output.to_tuple()

    def dense(self, *args: Any, **kwargs: Any) -> Any:
        """The backbone's forward: without beacons, and without an adapter."""
        with checkpoint.adapter.disabled(self):
            return super().forward(*args, **kwargs)

    def dense_token_loss(self, input_ids: Tensor, attention_mask: Tensor | None = None, *, labels: Tensor) -> Tensor:
        """The (B, L) float32 token losses of `dense`, as `BeaconOutput.token_loss`."""
        rows = Rows.of(input_ids, attention_mask)
        targets = self._targets(rows, labels)
        with checkpoint.adapter.disabled(self):
            hidden = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        return self._token_loss(rows.pack(hidden), rows, targets)

    def _mode(self, unfinished: str | None, cache: BeaconCache | None) -> str:
        default = "raw" if self.training else self.beacon.unfinished
        mode = unfinished or (default if cache is None else cache.unfinished)
        if mode not in UNFINISHED:
            raise ValueError(f"unfinished={mode!r} is not allowed; allowed: {', '.join(UNFINISHED)}")
        if cache is not None and mode != cache.unfinished and cache.window_slots:
            raise ValueError(f"unfinished={mode!r} is not allowed; allowed: {cache.unfinished!r}, the cache's")
        return mode

    def _empty_cache(self, batch: int, capacity: int) -> BeaconCache:
        """A cache that has read nothing."""
        weight = self.model.embed_tokens.weight
        # Not `weight.new_empty`, which would be spread over ranks where the weight is.
        like: Any = {"dtype": weight.dtype, "device": weight.device}
        config = self.config
        empty = torch.empty(0, config.num_key_value_heads, self.model.layers[0].self_attn.head_dim, **like)
        layers = (LayerState(*[empty] * 6),) * len(self.model.layers)
        rows = (RowState(capacity),) * batch
        hidden, mode = torch.zeros(batch, config.hidden_size, **like), self._mode(None, None)
        return BeaconCache(rows, layers, hidden, mode, self.beacon.placement == "interleave", fingerprint(self))

    def _read(
        self, ids: Tensor, rows: Rows, call: Call, cache: BeaconCache | None, keep: bool
    ) -> tuple[Tensor, BeaconCache | None]:
        """(R,) new ids, on any device -> (R, D) their final hidden states, and the cache after them."""
        interleaved = self.beacon.placement == "interleave"
        moving = call.unfinished == "beacons" and interleaved
        device = self.model.embed_tokens.weight.device
        layout = build_layout(call.rows, self.beacon, keep, moving).to(device)
        if not keep:
            return self._hidden(move(ids, device), layout, ())[0], None
        cache = self._empty_cache(len(rows.lengths), self.beacon.window) if cache is None else cache
        parts = ids.split(rows.lengths)
        again = [ids.new_tensor(state.open_ids[: row.again]) for state, row in zip(call.states, call.rows, strict=True)]
        stream = torch.cat([part for pair in zip(again, parts, strict=True) for part in pair])
        hidden, layers = self._hidden(move(stream, device), layout, cache.layers)
        assert layout.cached is not None
        kept = torch.cat([hidden.detach(), cache.hidden])[layout.cached.hidden]
        states = call.advance([part.tolist() for part in parts], self.beacon)
        after = BeaconCache(states, layers, kept, call.unfinished, interleaved, cache.fingerprint)
        return hidden[layout.cached.new], after

    def _hidden(
        self, ids: Tensor, layout: Layout, before: tuple[LayerState, ...]
    ) -> tuple[Tensor, tuple[LayerState, ...]]:
        """Ids of raw tokens in stream order -> their (., D) final hidden states, and each layer's next cache state."""
        beacons = self.model.beacon_embed_tokens(ids.new_zeros(layout.beacons))
        raw = self.model.embed_tokens(ids)
        stream = torch.cat([raw, beacons.to(raw.dtype)])
        fresh = None if layout.cached is None else self._rope(raw, layout.cached.fresh_slot)
        q_rope, k_rope = self._rope(raw, layout.q_slot), self._rope(raw, layout.k_slot)
        step = WindowStep(layout, q_rope, k_rope, self.attn, fresh, before)
        hidden = self._through_layers(stream, q_rope, step)
        return hidden[: layout.raw], tuple(step.after[i] for i in range(len(step.after)))

    def _through_layers(self, stream: Tensor, rope: Rope, step: Step) -> Tensor:
        """(P, D) embeddings in stream order -> their (P, D) final hidden states."""
        hidden = stream[None]
        for layer in self.model.layers:
            hidden = layer(hidden, attention_mask=None, position_embeddings=rope, beacon=step)
        return self.model.norm(hidden)[0]

    def _rope(self, like: Tensor, slots: Tensor) -> Rope:
        cos, sin = self.model.rotary_emb(like, slots[None])
        return cos[0], sin[0]

    def _targets(self, rows: Rows, labels: Tensor) -> Tensor:
        """(R,) int64: the label that each packed token predicts, -100 for none."""
        if labels.shape != (len(rows.lengths), rows.width):
            raise ValueError(f"labels has shape {tuple(labels.shape)}; input_ids {(len(rows.lengths), rows.width)}")
        targets = rows.targets(labels)
        check_ids(targets[targets != -100], self.config.vocab_size, "labels")
        return targets

    def _token_loss(self, hidden: Tensor, rows: Rows, targets: Tensor) -> Tensor:
        """(R, D) hidden states -> (B, L) float32: the loss of each token's own label."""
        losses = cast(LossHead, self.lm_head)(hidden, targets.to(hidden.device))
        return rows.unpack(losses.roll(1))

    @torch.no_grad()
    def _dense_hidden(self, ids: Tensor, lengths: Sequence[int], reads: Tensor) -> Tensor:
        """Ids and a mask (R,) of rows of these lengths -> (R, D): the dense backbone's final hidden states, else 0."""
        device = self.model.embed_tokens.weight.device
        rows = dense_rows([int(part.sum()) for part in reads.split(list(lengths))])
        layout = build_layout(rows, self.beacon).to(device)
        ids, index = move(ids, device), move(reads.nonzero().flatten(), device)
        with checkpoint.adapter.disabled(self):
            hidden, _ = self._hidden(ids[index], layout, ())
        return hidden.new_zeros(len(ids), hidden.shape[1]).index_copy(0, index, hidden)

    def _compared(
        self, hidden: Tensor, dense: Tensor, rows: Rows, targets: Tensor, reads: Tensor, teacher: Teacher
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states (R, D) of the model and of the dense backbone -> (B, L) token losses, KL, and where it is."""
        targets = targets.to(hidden.device)
        taught = (targets != -100) & move(reads, hidden.device)
        losses, kl = cast(LossHead, self.lm_head)(hidden, targets, dense, teacher.temperature).unbind(-1)
        packed = (losses, kl.masked_fill(~taught, 0), taught)
        return tuple(rows.unpack(values.roll(1)) for values in packed)  # type: ignore[return-value]

    def _losses(
        self, hidden: Tensor, rows: Rows, targets: Tensor, labels: Tensor, cache: BeaconCache | None
    ) -> tuple[Tensor, Tensor]:
        """Token losses (B, L), and their mean over labelled tokens. The cache's last state scores the first labels."""
        losses = self._token_loss(hidden, rows, targets)
        count = (targets != -100).sum().to(hidden.device)
        if cache is not None:
            columns = torch.arange(len(rows.lengths)), torch.tensor(rows.starts)
            read = torch.tensor([state.seen_tokens > 0 for state in cache.rows])
            first = labels.to("cpu")[columns].masked_fill(~read, -100).to(hidden.device)
            check_ids(first[first != -100], self.config.vocab_size, "labels")
            own = cast(LossHead, self.lm_head)(cache.last_hidden, first)
            losses = losses.index_put(tuple(column.to(hidden.device) for column in columns), own)
            count = count + (first != -100).sum()
        return losses, losses.sum() / count.clamp(min=1)
