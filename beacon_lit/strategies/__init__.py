"""How training is spread over GPUs: what Lightning's strategies lack to train beacons on a frozen, sharded backbone."""
