"""Datasets by name: a folder, or, where there is none of that name, a dataset of the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from pizero.data.lerobot import LeRobotDataset

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w.-]+)?")
"""`owner/name`, perhaps with a revision: `owner/name@v2.1`."""


def open_dataset(name: str | Path) -> LeRobotDataset:
    """Open the dataset in a folder, or download it if the name is a repository's: see `find_dataset`."""
    return LeRobotDataset.open(find_dataset(name))


def find_dataset(name: str | Path) -> Path:
    """Return the folder of a dataset; only `owner/name`, where there is neither, reaches out to the hub.

    Where there is a folder `owner`, the name is a slip of the pen and no repository. Without a revision the
    newest state is taken. Downloads go on where they stopped, and lie in the hub's own cache.
    ModuleNotFoundError names the extra that downloads; ValueError if the hub cannot give the dataset.
    """
    folder = Path(name)
    if folder.exists() or folder.parent.is_dir() or not REPOSITORY.fullmatch(folder.as_posix()):
        return folder
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f'there is no folder {folder}; to look for such a dataset on the hub, pip install "pizero[hub]"'
        ) from None
    repository, _, revision = folder.as_posix().partition("@")
    try:
        return Path(snapshot_download(repository, repo_type="dataset", revision=revision or None))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise ValueError(
            f"there is no folder {folder}, and the hub did not give a dataset {repository!r} ({reason}); "
            f"look at its name, at the network, or log in with `hf auth login`"
        ) from None
