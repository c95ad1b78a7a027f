"""Read and write beacon models: sources of weights, checks that weights and model fit, and layouts on disk."""

from beacon_lit.arch.checkpoint import adapter
from beacon_lit.arch.checkpoint.backbone import family
from beacon_lit.arch.checkpoint.beacons import load_beacons, save_beacons, save_beacons_alone, settings
from beacon_lit.arch.checkpoint.files import SETTINGS_FILE, TRAINING_SUFFIX, WEIGHTS_FILE, PathError
from beacon_lit.arch.checkpoint.fingerprint import check_backbone
from beacon_lit.arch.checkpoint.loading import from_config, load
from beacon_lit.arch.checkpoint.paths import holds_beacons_alone
from beacon_lit.arch.checkpoint.plain import save_backbone
from beacon_lit.arch.checkpoint.published import save_published
from beacon_lit.arch.checkpoint.self_check import check_listed
from beacon_lit.arch.checkpoint.sharded import collect, collect_whole, is_spread, put, size
from beacon_lit.arch.checkpoint.source import config_settings, stored_settings
from beacon_lit.arch.checkpoint.streaming import Sharder, parts
from beacon_lit.arch.checkpoint.tokenizers import copy_tokenizer, load_tokenizer
from beacon_lit.arch.nn.names import check_names, is_adapter, is_backbone, is_beacon

__all__ = [
    "SETTINGS_FILE", "TRAINING_SUFFIX", "WEIGHTS_FILE", "PathError", "Sharder", "adapter", "check_backbone",
    "check_listed", "check_names", "collect", "collect_whole", "config_settings", "copy_tokenizer", "family",
    "from_config", "holds_beacons_alone", "is_adapter", "is_backbone",
    "is_beacon", "is_spread", "load", "load_beacons", "load_tokenizer", "parts", "put", "save_backbone",
    "save_beacons", "save_beacons_alone", "save_published", "settings", "size", "stored_settings",
]  # fmt: skip
