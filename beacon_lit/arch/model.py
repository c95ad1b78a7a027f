"""BeaconLM: a Hugging Face causal language model whose windows see earlier windows through beacons.

The work is done in `core` (layers), `scoring` (losses), `inference` (caches, generation) and `checkpoint` (files).
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from torch import Tensor
from transformers import PretrainedConfig

from beacon_lit.arch import checkpoint, scoring
from beacon_lit.arch.cache import BeaconCache
from beacon_lit.arch.config import BeaconConfig
from beacon_lit.arch.core import plain_class, read
from beacon_lit.arch.inference import compress as reading
from beacon_lit.arch.inference import dense
from beacon_lit.arch.inference.arguments import check_forward
from beacon_lit.arch.inference.cache_names import named_for
from beacon_lit.arch.inference.decode import Decoding
from beacon_lit.arch.inference.fingerprint import check_cache
from beacon_lit.arch.inference.generate import BeaconGeneration
from beacon_lit.arch.inference.start import empty_cache, open_window_mode
from beacon_lit.arch.nn.observe import Observe, observing
from beacon_lit.arch.output import BeaconOutput
from beacon_lit.arch.plan.call import check_totals, totals
from beacon_lit.arch.plan.rows import Rows, check_ids
from beacon_lit.arch.ratios import Ratios


class BeaconLM(BeaconGeneration):
    """A family's `...ForCausalLM` as a beacon model (arXiv 2401.03462).

    `from_pretrained` and `from_config` make models, which are instances of this class and of the family's. Parameter
    names are the backbone's own, plus `model.beacon_embed_tokens.weight` and
    `model.layers.{i}.self_attn.beacon_{q,k,v,o}_proj.{weight,bias}`. All other parameters are frozen.
    """

    accepts_loss_kwargs = False  # Hugging Face's Trainer then averages accumulated losses by itself
    # No annotations: transformers would look their names up too early.
    families = cast("dict[str, type[BeaconLM]]", {})
    listed = True  # whether the class is one of `families`' own, as opposed to one that `unlisted` makes
    unlisted = cast("Callable[[PretrainedConfig], type[BeaconLM]]", None)  # set by `families`

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        BeaconLM.families[cls.config_class.model_type.removeprefix("beacon_")] = cls

    @classmethod
    def class_of(cls, hf_config: PretrainedConfig) -> "type[BeaconLM]":
        """Return the model class of a backbone's config; make one if the architecture is not listed.

        Raises:
            ValueError: an architecture that is not supported; says which assumption it breaks.
        """
        known = cls.families.get(checkpoint.family(hf_config))
        return known if known is not None and known.listed else cls.unlisted(hf_config)

    @classmethod
    def from_config(
        cls,
        hf_config: PretrainedConfig,
        beacon: BeaconConfig | None = None,
        *,
        attn: str = "auto",
        shard: checkpoint.Sharder | None = None,
    ) -> "BeaconLM":
        """Make a model with random weights; the beacons start from the backbone's projections.

        Args:
            hf_config: the backbone's config, e.g. a LlamaConfig; docs/models.md lists the families.
            beacon: default: the settings in `hf_config`, else `BeaconConfig()`.
            attn: "auto", "flash_attn_4", "flash_attn", "varlen" or "sdpa".
            shard: spreads each part of the model over ranks; every rank must make the same model first.

        Raises:
            ValueError: an architecture that is not supported, a RoPE type whose frequencies change with the length, a
                window beyond the backbone's positions, or a kernel that cannot be used.
        """
        return checkpoint.from_config(cls.class_of, hf_config, beacon, attn, shard)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, path: str, beacon: BeaconConfig | None = None, *, attn: str = "auto", **options: Any
    ) -> "BeaconLM":
        """Load a backbone, with beacons if the checkpoint has some; see `checkpoint.load` for sources and errors.

        Args:
            path: hub id, folder, GGUF file, published beacon checkpoint, or folder written by `save_pretrained`.
            beacon: settings; default: those of the checkpoint, else `BeaconConfig()`.
            attn: "auto", "flash_attn_4", "flash_attn", "varlen" or "sdpa".
            options: `dtype`, `backbone`, `allow_other_backbone`, `shard`, and those of Hugging Face.
        """
        return checkpoint.load(cls.class_of, path, beacon, attn, **options)

    def save_pretrained(self, save_directory: Any, *args: Any, beacon_only: bool = True, **options: Any) -> None:
        """Write the beacons alone, with the backbone's name, fingerprint and tokenizer; or all, for Hugging Face.

        Where parameters are spread over ranks every rank must call it, and `is_main_process` says which writes.
        An adapter goes with the beacons; for a Hugging Face folder merge it first (`merge_adapter`).

        Raises:
            ValueError: an option other than `state_dict` with `beacon_only`, all with an adapter; see also
                `checkpoint.save_beacons`.
        """
        if beacon_only:
            checkpoint.save_beacons_alone(self, save_directory, *args, **options)
            if self.config._name_or_path and options.get("is_main_process", True):
                with suppress(ValueError):  # a backbone without a tokenizer, or one that is not on this machine
                    checkpoint.copy_tokenizer(self.config._name_or_path, save_directory, local_files_only=True)
            return
        checkpoint.check_listed(self, "beacon_only=False")
        checkpoint.adapter.check_merged(self)
        if checkpoint.collect_whole(self, options):
            super().save_pretrained(save_directory, *args, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> Any:
        """Upload what `save_pretrained` writes, the beacons alone, to the Hugging Face hub.

        Raises:
            ValueError: the hub cannot be reached, or does not allow it.
        """
        try:
            return super().push_to_hub(repo_id, **options)
        except ValueError:
            raise
        except Exception as error:  # of the HTTP library, which differs between versions of huggingface_hub
            raise ValueError(
                f"push_to_hub({repo_id!r}) failed: {str(error).splitlines()[0]}; allowed: with a network, and a token "
                f"that may write (hf auth login). Without them: save_pretrained(folder)"
            ) from error

    def save_published(self, folder: str | Path, **options: Any) -> None:
        """Write the whole model in the layout of the published checkpoints; see `checkpoint.save_published`."""
        checkpoint.save_published(self, folder, **options)

    def save_backbone(self, folder: str | Path) -> None:
        """Write what `dense` runs as a plain Hugging Face folder; see `checkpoint.save_backbone`."""
        checkpoint.save_backbone(self, folder)

    def add_adapter(self, adapter_config: Any, adapter_name: None = None) -> None:
        """Put a LoRA adapter on projections of the backbone, and train it; see `checkpoint.adapter.add`.

        Args:
            adapter_config: a `peft.LoraConfig`.
            adapter_name: None; a model has one adapter.
        """
        checkpoint.adapter.add(self, adapter_config)

    def merge_adapter(self) -> None:
        """Add the adapter to the backbone's weights, rounded to their dtype; load them in float32 to lose nothing."""
        checkpoint.adapter.merge(self)

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor = None,  # type: ignore[assignment]  # peft passes it by name, with None for embeddings
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        ratios: Ratios | None = None,
        unfinished: str | None = None,
        return_logits: bool = True,
        logits_to_keep: int = 0,
        cache: BeaconCache | Decoding | None = None,
        use_cache: bool = False,
        past_key_values: BeaconCache | None = None,
        return_dict: bool | None = True,
        total_length: int | Sequence[int] | None = None,
        teacher: scoring.Teacher | None = None,
        observe: Observe | None = None,
        **others: Any,
    ) -> BeaconOutput | tuple:
        """Read all windows of all rows in one pass.

        Args:
            input_ids: (B, L) int64. Ids, mask and labels on the CPU cost no synchronisation.
            attention_mask: (B, L) of 0 and 1, left or right padding; with a cache the last columns of a longer one
                count.
            labels: (B, L) int64, unshifted; -100 and padding are ignored.
            ratios: None (the policy), one ratio, one per window that the call touches, or a sequence per row; see
                `plan.ratios.passed_ratios`.
            unfinished: "raw" or "beacons"; default: the cache's, else "raw" in training mode, else the config's.
            return_logits: False leaves out the logits; a loss alone never holds the logits of a whole step.
            logits_to_keep: number of last columns to compute logits of; 0: all.
            cache: the cache to continue from; logits and losses are of the new tokens. `generate` passes a `Decoding`.
            use_cache: return a cache (always so when one is given).
            past_key_values: another name for `cache`.
            return_dict: False gives a tuple; None means True.
            total_length: raw tokens that the sequences will have, this call's included, or one count per row, for
                policies that plan ahead ("adapt-N", "budget-N"); default: the tokens read so far.
            teacher: let the dense backbone read the rows as well, without gradients, and return `token_kl`.
            observe: return outputs of chosen layers, and of the same layers of the teacher, if there is one.
            others: arguments of Hugging Face's models; only values that ask for nothing, see `inference.arguments`.

        Raises:
            ValueError: an empty batch, shapes that differ, ids outside the vocabulary, ratios that are not allowed, a
                cache of another model, dtype, device, batch size or open-window mode, more slots than the backbone
                has positions, a `total_length` below the tokens of a row, or a teacher without labels or with a cache.
        """
        cache = past_key_values if cache is None else cache
        check_forward(input_ids, cache, others)
        if isinstance(cache, Decoding):
            return BeaconOutput(logits=cache.step(input_ids), cache=cache)
        if cache is not None:
            check_cache(cache, self)
            attention_mask = attention_mask if attention_mask is None else attention_mask[:, -input_ids.shape[1] :]
        rows = Rows.of(input_ids, attention_mask)
        ids = rows.pack(input_ids.cpu())  # so that only what the GPU needs is copied, and nothing waits for it
        check_ids(ids, self.config.vocab_size, "input_ids")
        scored = scoring.Labels.of(self, rows, labels, teacher, cached=cache is not None or use_cache)
        unfinished, ends = open_window_mode(self, unfinished, cache), totals(total_length, len(rows.lengths))
        call = self.plan(rows.lengths, cache, unfinished, ratios, self.draw if self.training else None, ends)
        check_totals(ends, call.states, rows.lengths)
        if self.training:
            self.draw = self.draw.next()
        before = empty_cache(self, len(rows.lengths)) if use_cache and cache is None else cache
        dense = scored.dense(self, ids, observe)  # first, while no activations are held
        with observing(self.model.layers, observe) as seen:
            hidden, after = read(self, ids, call, before)
        output = BeaconOutput(**scored.losses(self, hidden, dense.get("final"), cache), cache=after)  # type: ignore[arg-type]
        output.rows = call.rows if self.training and return_dict is not False else None
        if observe is not None:
            output.observed = {name: rows.unpack(states[: len(ids)]) for name, states in seen.items()}
            output.taught_states = {name: rows.unpack(states) for name, states in dense.items() if name in seen}
        if return_logits:
            output.logits = self.logits(rows.unpack(hidden, range(rows.width)[-logits_to_keep:]))
        return output.to_tuple() if return_dict is False else output

    compress = reading.compress
    compress_iter = reading.compress_iter

    def dense(self, *args: Any, **kwargs: Any) -> Any:
        """Run the backbone's forward: without beacons, and without an adapter."""
        with checkpoint.adapter.disabled(self):
            return super().forward(*args, **named_for(plain_class(type(self)).forward, kwargs))

    def dense_token_loss(self, input_ids: Tensor, attention_mask: Tensor | None = None, *, labels: Tensor) -> Tensor:
        """Compute the token losses of `dense`, (B, L) float32 nats, as in `BeaconOutput.token_loss`."""
        return scoring.dense_token_loss(self, input_ids, attention_mask, labels)

    def dense_generate(self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Any:
        """Generate with the backbone by Hugging Face's `generate`: without beacons, windows and an adapter.

        Args:
            input_ids: (B, L) int64.
            attention_mask: (B, L) of 0 and 1, padding on the left.
            options: Hugging Face's generation options. With `cache` or `past_key_values`, `input_ids` still hold the
                whole sequence, including the tokens that the cache has read.

        Raises:
            ValueError: prompts that differ between ranks that share the model.
        """
        return dense.dense_generate(self, self.dense, input_ids, attention_mask, **options)
