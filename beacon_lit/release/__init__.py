"""Make a folder of trained beacons that others can load by name: beacons, tokenizer, and a model card with scores."""

from beacon_lit.release.folder import release, upload

__all__ = ["release", "upload"]
