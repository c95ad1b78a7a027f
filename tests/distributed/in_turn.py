"""Runs of train.py one after the other on the same processes, since starting these takes longest.

torchrun(2, *OVERRIDES, THEN, *OVERRIDES, script=SCRIPT): the last three, where all of them run, are torchrun's own.
"""

import sys
from itertools import groupby

from beacon_lit.cli.messages import quiet
from beacon_lit.cli.train import train
from tests.configs import composed

SCRIPT, THEN = "tests/distributed/in_turn.py", "then"

if __name__ == "__main__":
    quiet()
    given, of_all = sys.argv[1:-3], sys.argv[-3:]
    for between, overrides in groupby(given, THEN.__eq__):
        if not between:
            train(composed("train", *overrides, *of_all))
