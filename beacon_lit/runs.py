"""Run folders: where their beacons are, which one is the latest; and a terminal without other people's chatter."""

import logging
import os
import warnings
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from beacon_lit.arch.checkpoint import SETTINGS_FILE


def find_beacons(path: str | Path) -> Path:
    """What `BeaconLM.from_pretrained` reads: a run folder stands for the `beacons` folder in it.

    Raises:
        ValueError: a run folder without beacons in it.
    """
    path = Path(path)
    if (path / "beacons" / SETTINGS_FILE).is_file():
        return path / "beacons"
    if (path / "config.yaml").is_file():
        raise ValueError(f"{path} is the folder of a run that has not finished: no beacons/{SETTINGS_FILE} in it")
    return path


def link_latest(folder: Path) -> None:
    """Point `latest`, beside the dated folders of runs (outputs/DATE/TIME), to `folder`."""
    root = folder.parent.parent
    link = root / "latest"
    if folder.parent == folder.parent.parent or (link.exists() and not link.is_symlink()):
        return
    temporary = root / f".latest-{os.getpid()}"
    temporary.symlink_to(os.path.relpath(folder, root))
    temporary.replace(link)


def quiet() -> None:
    """Silence notices that tell a user of this project nothing."""
    disable_progress_bar()
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*tensorboardX.*",
        ".*LeafSpec.*",
        ".*Checkpoint directory .* exists.*",
        ".*lr_scheduler.step.*",
        ".*overridden `transfer_batch_to_device` in `LightningModule`.*",
    ):
        warnings.filterwarnings("ignore", message=message)
