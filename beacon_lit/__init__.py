"""beacon_lit: train, evaluate and use Activation Beacons (arXiv 2401.03462), a learned KV-cache compression."""

from beacon_lit.arch import BeaconCache, BeaconConfig, BeaconLM

__all__ = ["BeaconCache", "BeaconConfig", "BeaconLM"]
