"""A conversation with a beacon model, held in a cache: read once, asked as often as you like."""

from beacon_lit.chat.chat import BeaconChat

__all__ = ["BeaconChat"]
