"""Spread training over GPUs: Lightning's strategies, extended to train beacons on a frozen, sharded backbone."""
