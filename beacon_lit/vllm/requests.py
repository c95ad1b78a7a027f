"""What a request and an engine of vLLM must be like, on plain values: everything else is refused in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beacon_lit.vllm.backbone import check_backbone, identify
from beacon_lit.vllm.export import CacheFile

KEY = "beacon_cache"  # in kv_transfer_params


@dataclass(frozen=True)
class Load:
    """Keys and values to put into the blocks of a request, or why the request is refused.

    Attributes:
        request_id: vLLM's id of the request.
        path: the exported cache.
        slots: entries to load; a refused request has 1, since vLLM wants something to wait for.
        block_ids: the request's blocks, in order.
        refusal: why nothing is loaded; "" if something is.
    """

    request_id: str
    path: str
    slots: int
    block_ids: tuple[int, ...] = ()
    refusal: str = ""


def find(params: Mapping[str, Any], folder: Path, served: Mapping[str, Any]) -> tuple[Path, CacheFile]:
    """Return the file that a request names, and what the file says.

    Args:
        params: the request's `kv_transfer_params`.
        folder: where exported caches are.
        served: the backbone that is served, see `backbone.identify`.

    Raises:
        ValueError: other parameters, a file outside the folder, a missing or damaged file, or another backbone.
    """
    name = params.get(KEY)
    if set(params) != {KEY} or not isinstance(name, str):
        raise ValueError(f'kv_transfer_params={dict(params)} is not allowed; allowed: {{"{KEY}": NAME}}')
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"{KEY}={name!r} is not allowed: it is outside {folder}; allowed: a file in this folder")
    file = CacheFile.read(path)
    check_backbone(file.backbone, served, name)
    return path, file


def check_prompt(ids: Sequence[int] | None, file: CacheFile, prompt_logprobs: int | None) -> None:
    """Raise a ValueError unless a prompt is one placeholder for every slot, and a question.

    Args:
        ids: token ids of the prompt. Its first token is the placeholder; the question begins with another one.
        file: the exported cache.
        prompt_logprobs: vLLM's sampling parameter; logits of placeholders do not exist.
    """
    if not ids:
        raise ValueError("a prompt without token ids is not allowed; allowed: placeholders, then the question")
    found = next((place for place, token in enumerate(ids) if token != ids[0]), len(ids))
    if found != file.slots:
        raise ValueError(
            f"the prompt begins with {found} times token {ids[0]}; allowed: one token {file.slots} times, since the "
            f"cache has {file.slots} slots, then the question, which begins with another token"
        )
    if len(ids) == found:
        raise ValueError("a prompt of placeholders alone is not allowed; allowed: a question behind them")
    if prompt_logprobs is not None:
        raise ValueError(f"prompt_logprobs={prompt_logprobs} is not allowed: placeholders have none; allowed: null")


def check_engine(vllm_config: Any, specs: Sequence[Any]) -> None:
    """Raise a ValueError unless an engine's settings keep documents apart and memory whole.

    Args:
        vllm_config: vLLM's settings.
        specs: the `kv_cache_spec` of each group of layers.
    """
    transfer, parallel = vllm_config.kv_transfer_config, vllm_config.parallel_config
    if vllm_config.cache_config.enable_prefix_caching:
        raise ValueError(
            "enable_prefix_caching=True is not allowed: prompts of different documents begin with the same "
            "placeholders, and one would be answered from the other's memory; allowed: --no-enable-prefix-caching"
        )
    if transfer.kv_role != "kv_consumer":
        raise ValueError(f"kv_role={transfer.kv_role!r} is not allowed: nothing is saved; allowed: 'kv_consumer'")
    if transfer.kv_load_failure_policy != "fail":
        raise ValueError(
            f"kv_load_failure_policy={transfer.kv_load_failure_policy!r} is not allowed: placeholders would be read "
            "as text; allowed: 'fail'"
        )
    if vllm_config.speculative_config is not None:
        raise ValueError("speculative_config is not allowed: a draft model has no memory; allowed: none")
    for name in ("decode_context_parallel_size", "prefill_context_parallel_size"):
        if getattr(parallel, name) != 1:
            raise ValueError(f"{name}={getattr(parallel, name)} is not allowed: slots are in order; allowed: 1")
    window = next((spec.sliding_window for spec in specs if getattr(spec, "sliding_window", None)), None)
    if window or len(specs) != 1:
        raise ValueError(
            f"sliding_window={window}, {len(specs)} kinds of layers: layers that forget memory are not allowed; "
            """allowed: full attention in all layers, such as with --hf-overrides '{"sliding_window": null}'"""
        )


def served_by(vllm_config: Any) -> tuple[Path, dict[str, Any]]:
    """Return the folder of exported caches and the backbone, see `backbone.identify`, of an engine."""
    model = vllm_config.model_config
    folder = vllm_config.kv_transfer_config.get_from_extra_config("folder", ".")
    return Path(folder), identify(model.hf_text_config, model.model, model.revision)
