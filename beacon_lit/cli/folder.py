"""Give every run and every sweep a folder of its own: a callback for Hydra."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from torch.distributed import TCPStore

from beacon_lit.record import LOCK_FILE, RECORD_FILE, is_first

_CLAIMED = "hydra.callbacks.folder.claimed"  # of the config of a run, while it runs
_BEGINNING = (".hydra", LOCK_FILE, RECORD_FILE, "config.yaml")
PATIENCE = timedelta(minutes=5)  # that ranks wait for rank zero


class FolderCallback(Callback):
    """Claim a folder before Hydra writes anything, and set `hydra.run.dir` or `hydra.sweep.dir` to this folder.

    A folder whose name contains the time is created, with a number behind its name if another run has it already. The
    ranks of torchrun share the folder of rank zero, and the tasks of srun a folder named after the job. A folder that
    the user names is used as given.

    Args:
        again: settings that may name the folder of an earlier run; the first that is not null is used again.
    """

    def __init__(self, again: Sequence[str | None] = ()) -> None:
        self.again = next((folder for folder in again if folder is not None), None)

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Claim the folder of a run."""
        self._set(config, "run")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Claim the folder of a sweep."""
        self._set(config, "sweep")

    def _set(self, config: DictConfig, mode: str) -> None:
        setting = f"hydra.{mode}.dir"
        folder, claimed = Path(config.hydra[mode].dir), False
        if mode == "run" and self.again is not None:
            folder = Path(self.again)
        elif _by_time(config.hydra[mode]):
            try:
                folder, claimed = own_folder(folder, os.environ), True
            except (OSError, ValueError) as error:  # Hydra would turn the error into a warning
                raise SystemExit(f"error: {setting}={folder}: {error}; allowed: a folder to write to") from None
        with read_write(config), open_dict(config):
            config.hydra[mode].dir = str(folder)
            if mode == "run" and claimed:
                OmegaConf.update(config, _CLAIMED, True, force_add=True)
            if mode == "sweep":  # whose jobs compose their config again, with these overrides
                quoted = QuotedString(str(folder), Quote.single).with_quotes()
                config.hydra.overrides.hydra.append(f"{setting}={quoted}")


@contextmanager
def removed_if_refused() -> Iterator[None]:
    """Remove the claimed folder of the current job if the block refuses a setting before it wrote any result."""
    try:
        yield
    except SystemExit as end:
        config: Any = HydraConfig.instance().cfg
        claimed = config is not None and OmegaConf.select(config, _CLAIMED, default=False)
        if isinstance(end.code, str) and claimed and is_first(os.environ):
            remove_unused(Path(HydraConfig.get().runtime.output_dir))
        raise


def remove_unused(folder: Path) -> None:
    """Remove a folder, and those around it that are empty then, if it holds nothing but what every run begins with."""
    files = [file.relative_to(folder) for file in folder.rglob("*") if not file.is_dir()]
    if all(file.parts[0] in _BEGINNING or file.suffix == ".log" for file in files):
        shutil.rmtree(folder)
        with suppress(OSError):  # not empty
            for parent in folder.parents:
                if parent == Path.cwd():
                    break
                parent.rmdir()


def own_folder(folder: Path, environment: Mapping[str, str]) -> Path:
    """Return the folder that this process shares with the other ranks of its run, and with no other run.

    Args:
        folder: the wanted folder, whose name contains the time.
        environment: environment variables, which tell who started the process.

    Raises:
        OSError: the folder cannot be created.
        ValueError: the ranks have no way to agree on a folder.
    """
    first = is_first(environment)
    if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
        own = folder.parents[1] / "slurm" / ".".join(environment[name] for name in names if name in environment)
        own.mkdir(parents=True, exist_ok=True)
        return own
    if "TORCHELASTIC_RUN_ID" not in environment:
        return claim(folder) if first else folder
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        raise ValueError("the ranks of this torchrun cannot agree on a folder; give it a name")
    store = TCPStore(environment["MASTER_ADDR"], int(environment["MASTER_PORT"]), is_master=False, timeout=PATIENCE)
    key = f"beacon_lit/folder/{environment['TORCHELASTIC_RESTART_COUNT']}"
    if first:
        store.set(key, str(claim(folder)))
    return Path(store.get(key).decode())


def claim(folder: Path) -> Path:
    """Create `folder`, or else `folder-2`, `folder-3`, ...: the first that no other process has created."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    path, number = folder, 1
    while True:
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
            path = folder.with_name(f"{folder.name}-{number}")
        else:
            return path


def _by_time(node: DictConfig) -> bool:
    """Whether the name of a folder contains the time."""
    unresolved: Any = OmegaConf.to_container(node, resolve=False)
    return "${now:" in str(unresolved["dir"])
