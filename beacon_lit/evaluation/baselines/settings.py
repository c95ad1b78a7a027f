"""The settings of baselines: which methods of kvpress, how much they keep, and where kvpress is installed."""

import logging
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from beacon_lit.checks import as_tuple, is_count
from beacon_lit.evaluation.baselines.baseline import BUDGETS, NOMINAL, SLOTS, Baseline
from beacon_lit.evaluation.baselines.kvpress_server import METHODS
from beacon_lit.evaluation.baselines.peer import Peer
from beacon_lit.evaluation.checks import check_distinct, check_names
from beacon_lit.evaluation.modes import Mode, split_baseline
from beacon_lit.evaluation.task import Results

log = logging.getLogger(__name__)

PYTHON = ".venv-peers/bin/python"  # which `make peers` installs
_VERSION = "from importlib.metadata import version; print(version('kvpress'))"


@dataclass(frozen=True)
class Kvpress:
    """How methods of kvpress are run as baselines.

    Args:
        methods: names of `kvpress_server.METHODS`.
        python: the interpreter of an environment with kvpress, a path or a command.
        budget: "slots" or "nominal", see `Baseline`, or both in a list.
        tail: last tokens of a prompt that are not compressed, at least 1. They should hold the question.

    Raises:
        ValueError: a setting is wrong; the message names it and says what is allowed.
    """

    methods: Sequence[str] = ()
    python: str = PYTHON
    budget: str | Sequence[str] = SLOTS
    tail: int = 100

    def __post_init__(self) -> None:
        if not self.python or not isinstance(self.python, str):
            raise ValueError(f"kvpress.python={self.python} is not allowed; allowed: the path of a Python")
        check_names(tuple(METHODS), baselines=self.methods)
        if self.methods:
            check_distinct(baselines=self.methods)
        budgets = as_tuple(self.budget)
        if not budgets or len(set(budgets)) < len(budgets) or not set(budgets) <= set(BUDGETS):
            raise ValueError(f"kvpress.budget={self.budget} is not allowed; allowed: {SLOTS}, {NOMINAL}, or both")
        if not is_count(self.tail, 1):
            raise ValueError(f"kvpress.tail={self.tail} is not allowed; allowed: an integer of at least 1")

    def version(self) -> str | None:
        """Return the version of kvpress, None if there is no method to run or no kvpress; log the latter."""
        if not self.methods:
            return None
        if shutil.which(self.python) is not None:
            done = subprocess.run([self.python, "-c", _VERSION], capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return done.stdout.strip()
        log.warning(self._missing)
        return None

    @property
    def _missing(self) -> str:
        names = ", ".join(self.methods)
        return f"left out: {names}, since kvpress.python={self.python} has no kvpress; `make peers` installs {PYTHON}"

    def baselines(self, modes: Sequence[Mode], peer: Peer) -> tuple[Baseline, ...]:
        """Return a baseline for each method, budget and mode that uses beacons, with the memory of this mode.

        Raises:
            ValueError: there is no such mode, or the backbone caps scores, which `kvpress_server.attend` does not.
        """
        cap = getattr(peer.subject.lm.config, "attn_logit_softcapping", None)
        if self.methods and cap is not None:
            raise ValueError(
                f"baselines={list(self.methods)} is not allowed with this backbone: attention to kept keys does not "
                f"cap scores, as attn_logit_softcapping={cap} asks for; allowed: baselines=[]"
            )
        memories = [mode for mode in modes if mode.uses_beacons]
        if self.methods and not memories:
            raise ValueError(f"baselines={list(self.methods)} is not allowed with ratio=[]; allowed: with a ratio")
        runs = product(self.methods, memories, as_tuple(self.budget))
        return tuple(Baseline(method, memory, budget, self.tail, peer) for method, memory, budget in runs)

    def notes(self, version: str | None, results: Results) -> list[str]:
        """Write what readers of results must know: where baselines come from, and which are left out and why."""
        if version is None:
            return [self._missing] if self.methods else []
        without = [task for task, scores in results.items() if not any(map(split_baseline, scores))]
        left_out = [f"left out: baselines in {', '.join(without)}, since they answer single prompts only"]
        unseen = f"the last {self.tail} tokens of a prompt are not compressed, or its question where a task knows it"
        used = f"baselines: kvpress {version}; {unseen}"
        return [used, *left_out] if without else [used]
