"""beacon_lit: train, evaluate and use Activation Beacons (arXiv 2401.03462), a learned KV-cache compression."""

import logging

# transformers imports DeepSpeed where it is installed, and DeepSpeed then warns of every machine without a GPU. The
# filter has to be there before.
logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())

from beacon_lit.arch import BeaconCache, BeaconConfig, BeaconLM  # noqa: E402
from beacon_lit.chat import BeaconChat  # noqa: E402

__all__ = ["BeaconCache", "BeaconChat", "BeaconConfig", "BeaconLM"]
