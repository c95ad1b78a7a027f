"""Write the folder of a release, and upload it to the Hugging Face hub."""

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from beacon_lit.arch.checkpoint.beacons import read_settings
from beacon_lit.arch.checkpoint.files import SETTINGS_FILE
from beacon_lit.files import new_folder, write_text
from beacon_lit.release.card import model_card
from beacon_lit.release.runs import Run, evaluations_of
from beacon_lit.runs import find_beacons

CARD = "README.md"


def release(
    run: str | Path,
    target: str | Path,
    *,
    license: str,
    backbone: str | None = None,
    name: str | None = None,
    evaluations: Sequence[str | Path] = (),
    notes: str = "",
) -> Path:
    """Write beacons, settings, tokenizer and a model card to one folder, which `BeaconLM.from_pretrained` loads.

    Args:
        run: the folder of a finished training run.
        target: a folder that does not exist yet, or is empty.
        license: identifier of the backbone's licence on the hub, such as "apache-2.0"; the beacons' licence, too.
        backbone: the backbone's name on the hub, OWNER/NAME; default: the one that the run was given as `model.path`.
        name: name of the repository on the hub, OWNER/NAME, for the card's examples; default: the name of `target`.
        evaluations: folders that evaluate.py has written for this run; their scores go into the card.
        notes: a text for the card in Markdown, such as what the data was chosen for.

    Returns:
        The folder.

    Raises:
        ValueError: the run is not finished, an evaluation is of another model, the backbone has no name on the hub, or
            `target` has files in it.
    """
    run, target = Path(run).resolve(), Path(target)
    if name is not None:
        _check_name("name", name)
    trained, scored = Run.read(run), evaluations_of(run, [Path(folder) for folder in evaluations])
    beacons = find_beacons(run)
    saved = read_settings(beacons)
    saved["backbone"]["name"] = backbone or saved["backbone"]["name"]
    _check_name("backbone", saved["backbone"]["name"])
    card = model_card(name or target.name, trained, scored, saved, license, notes)
    with new_folder("target", target) as folder:
        shutil.copytree(beacons, folder, dirs_exist_ok=True)
        write_text(folder / SETTINGS_FILE, json.dumps(saved, indent=2) + "\n")
        write_text(folder / CARD, str(card))
    return target


def upload(folder: str | Path, name: str, *, private: bool = False) -> str:
    """Upload a release to the hub, and return its address.

    Args:
        folder: what `release` has written.
        name: OWNER/NAME; created if necessary.
        private: whether a new repository is private.

    Raises:
        ValueError: no such folder, or the hub cannot be reached or does not allow it.
    """
    _check_name("name", name)
    if not (Path(folder) / CARD).is_file():
        raise ValueError(f"folder={folder} has no {CARD}; allowed: a folder that beacon-release has written")
    try:
        api = HfApi()
        api.create_repo(name, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload beacons"))
    except (HfHubHTTPError, OSError) as error:
        raise ValueError(
            f"upload to {name!r} failed: {str(error).splitlines()[0]}; allowed: with a network, and a token that may "
            f"write (hf auth login). The folder stays: {folder}"
        ) from error


def _check_name(setting: str, name: str) -> None:
    with suppress(HFValidationError):
        validate_repo_id(name)
        if name.count("/") == 1:
            return
    raise ValueError(f"{setting}={name!r} is not allowed; allowed: OWNER/NAME, as on the hub")
