"""beacon_lit: train, evaluate and use Activation Beacons (arXiv 2401.03462), a learned KV-cache compression."""

import gc
import logging

# transformers imports DeepSpeed and torchao where they are installed. Both then warn of machines without a GPU, and
# torch of how torchao registers constants. The filters have to be there before.
_NOTICES = {
    "DeepSpeed": "Setting accelerator to CPU",
    "torchao": "Failed to load",  # libraries of CUDA kernels
    "torchao.kernel.intmm": "no triton",
    "torch.utils._pytree": "register_constant() on Enum",
}
for _name in _NOTICES:
    logging.getLogger(_name).addFilter(lambda record: _NOTICES[record.name] not in record.getMessage())

# Python looks for garbage again and again among the more and more objects of an import, none of which is garbage.
_collecting = gc.isenabled()
gc.disable()
try:
    from beacon_lit.arch import BeaconCache, BeaconConfig, BeaconLM
    from beacon_lit.chat import BeaconChat
finally:
    if _collecting:
        gc.enable()

__all__ = ["BeaconCache", "BeaconChat", "BeaconConfig", "BeaconLM"]
