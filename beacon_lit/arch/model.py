"""BeaconLM: a Hugging Face causal language model whose windows see earlier ones through beacons."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as torch_checkpoint
from transformers import PretrainedConfig
from transformers.utils import ModelOutput

from beacon_lit.arch import checkpoint
from beacon_lit.arch.attention import BeaconAttention, Step
from beacon_lit.arch.checkpoint import is_beacon
from beacon_lit.arch.config import UNFINISHED, BeaconConfig
from beacon_lit.arch.layout import Layout, build_layout, check_positions, plan, window_counts
from beacon_lit.arch.loss import LossHead, loss_and_slope
from beacon_lit.arch.ratio import Draw, Ratios, passed_ratios, policy_ratios
from beacon_lit.arch.rows import Rows

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
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    token_loss: Tensor | None = None


class BeaconLM(_Backbone):
    """Mixin that makes a family's `...ForCausalLM` a beacon model (arXiv 2401.03462).

    Made by `from_pretrained` and `from_config`; every model they return is an instance of this class and of the
    family's. Parameter names are the backbone's own, plus `model.beacon_embed_tokens.weight` and
    `model.layers.{i}.self_attn.beacon_{q,k,v,o}_proj.{weight,bias}`. All but the beacons' are frozen.

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
        self.lm_head.compute = loss_and_slope
        self.freeze()

    @classmethod
    def from_config(
        cls, hf_config: PretrainedConfig, beacon: BeaconConfig | None = None, *, attn: str = "auto"
    ) -> "BeaconLM":
        """A model with random weights; the beacons start from the backbone's projections.

        Args:
            hf_config: LlamaConfig, MistralConfig, Qwen2Config or Qwen3Config.
            beacon: default `BeaconConfig()`.
            attn: "auto", "flash_attn", "varlen" or "sdpa".

        Raises:
            ValueError: another architecture, a RoPE type whose frequencies change with the length, a window beyond
                the backbone's positions, or a kernel that cannot be used.
        """
        model_class, config = checkpoint.beacon_model(cls.families, hf_config, beacon or BeaconConfig(), attn)
        model = model_class(config)
        model.attn = attn
        model.initialize_beacons()
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
            options: `dtype`, `backbone`, `allow_other_backbone`, and those of Hugging Face's `from_pretrained`.
        """
        return checkpoint.load(cls.families, path, beacon, attn, **options)

    def save_pretrained(self, save_directory: Any, *args: Any, beacon_only: bool = True, **options: Any) -> None:
        """Write the beacons alone, with the backbone's name and fingerprint; or all as a Hugging Face folder."""
        if beacon_only:
            checkpoint.save_beacons(self, save_directory, options.get("state_dict"))
        else:
            super().save_pretrained(save_directory, *args, **options)

    @torch.no_grad()
    def initialize_beacons(self) -> None:
        """Start the beacon projections from the backbone's, the beacon embedding from `embed_init`'s token.

        Where the backbone has no such token, the embedding starts from the vocabulary's mean.
        """
        for layer in self.model.layers:
            layer.self_attn.initialize()
        field = f"{self.beacon.embed_init}_token_id"
        token = getattr(self.config, field, None)
        token = token[0] if isinstance(token, list) else token
        table = self.model.embed_tokens.weight
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
        return_dict: bool = True,
    ) -> BeaconOutput | tuple:
        """All windows of all rows in one pass.

        Args:
            input_ids: (B, L) int64.
            attention_mask: (B, L) of 0 and 1, left or right padding. On the CPU it costs no synchronisation.
            labels: (B, L) int64, unshifted; -100 and padding are ignored.
            ratios: None (the policy), one ratio, one per window, or a sequence per row; see `ratio.passed_ratios`.
            unfinished: "raw" or "beacons"; default: "raw" in training mode, else the config's.
            return_logits: False leaves them out; a loss alone never holds the logits of a whole step.
            logits_to_keep: only the last columns' logits; 0 for all.
            return_dict: False gives a tuple.

        Raises:
            ValueError: an empty batch, shapes that differ, ids outside the vocabulary, ratios that are not allowed,
                or more slots than the backbone has positions.
        """
        rows = Rows.of(input_ids, attention_mask)
        ids = rows.pack(input_ids)
        check_ids(ids, self.config.vocab_size, "input_ids")
        targets = None if labels is None else self._targets(rows, labels)
        layout = self._layout(rows, ratios, unfinished)
        hidden = self._hidden(ids, layout.to(ids.device))
        output = BeaconOutput()
        if targets is not None:
            output.token_loss = self._token_loss(hidden, rows, targets)
            labelled = (targets != -100).sum().to(hidden.device)
            output.loss = output.token_loss.sum() / labelled.clamp(min=1)
        if return_logits:
            columns = range(rows.width)[-logits_to_keep:]
            output.logits = self.lm_head(rows.unpack(hidden, columns))
        return output if return_dict else output.to_tuple()

    def dense(self, *args: Any, **kwargs: Any) -> Any:
        """The untouched backbone's forward."""
        return super().forward(*args, **kwargs)

    def dense_token_loss(self, input_ids: Tensor, attention_mask: Tensor | None = None, *, labels: Tensor) -> Tensor:
        """The untouched backbone's (B, L) float32 token losses, as `BeaconOutput.token_loss`."""
        rows = Rows.of(input_ids, attention_mask)
        targets = self._targets(rows, labels)
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        return self._token_loss(rows.pack(hidden), rows, targets)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Hugging Face's `generate`. The prompt is read again for each token."""
        return super().generate(*args, **{**kwargs, "use_cache": False})

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """What `generate` passes to `forward` for one more token."""
        passed = {name: kwargs.get(name) for name in ("attention_mask", "ratios", "unfinished")}
        return {"input_ids": input_ids, "logits_to_keep": 1, **passed}

    def _layout(self, rows: Rows, ratios: Ratios | None, unfinished: str | None) -> Layout:
        unfinished = unfinished or ("raw" if self.training else self.beacon.unfinished)
        if unfinished not in UNFINISHED:
            raise ValueError(f"unfinished={unfinished!r} is not allowed; allowed: {', '.join(UNFINISHED)}")
        counts = window_counts(rows.lengths, self.beacon.window)
        if ratios is not None:
            chosen = passed_ratios(ratios, counts, self.beacon.window)
        elif max(counts) == 1 and unfinished == "raw":
            chosen = [[self.beacon.ratios[0]]] * len(counts)  # nothing closes: no ratio is needed
        else:
            chosen = policy_ratios(
                self.beacon, rows.lengths, counts, self.positions, self.draw if self.training else None
            )
        if self.training:
            self.draw = self.draw.next()
        windows = plan(rows.lengths, chosen, self.beacon, unfinished)
        check_positions(windows, self.beacon, self.positions)
        return build_layout(windows, self.beacon)

    def _hidden(self, ids: Tensor, layout: Layout) -> Tensor:
        """(R,) ids -> (R, D) final hidden states of raw tokens."""
        beacons = self.model.beacon_embed_tokens(ids.new_zeros(layout.beacons))
        raw = self.model.embed_tokens(ids)
        hidden = torch.cat([raw, beacons.to(raw.dtype)])[None]
        step = Step(layout, self._rope(raw, layout.q_slot), self._rope(raw, layout.k_slot), self.attn)
        for layer in self.model.layers:
            hidden = layer(hidden, attention_mask=None, position_embeddings=step.q_rope, beacon=step)
        return self.model.norm(hidden)[0, : layout.raw]

    def _rope(self, like: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
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


def check_ids(ids: Tensor, vocabulary: int, name: str) -> None:
    """ValueError unless all ids are in `0..vocabulary-1`."""
    if ids.numel() == 0:
        return
    low, high = (int(bound) for bound in torch.stack(ids.aminmax()).tolist())
    if low < 0 or high >= vocabulary:
        wrong: Sequence[int] = [bound for bound in (low, high) if not 0 <= bound < vocabulary]
        raise ValueError(f"{name} has the token id {wrong[0]}; allowed: 0 to {vocabulary - 1}")
