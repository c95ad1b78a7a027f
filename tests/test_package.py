"""What importing the package does."""

import logging

import beacon_lit


def test_deepspeed_is_silent_about_machines_without_a_gpu() -> None:
    logger = logging.getLogger("DeepSpeed")

    def shown(message: str) -> bool:
        return bool(logger.filter(logger.makeRecord(logger.name, logging.WARNING, "", 0, message, (), None)))

    assert beacon_lit.__doc__ and not shown("Setting accelerator to CPU. If you have GPU or other accelerator, ...")
    assert shown("the loss scale is too small")
