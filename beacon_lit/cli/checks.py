"""Refuse settings that do not fit together, before anything slow happens."""

import os

from beacon_lit import BeaconLM
from beacon_lit.arch import longest
from beacon_lit.arch.checkpoint.beacons import trains_backbone
from beacon_lit.objectives import Objective
from beacon_lit.tuning import Tuning


def check_started(processes: int, prefix: str = "") -> None:
    """Refuse more processes of torchrun or srun than `devices` times `num_nodes`.

    Each process would take itself for the only one and overwrite the files of the others. (Lightning refuses fewer.)

    Args:
        processes: the number of processes that Lightning expects.
        prefix: put before the names of the two settings, such as "trainer.".

    Raises:
        ValueError: more processes were started.
    """
    name = "WORLD_SIZE" if "TORCHELASTIC_RUN_ID" in os.environ else "SLURM_STEP_NUM_TASKS"
    started = int(os.environ.get(name, processes))
    if started > processes:
        raise ValueError(
            f"{prefix}devices x {prefix}num_nodes = {processes} is not allowed where {started} processes were started; "
            f"allowed: {started}"
        )


def check_start(init_from: str | None, tuning: Tuning) -> None:
    """Refuse to start from a trained backbone that `tuning` would not train, and so not save.

    Raises:
        ValueError: `init_from` has a trained backbone, and `tuning` trains none.
    """
    if init_from is not None and not tuning.trains_backbone and trains_backbone(init_from):
        raise ValueError(
            f"init_from={init_from} has a trained backbone; allowed: with tuning=full. Otherwise convert it to a "
            f"whole model, for model.path=FOLDER: beacon-convert {init_from} FOLDER --to full"
        )


def check_objective(objective: Objective, tuning: Tuning) -> None:
    """Refuse to train the backbone while the objective uses the same backbone as its fixed teacher.

    Raises:
        ValueError: a distillation objective, and a tuning that trains the backbone.
    """
    if tuning.trains_backbone and getattr(objective, "teacher", None) is not None:
        raise ValueError(
            f"objective={type(objective).__name__} is not allowed with tuning=full: its teacher would change with the "
            f"backbone; allowed: tuning=beacons, tuning=lora"
        )


def check_length(name: str, length: int, lm: BeaconLM) -> None:
    """Refuse texts that exceed the backbone's positions even at the largest ratio.

    Args:
        name: the setting that gives the length.
        length: tokens of the longest text.
        lm: the model, with its ratios and positions.

    Raises:
        ValueError: `length` is too large; the message gives the largest length.
    """
    limit = longest(lm.beacon, max(lm.beacon.ratios), lm.positions)
    if length > limit:
        raise ValueError(
            f"{name}={length} is not allowed; allowed: at most {limit} tokens, the longest that "
            f"{lm.positions} position slots hold at ratio {max(lm.beacon.ratios)}"
        )
