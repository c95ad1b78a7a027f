"""The methods of kvpress itself, in .venv-peers (make peers)."""

import json
import subprocess
from pathlib import Path

import pytest

from beacon_lit.evaluation.baselines import Kvpress
from beacon_lit.evaluation.baselines.kvpress_server import METHODS
from beacon_lit.evaluation.baselines.peer import SERVER
from tests.configs import ROOT
from tests.evaluation.baselines.test_baselines import SLOTS, of_mode, run

PYTHON = ROOT / ".venv-peers" / "bin" / "python"
pytestmark = pytest.mark.peers


def test_every_method_answers_as_in_its_own_pipeline():
    oracle = Path(__file__).with_name("kvpress_oracle.py")
    done = subprocess.run([PYTHON, oracle, SERVER], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert list(found) == list(METHODS)
    for method, rows in found.items():
        for ours, theirs, _, kept in rows:
            assert ours == theirs and len(ours.split()) > 4, method
            assert kept == pytest.approx(30 + 90, abs=0.5), method
        assert any(ours != dense for ours, _, dense, _ in rows), f"{method} compresses nothing"


def test_an_evaluation_with_kvpress(tmp_path):
    metrics = run(tmp_path, PYTHON, "baselines=[kvzip,compactor,knorm]", "task=[passkey]")
    assert Kvpress(["kvzip"], python=str(PYTHON)).version() == "0.5.5"
    dense = [record["prediction"] for record in of_mode(tmp_path, "dense")]
    for method in ("kvzip", "compactor", "knorm"):
        assert [record["prediction"] for record in of_mode(tmp_path, f"{method} 1")] == dense
        small = of_mode(tmp_path, f"{method} 8")
        assert [record["prediction"] for record in small] != dense
        assert {record["cache_bytes"] for record in small} == {(SLOTS + small[0]["tokens_out"]) * 256}
        assert f"passkey/{method}_8" in metrics
