"""Write a beacon model in another layout.

    beacon-convert SOURCE TARGET --to beacons      the beacons alone, with their backbone's name
    beacon-convert SOURCE TARGET --to full         beacons and backbone, a Hugging Face folder of ours
    beacon-convert SOURCE TARGET --to published    the layout of the checkpoints published with the paper

The published layout has no field for `eval_ratio` and `unfinished`, which only say how text is read by default: they
are left out. Settings that the model was trained with are refused where a layout lacks them.

SOURCE is whatever `BeaconLM.from_pretrained` reads beacons from. Every tensor keeps its dtype and its bits. A LoRA
adapter is the exception: `beacons` keeps the adapter beside the beacons, the other layouts merge the adapter into the
backbone's weights.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from beacon_lit.arch.checkpoint import adapter, save_published, stored_settings
from beacon_lit.arch.checkpoint.beacons import trains_backbone
from beacon_lit.arch.config import BeaconConfig
from beacon_lit.arch.model import BeaconLM
from beacon_lit.files import check_new, new_folder
from beacon_lit.tokenizer_state import trained_tokenizer

_LEFT_OUT = ("eval_ratio", "unfinished")  # of the published layout; no weight depends on them
LAYOUTS = ("published", "beacons", "full")


def convert(
    source: str | Path, target: str | Path, to: str, *, backbone: str | None = None, plain_type: bool = False
) -> BeaconLM:
    """Read the model at `source` and write it to the folder `target`.

    Args:
        source: a folder or hub id with beacons in it, or a training checkpoint.
        target: a folder that does not exist yet, or is empty.
        to: "published", "beacons" or "full". The tokenizer that `source` was trained with is saved, too.
        backbone: the folder or hub id of the backbone, where a source of beacons alone names one that has moved.
        plain_type: write the `model_type` that the paper's code expects; with "published" only, see `save_published`.

    Returns:
        the model.

    Raises:
        ValueError: the source has no beacons, the target has files in it, the layout is unknown, the published layout
            cannot express the settings, or `to` is "beacons" and the source has a trained backbone.
    """
    source, target = str(source), Path(target)
    if to not in LAYOUTS:
        raise ValueError(f"to={to!r} is not allowed; allowed: {', '.join(LAYOUTS)}")
    if plain_type and to != "published":
        raise ValueError(f"plain_type=True is not allowed with to={to!r}; allowed: with to='published'")
    check_new("target", target)
    if to == "beacons" and trains_backbone(source):
        raise ValueError(f"to='beacons' is not allowed, {source} has a trained backbone, too; allowed: published, full")
    settings = stored_settings(source, backbone=backbone)
    if settings is None:
        raise ValueError(f"source={source!r} is not allowed, it is a plain backbone; allowed: a model with beacons")
    if to == "published":
        settings = _expressible(settings)
        settings.to_published()  # raises ValueError before weights are read
    lm = BeaconLM.from_pretrained(source, backbone=backbone, beacon_dtype="auto")
    lm.beacon = settings
    if to != "beacons" and adapter.settings(lm) is not None:
        lm.merge_adapter()
    with new_folder("target", target) as folder:
        try:  # before the model, which puts the backbone's tokenizer into a folder without one
            trained_tokenizer(source, backbone).save_pretrained(folder)
        except ValueError as error:
            print(f"{error}; no tokenizer was saved in {target}")
        if to == "published":
            save_published(lm, folder, plain_type=plain_type)
        else:
            lm.save_pretrained(folder, beacon_only=to == "beacons")
    return lm


def _expressible(settings: BeaconConfig) -> BeaconConfig:
    """Return the settings with the defaults of those that the published layout leaves out, and say which these are."""
    for name in _LEFT_OUT:
        value, default = getattr(settings, name), getattr(BeaconConfig, name)
        if value != default:
            print(f"{name}={value!r} is left out, since the published layout has no such field; read with {default!r}")
            settings = replace(settings, **{name: default})
    return settings


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="beacon-convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="SOURCE", help="folder, hub id or training checkpoint (.ckpt) with beacons")
    parser.add_argument("target", metavar="TARGET", help="new folder")
    parser.add_argument("--to", required=True, choices=LAYOUTS)
    parser.add_argument("--backbone", help="new place of the backbone that the beacons name, if it has moved")
    parser.add_argument(
        "--plain-type",
        action="store_true",
        help="with --to published: write the model_type that the paper's code reads",
    )
    arguments = parser.parse_args()
    try:
        lm = convert(**vars(arguments))
    except ValueError as error:
        parser.error(str(error))
    print(f"{arguments.target}: {type(lm).__name__}, {lm.beacon}")


if __name__ == "__main__":
    main()
