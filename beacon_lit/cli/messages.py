"""What a command prints on the terminal: no notices of libraries, and a user's mistake in one line."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import InstantiationException
from omegaconf.errors import OmegaConfBaseException
from transformers.utils.logging import disable_progress_bar

from beacon_lit.errors import sentence


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
