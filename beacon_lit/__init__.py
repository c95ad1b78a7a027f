"""beacon_lit: train, evaluate and use Activation Beacons (arXiv 2401.03462), a learned KV-cache compression."""

from beacon_lit.arch import BeaconCache, BeaconConfig, BeaconLM
from beacon_lit.chat import BeaconChat

__all__ = ["BeaconCache", "BeaconChat", "BeaconConfig", "BeaconLM"]
