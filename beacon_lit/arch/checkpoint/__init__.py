"""Read and write beacon models: where weights come from, what must fit what, and the layouts on disk."""

from beacon_lit.arch.checkpoint import adapter
from beacon_lit.arch.checkpoint.backbone import ROPE_TYPES, beacon_model, positions
from beacon_lit.arch.checkpoint.beacons import load_beacons, save_beacons, settings
from beacon_lit.arch.checkpoint.files import SETTINGS_FILE, TRAINING_SUFFIX, WEIGHTS_FILE
from beacon_lit.arch.checkpoint.fingerprint import check_backbone
from beacon_lit.arch.checkpoint.loading import load
from beacon_lit.arch.checkpoint.names import check_names, is_adapter, is_backbone, is_beacon
from beacon_lit.arch.checkpoint.published import save_published
from beacon_lit.arch.checkpoint.sharded import collect, is_spread, put, size
from beacon_lit.arch.checkpoint.source import config_settings, stored_settings
from beacon_lit.arch.checkpoint.streaming import Shard, parts

__all__ = [
    "ROPE_TYPES", "SETTINGS_FILE", "TRAINING_SUFFIX", "WEIGHTS_FILE", "Shard", "adapter", "beacon_model",
    "check_backbone", "check_names", "collect", "config_settings", "is_adapter", "is_backbone", "is_beacon",
    "is_spread", "load", "load_beacons", "parts", "positions", "put", "save_beacons", "save_published", "settings",
    "size", "stored_settings",
]  # fmt: skip
