"""What all tests share: one thread, no network, marked tests where they can run, what a run starts from."""

import gc
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

gc.disable()  # until all tests are imported (collect_seldom), since what is imported stays
# Before torch and the hub's libraries are imported (hence the late imports): they read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")
for _library in ("HF_HUB", "TRANSFORMERS", "HF_DATASETS"):
    os.environ[f"{_library}_OFFLINE"] = "1"

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

from tests.quick import (  # noqa: E402
    collect_seldom,
    compose_once,
    figures_drawn,
    leave_figures_blank,
    parse_once,
    share_among_runs,
)

torch.set_num_threads(1)  # tiny models gain nothing from more, and pytest-xdist has a process on every core
# The same examples in every run, and no time limit: the first example pays for compilation and imports.
for _profile, _count in {"quick": 20, "thorough": 100}.items():  # pytest --hypothesis-profile=thorough
    hypothesis.settings.register_profile(_profile, max_examples=_count, deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("quick")
parse_once()
compose_once()
leave_figures_blank()


@pytest.fixture(scope="module")
def drawn_figures() -> Iterator[None]:
    """Draw figures in a module, which asks for this with `pytestmark`; elsewhere they are blank."""
    with figures_drawn():
        yield


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small backbone, and text to train on."""
    from tests.configs import small_backbone, small_text

    folder = tmp_path_factory.mktemp("inputs")
    return small_backbone(folder / "backbone"), small_text(folder / "text.jsonl")


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as pip installs it from a wheel, in a folder of its own: beacon_lit, and the commands in bin."""
    from tests.configs import ROOT

    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("beacon_lit", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    offline = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--no-compile"]
    subprocess.run([sys.executable, "-m", "pip", "install", *offline, "--target", target, source], check=True)
    return target


@pytest.fixture(scope="session", autouse=True)
def checkout_is_left_as_it_is() -> Iterator[None]:
    """No command that a test starts leaves the folder of a run in the checkout, not even one with nothing but a log."""
    outputs = Path(__file__).parents[1] / "outputs"
    before = {*outputs.glob("*/*")}
    yield
    left = [folder for folder in {*outputs.glob("*/*")} - before if not (folder / "run.json").exists()]
    assert not left, "start the command in a folder of the test's own (cwd=tmp_path)"


def pytest_collection_finish() -> None:
    """Share what runs have in common, and collect garbage less often, once all tests are imported."""
    share_among_runs()
    collect_seldom()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip `gpu`, `peers` and `vllm` tests where CUDA, kvpress or vLLM is missing; no other test may skip itself."""
    missing = {}
    if not torch.cuda.is_available():
        missing["gpu"] = "needs a CUDA device"
    if not Path(__file__).parents[1].joinpath(".venv-peers", ".ready").is_file():
        missing["peers"] = "needs kvpress in .venv-peers: make peers"
    if importlib.util.find_spec("vllm") is None:
        missing["vllm"] = "needs vLLM in .venv-vllm: make vllm-test"
    for item in items:
        for name, reason in missing.items():
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=reason))
