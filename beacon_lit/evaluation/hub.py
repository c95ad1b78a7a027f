"""Fetches files of data sets from the Hugging Face hub."""

import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

HUB = "hub:"


def fetched(path: str) -> str:
    """Return the local path of a file on the hub, after fetching it if necessary.

    Args:
        path: `hub:OWNER/NAME/FILE`; or `hub:OWNER/NAME/ARCHIVE.zip/FILE` for a file in an archive, which is unpacked
            beside the archive. A `*` at the end is ignored: on the hub a file has one name. Any other path is returned
            unchanged.

    Raises:
        ValueError: an unknown data set or file, no network, or a malformed name.
    """
    if not path.startswith(HUB):
        return path
    owner, name, file = ([*path.removeprefix(HUB).rstrip("*").split("/", 2), "", ""])[:3]
    if not (owner and name and file):
        raise ValueError(
            f"path={path!r} is not allowed; allowed: {HUB}OWNER/NAME/FILE, a file of a data set on the hub"
        )
    archive, zipped, member = file.partition(".zip/")
    found = _download(path, f"{owner}/{name}", archive + ".zip" if zipped else file)
    return str(_unpacked(path, found, member) if zipped else found)


def _download(path: str, repo: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, file, repo_type="dataset"))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"path={path!r} cannot be fetched: {type(error).__name__}: {reason}") from error


def _unpacked(path: str, archive: Path, member: str) -> Path:
    target = archive.with_suffix(".unpacked") / member
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target.parent) as folder:  # other processes may unpack the file at the same time
            try:
                with zipfile.ZipFile(archive) as files:
                    Path(files.extract(member, folder)).replace(target)
            except (KeyError, zipfile.BadZipFile) as error:
                raise ValueError(f"path={path!r}: {archive.name} has no file {member}, or is damaged") from error
    return target
