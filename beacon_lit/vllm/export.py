"""The file that vLLM loads: rotated keys and values of one document, as the plain backbone would hold them."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from beacon_lit.arch import BeaconCache, cache_files

FORMAT = "beacon_vllm-1"
_BACKBONE = (  # of a cache's fingerprint
    "family", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "vocab_size", "head_dim", "rope_parameters", "weights of first q_proj", "weights of norm",
)  # fmt: skip


@dataclass(frozen=True)
class CacheFile:
    """What an exported file says about its contents.

    Attributes:
        slots: entries per layer and KV head; the plain model goes on at this position.
        tokens: raw tokens of the document, so that `tokens / slots` is the compression ratio.
        room: tokens of question and answer (without its last token) for which the plain model equals the beacon model.
        dtype: dtype of keys and values, such as "bfloat16".
        backbone: shapes, RoPE and samples of weights that identify the backbone, by name.
    """

    slots: int
    tokens: int
    room: int
    dtype: str
    backbone: dict[str, Any]

    @classmethod
    def read(cls, path: str | Path) -> "CacheFile":
        """Read what a file says, without its tensors.

        Raises:
            ValueError: the file is missing, damaged or of another format.
        """
        return cls(**cache_files.read_about(path, FORMAT))


def save_for_vllm(cache: BeaconCache, path: str | Path) -> CacheFile:
    """Write the keys and values of one document as a safetensors file, which replaces an older file in one step.

    The tensors are `layers.N.keys` and `layers.N.values` of every layer, (slots, K, H), keys rotated to the positions
    `0..slots-1`. Answers of the plain backbone equal those of the beacon model while the open window stays open.

    Args:
        cache: one row, see `BeaconCache.to_transformers`.
        path: the file, whose folder is made if necessary.

    Returns:
        What the file says, such as the number of slots.

    Raises:
        ValueError: several rows, an empty cache, or a cache that the plain backbone cannot go on from, for example
            one with `head_budgets`; a cache of a backbone with sliding windows; `path` is a folder.
    """
    if len(cache.rows) != 1:
        raise ValueError(
            f"a cache of {len(cache.rows)} rows is not allowed: a file holds one document; allowed: cache.select([row])"
        )
    if cache.reaches:
        raise ValueError(
            "a cache of a backbone with sliding windows is not allowed: vLLM keeps these layers in blocks of their "
            "own, which are not written; allowed: a backbone without sliding windows, or cache.to_transformers()"
        )
    past, row = cache.to_transformers(), cache.rows[0]
    if not row.slots:
        raise ValueError("an empty cache is not allowed: vLLM has nothing to load; allowed: at least one token")
    tensors: dict[str, Tensor] = {}
    for index, layer in enumerate(past.layers):
        keys, values = (tensor[0].transpose(0, 1) for tensor in (layer.keys, layer.values))
        assert len(keys) == row.slots  # so that vLLM's own positions are right
        tensors |= {f"layers.{index}.keys": keys, f"layers.{index}.values": values}
    fingerprint = dict(cache.fingerprint)
    backbone = {name: fingerprint[name] for name in _BACKBONE if name in fingerprint}
    about = CacheFile(row.slots, row.seen_tokens, cache.room, str(keys.dtype).removeprefix("torch."), backbone)
    cache_files.write(Path(path), tensors, asdict(about), FORMAT)
    return about


def read_layers(path: str | Path) -> list[tuple[Tensor, Tensor]]:
    """Read the keys and values, (slots, K, H) each, of every layer.

    Raises:
        ValueError: the file is missing, damaged or of another format.
    """
    tensors, _ = cache_files.read(path, "cpu", FORMAT)
    return [(tensors[f"layers.{i}.keys"], tensors[f"layers.{i}.values"]) for i in range(len(tensors) // 2)]
