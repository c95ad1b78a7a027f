"""Makes a corpus in a process of its own, whose end is not the tests' end, and which has no threads when it forks.

python -m tests.data.corpus.interrupted forks FOLDER     start over and over, kill at random moments, until it is done
python -m tests.data.corpus.interrupted workers FOLDER   with two workers, slowly
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from beacon_lit.data.corpus.prepare import prepare_corpus
from beacon_lit.tiny import byte_tokenizer
from tests.data.corpus.corpora import corpus
from tests.data.elsewhere import all_elsewhere


def killed_until_done(folder: Path) -> dict[str, int]:
    """How often it was killed, how often a shard was being written then, and the last exit status."""
    rng = random.Random(0)
    kills = in_the_works = 0
    while kills < 300:
        child = os.fork()
        if not child:
            prepare_corpus(corpus(), byte_tokenizer(), folder)
            os._exit(0)
        # Longer each time, so that a slow machine gets there too.
        deadline = time.monotonic() + rng.uniform(0.005, 0.06) * (1 + kills / 20)
        while time.monotonic() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return {"kills": kills, "in_the_works": in_the_works, "status": status}
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
        in_the_works += any((folder / "shards").glob(".*.tmp"))
    return {"kills": kills, "in_the_works": in_the_works, "status": -1}


if __name__ == "__main__":
    if sys.argv[1] == "forks":
        print(json.dumps(killed_until_done(Path(sys.argv[2]))))
    else:
        all_elsewhere(pytest.MonkeyPatch())
        prepare_corpus(corpus(), byte_tokenizer(), Path(sys.argv[2]), 2, lambda tokens: time.sleep(0.2))
