"""What a command prints on the terminal: no notices of libraries, and a user's mistake in one line."""

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.errors import InstantiationException
from omegaconf.errors import OmegaConfBaseException
from transformers.utils.logging import disable_progress_bar

import beacon_lit
from beacon_lit.errors import own_error, sentence


def quiet() -> None:
    """Silence notices of libraries that do not help a user of this project."""
    disable_progress_bar()
    lightnings = ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda")
    for name in (*lightnings, "httpx", "compilers.C.base"):  # the last: DeepSpeed tries the C compiler
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*tensorboardX.*",
        ".*LeafSpec.*",
        ".*Checkpoint directory .* exists.*",
        ".*lr_scheduler.step.*",
        ".*overridden `transfer_batch_to_device` in `LightningModule`.*",
        ".*FSDP2-wrapped module .* returned a view tensor.*",  # losses and logits are never written in place
        ".*`torch.distributed.* is deprecated.*",  # by DeepSpeed
    ):
        warnings.filterwarnings("ignore", message=message)


@contextmanager
def short_errors() -> Iterator[None]:
    """End the program with one line, `error: ...`, where a setting is wrong, instead of a traceback."""
    try:
        yield
    except (ValueError, InstantiationException, OmegaConfBaseException) as error:
        sys.exit(f"error: {sentence(error)}")


@contextmanager
def own_messages() -> Iterator[None]:
    """End the program with one line, `error: ...`, where this project or a constructor refuses a setting.

    Other errors keep their traceback: training is long, and a library's error in the middle of training is rarely due
    to a setting. HYDRA_FULL_ERROR=1 keeps the traceback of every error.
    """
    try:
        yield
    except Exception as error:
        if full_errors() or not _refuses_setting(error):
            raise
        sys.exit(f"error: {sentence(error)}")


def full_errors() -> bool:
    """Whether the user asks for tracebacks, by Hydra's own environment variable."""
    return os.environ.get("HYDRA_FULL_ERROR") == "1"


def _refuses_setting(error: Exception) -> bool:
    own = own_error(error)
    lightning = sys.modules.get("lightning.fabric.utilities.exceptions")  # not imported: most commands do without
    if lightning is not None and isinstance(own, lightning.MisconfigurationException):
        return True
    if isinstance(own, (OmegaConfBaseException, InstantiationException)):
        return True
    if isinstance(error, InstantiationException):
        return isinstance(own, (ValueError, TypeError))
    raised_in = Path(traceback.extract_tb(own.__traceback__)[-1].filename)
    return isinstance(own, ValueError) and raised_in.is_relative_to(Path(beacon_lit.__file__).parent)
