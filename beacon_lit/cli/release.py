"""Write a folder of trained beacons with a model card, and upload it to the Hugging Face hub.

    beacon-release RUN FOLDER --license apache-2.0
    beacon-release RUN FOLDER --license apache-2.0 --evaluation outputs/evaluate/DATE/TIME --upload OWNER/NAME

RUN is the folder of a finished training run; FOLDER gets its beacons, settings, tokenizer, and a README.md with the
data, the recipe, the scores of the evaluations with their commands, and the limits. `BeaconLM.from_pretrained` loads
FOLDER, and OWNER/NAME after the upload.
"""

import argparse
from pathlib import Path

from beacon_lit.release import release, upload


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="beacon-release", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", help="folder of a finished training run")
    parser.add_argument("target", metavar="FOLDER", help="new folder")
    parser.add_argument("--license", required=True, help="identifier of the backbone's licence on the hub")
    parser.add_argument(
        "--backbone", metavar="OWNER/NAME", help="the backbone on the hub, if RUN loaded it from a folder"
    )
    parser.add_argument(
        "--evaluation", action="append", default=[], metavar="FOLDER", help="an evaluation of RUN; may be repeated"
    )
    parser.add_argument("--notes", metavar="FILE", help="a Markdown file whose text goes into the model card")
    parser.add_argument("--upload", metavar="OWNER/NAME", help="upload FOLDER to this repository of the hub")
    parser.add_argument("--private", action="store_true", help="with --upload: make a new repository private")
    given = parser.parse_args()
    if given.private and not given.upload:
        parser.error("--private needs --upload")
    try:
        notes = Path(given.notes).read_text(encoding="utf-8") if given.notes else ""
        written = release(
            given.run,
            given.target,
            license=given.license,
            backbone=given.backbone,
            name=given.upload,
            evaluations=given.evaluation,
            notes=notes,
        )
        print(f"written: {written}")
        if given.upload:
            print(f"uploaded: {upload(given.target, given.upload, private=given.private)}")
    except (OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
