"""Make model classes of architectures that are not listed, from transformers' own classes.

Such a class assumes what the listed families have in common, see `assumptions`. Whether the layers do nothing else is
checked with the weights, after loading (`checkpoint.self_check`).
"""

import sys
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, PretrainedConfig
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping

from beacon_lit.arch.checkpoint import family
from beacon_lit.arch.core import ATTENTION_CAP, FINAL_CAP, BeaconModel, plain_class
from beacon_lit.arch.families.assumptions import broken_by_config, broken_by_model
from beacon_lit.arch.model import BeaconLM
from beacon_lit.arch.nn.attention import BeaconAttention, Step
from beacon_lit.arch.nn.layer import BeaconLayer
from beacon_lit.arch.nn.logits import LogitScale
from beacon_lit.arch.nn.rope import Rope
from beacon_lit.arch.plan.kinds import LayerKind, Memory, Sliding, kinds_of


class UnlistedAttention(BeaconAttention):
    """Attention with the RoPE of its own module, and with norms of queries and keys if it has such norms."""

    def forward(
        self,
        hidden_states: Tensor,
        *args: Any,
        beacon: Step | None = None,
        position_embeddings: Any = None,
        **kwargs: Any,
    ) -> Any:
        """See `BeaconAttention`.

        Raises:
            TypeError: a layer that is given a step has not passed it on.
        """
        if beacon is None and position_embeddings is None:
            raise TypeError(f"{type(self).__name__} is called without the arguments that its layer was given")
        options = {"beacon": beacon, "position_embeddings": position_embeddings}
        return super().forward(hidden_states, *args, **options, **kwargs)

    def normalize(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """See `BeaconAttention`. Norms are per head or over all heads, as many weights as they have."""
        return _normed(getattr(self, "q_norm", None), q), _normed(getattr(self, "k_norm", None), k)


class UnlistedLayer(BeaconLayer):
    """A layer without own maps in its MLP, since the places of its norms are not known."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Raise a ValueError."""
        raise ValueError("params='gate', 'up' or 'down' are not allowed for a backbone that is not listed")


class UnlistedModel(BeaconModel):
    """A mixin for a model whose layers may be of two kinds, and which may scale embeddings and logits."""

    listed = False
    caps = (ATTENTION_CAP, FINAL_CAP)

    @classmethod
    def layer_kinds(cls, config: PretrainedConfig) -> tuple[LayerKind, ...]:
        """See `BeaconModel`. Where all layers have a sliding window, they have memory in its place, as in Mistral."""
        types = getattr(config, "layer_types", None) or ()
        if not {Memory.layer_type, Sliding.layer_type} <= set(types):
            return super().layer_kinds(config)
        return kinds_of(types, config.sliding_window)

    @property
    def head_scale(self) -> LogitScale:
        """See `BeaconModel`. Cohere's models multiply logits by `logit_scale`, HyperCLOVAX by `logits_scaling`."""
        factors = (getattr(self.config, name, None) for name in ("logit_scale", "logits_scaling"))
        return replace(super().head_scale, divisor=1.0 / next(filter(None, factors), 1.0))

    def scale_embeddings(self, embedded: Tensor) -> Tensor:
        """See `BeaconModel`."""
        return embedded * getattr(self.config, "embedding_multiplier", 1.0)

    def rope(self, like: Tensor, slots: Tensor, kind: LayerKind) -> Rope:
        """See `BeaconModel`."""
        if "rope_type" in self.config.rope_parameters:
            return super().rope(like, slots, kind)
        cos, sin = self.model.rotary_emb(like, slots[None], kind.layer_type)
        return cos[0], sin[0]


def model_class(config: PretrainedConfig) -> type[BeaconLM]:
    """Return the model class of an architecture that is not listed; the first call makes and registers the class.

    Args:
        config: the backbone's config.

    Raises:
        ValueError: the architecture breaks an assumption; says which one.
    """
    mapped = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if mapped is None:
        _refuse(config, "transformers has no causal language model of this type")
    plain = plain_class(mapped)
    for sentence in broken_by_config(config):
        _refuse(config, sentence)
    model = _on_meta(plain, config)
    for sentence in broken_by_model(model):
        _refuse(config, sentence)
    layer = model.model.layers[0]
    attention, module = type(layer.self_attn), sys.modules[type(layer.self_attn).__module__]
    if any(type(other.self_attn) is not attention for other in model.model.layers):
        _refuse(config, "its layers have attention of different classes")
    turn = getattr(module, "apply_rotary_pos_emb", None)
    if turn is None:
        _refuse(config, "its module has no function apply_rotary_pos_emb")
    return BeaconLM.families.get(family(config)) or _register(config, plain, attention, type(layer), turn)


def _on_meta(plain: Any, config: PretrainedConfig) -> Any:
    """Return the plain model without weights."""
    try:
        with torch.device("meta"):
            return plain(config)
    except (TypeError, AttributeError, ValueError, KeyError, ImportError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        _refuse(config, f"transformers cannot make the model of its config ({reason})")


def _register(config: PretrainedConfig, plain: Any, attention: type, layer: type, turn: Any) -> type[BeaconLM]:
    kind, name = family(config), plain.__name__.removesuffix("ForCausalLM")
    about = {"__module__": __name__}
    fields = {**about, "model_type": f"beacon_{kind}", "beacon": None, "__annotations__": {"beacon": dict | None}}
    own_config = type(f"Beacon{name}Config", (type(config),), fields)
    classes = {
        "config_class": own_config,
        "attention_class": type(
            f"Beacon{name}Attention",
            (UnlistedAttention, attention),
            {**about, "rotation": staticmethod(partial(_rotate, turn))},
        ),
        "layer_class": type(f"Beacon{name}Layer", (UnlistedLayer, layer), about),
    }
    made = type(f"Beacon{name}ForCausalLM", (UnlistedModel, BeaconLM, plain), {**about, **classes})
    for each in (made, *classes.values()):
        setattr(sys.modules[__name__], each.__name__, each)  # where pickle finds them
    AutoConfig.register(f"beacon_{kind}", own_config, exist_ok=True)
    AutoModelForCausalLM.register(own_config, made, exist_ok=True)
    if conversion := get_checkpoint_conversion_mapping(kind):
        register_checkpoint_conversion_mapping(f"beacon_{kind}", conversion, overwrite=True)
    return made


def _rotate(turn: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Do what `nn.rope.rotate` does, by the function of the architecture's module, called as its attention calls it."""
    size = cos.shape[-1]  # some attentions split what is rotated from the rest of a head themselves
    heads = x[..., :size].transpose(0, 1)[None]
    turned = turn(heads, heads[:, :0], cos[None], sin[None])[0][0].transpose(0, 1).to(x.dtype)
    return turned if size == x.shape[-1] else torch.cat([turned, x[..., size:]], -1)


def _normed(norm: Any, x: Tensor) -> Tensor:
    if norm is None or isinstance(norm, nn.Identity):
        return x
    whole = getattr(norm, "weight", None) is not None and norm.weight.shape == (x.shape[1] * x.shape[2],)
    return norm(x.flatten(1)).view_as(x) if whole else norm(x)


def _refuse(config: PretrainedConfig, reason: str) -> None:
    listed = ", ".join(sorted(name for name, known in BeaconLM.families.items() if known.listed))
    raise ValueError(
        f"model_type={family(config)!r} is not supported: {reason}; allowed: {listed}, and others built like these"
    )
