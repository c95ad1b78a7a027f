"""vLLM's side: the scheduler counts a request's memory as computed, and workers load the memory from a file.

vllm serve BACKBONE --no-enable-prefix-caching --kv-transfer-config '{"kv_connector": "BeaconConnector",
    "kv_connector_module_path": "beacon_lit.vllm.connector", "kv_role": "kv_consumer",
    "kv_connector_extra_config": {"folder": "caches"}}'
"""

import re
from dataclasses import dataclass, replace
from typing import Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorTransferResults,
)
from vllm.distributed.parallel_state import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from vllm.logger import init_logger

from beacon_lit.vllm.blocks import own_heads, slot_mapping
from beacon_lit.vllm.export import read_layers
from beacon_lit.vllm.requests import Load, check_engine, check_prompt, find, served_by

log = init_logger(f"vllm.{__name__}")  # vLLM shows the messages of its own loggers


@dataclass
class Loads(KVConnectorMetadata):
    """What workers load in one step."""

    loads: list[Load]


class BeaconConnector(KVConnectorBase_V1):
    """Loads exported caches into vLLM's blocks.

    A request is loaded between two steps of the engine (vLLM: asynchronously), because in this way alone vLLM can fail
    a single request, and goes on. A refused request ends with an error; the reason is in the log.
    """

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        specs = [group.kv_cache_spec for group in kv_cache_config.kv_cache_groups]
        check_engine(vllm_config, specs)
        self._block_size = specs[0].block_size
        self._dtype = vllm_config.model_config.dtype
        if role == KVConnectorRole.SCHEDULER:
            self._folder, self._served = served_by(vllm_config)
        self._loads: list[Load] = []
        self._results = KVConnectorTransferResults()

    # Scheduler

    def on_new_request(self, request: Any) -> None:
        """Keep vLLM from reading the placeholders of a request as text, as it would with `prompt_logprobs`."""
        if request.kv_transfer_params:
            request.skip_reading_prefix_cache = False

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        """Return how many tokens of a prompt are loaded, and that they are loaded between steps."""
        if not request.kv_transfer_params:
            return 0, False
        return self._planned(request).slots, True

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Plan to load what `get_num_new_matched_tokens` announced; called again without tokens after loading."""
        if num_external_tokens:
            (block_ids,) = blocks.get_block_ids()
            self._loads.append(replace(self._planned(request), block_ids=tuple(block_ids)))

    def build_connector_meta(self, scheduler_output: Any) -> Loads:
        """Hand over the loads of this step to the workers."""
        loads, self._loads = self._loads, []
        return Loads(loads)

    def _planned(self, request: Any) -> Load:
        try:
            path, file = find(request.kv_transfer_params, self._folder, self._served)
            check_prompt(request.prompt_token_ids, file, request.sampling_params.prompt_logprobs)
        except ValueError as error:
            return Load(request.request_id, "", 1, refusal=str(error))
        return Load(request.request_id, str(path), file.slots)

    # Worker

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Load everything that the scheduler has planned."""
        metadata = self._get_connector_metadata()
        assert isinstance(metadata, Loads)
        for load in metadata.loads:
            try:
                self._load(load, forward_context.no_compile_layers)
            except ValueError as error:
                log.error("request %s is refused: %s", load.request_id, error)
                self._results.failed_recving.add(load.request_id)
            self._results.finished_recving.add(load.request_id)

    @torch.inference_mode()
    def _load(self, load: Load, layers: dict[str, Any]) -> None:
        """Write keys and values of all attention layers through the attention backend, which knows its layout."""
        if load.refusal:
            raise ValueError(load.refusal)
        saved = read_layers(load.path)
        if len(saved[0][0]) != load.slots:
            raise ValueError(f"{load.path} was replaced while a request waited; allowed: asking again")
        slots = slot_mapping(load.block_ids, self._block_size, load.slots)
        rank, ranks = get_tensor_model_parallel_rank(), get_tensor_model_parallel_world_size()
        for name, layer in layers.items():
            if not hasattr(layer, "kv_cache"):
                continue  # not an attention layer
            (index,) = map(int, re.findall(r"\.layers\.(\d+)\.", name))
            device = layer.kv_cache.device
            keys, values = (
                tensor[:, own_heads(tensor.shape[1], rank, ranks)].to(device, self._dtype).contiguous()
                for tensor in saved[index]
            )
            layer.impl.do_kv_cache_update(layer, keys, values, layer.kv_cache, slots.to(device))

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        """Report the requests that were loaded, and those of them that failed."""
        results, self._results = self._results, KVConnectorTransferResults()
        return results

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Everything is loaded before a request runs."""

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        """Nothing is saved."""

    def wait_for_save(self) -> None:
        """Nothing is saved."""
