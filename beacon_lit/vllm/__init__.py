"""Serve exported caches with vLLM, on the plain backbone.

    save_for_vllm(cache, "caches/book")          here: a file of rotated keys and values, one entry per slot
    vllm serve BACKBONE --kv-transfer-config ... vLLM's process: `BeaconConnector` loads the file a request names

vLLM is imported by `connector` alone, which only vLLM itself imports.
"""

from beacon_lit.vllm.export import CacheFile, save_for_vllm

__all__ = ["CacheFile", "save_for_vllm"]
