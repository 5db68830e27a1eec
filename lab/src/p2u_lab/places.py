"""The places of the evaluation's data, and of what it has made."""

from __future__ import annotations

import os
from pathlib import Path

from p2u_lab.base import MissingDataError

#: The folder with data sets and given weights.
DATA_VARIABLE = "P2U_EVAL_DATA"
#: The folder for trained weights, packages and finished cells.
CACHE_VARIABLE = "P2U_EVAL_CACHE"


def data_dir() -> Path:
    """The folder with the data sets: ``P2U_EVAL_DATA``, which ``--data-dir`` sets.

    Raises:
        MissingDataError: The variable is not set, or there is no such folder.
    """
    named = os.environ.get(DATA_VARIABLE)
    if not named:
        raise MissingDataError(
            "nothing says where the evaluation's data are",
            hint=f"pass --data-dir, or set {DATA_VARIABLE} to the folder; see docs/evaluation.md",
        )
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise MissingDataError(
            f"{DATA_VARIABLE} names {folder}, which is not a folder",
            hint="make it and put the data sets there; see docs/evaluation.md",
        )
    return folder


def data_path(name: str, source: str) -> Path:
    """A file or folder of the data folder.

    Args:
        name: Relative to the data folder: ``"pneumoniamnist.npz"``.
        source: Where to get it, for the error: ``"https://..., CC BY 4.0"``.

    Raises:
        MissingDataError: It is not there, or no data folder is known.
    """
    try:
        path = data_dir() / name
    except MissingDataError as error:
        raise MissingDataError(
            f"{name} is needed, and {error.message}", hint=f"{error.hint}; get it from {source}"
        ) from error
    if not path.exists():
        raise MissingDataError(
            f"{path} is missing", hint=f"get it from {source} and put it at {path}"
        )
    return path


def cache_dir(*parts: str) -> Path:
    """The folder for what the evaluation makes, or a folder in it; made if it is not there.

    ``P2U_EVAL_CACHE`` if set, else ``p2u-eval`` in the user's cache folder (``XDG_CACHE_HOME``,
    ``LOCALAPPDATA``, or ``~/.cache``).
    """
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        root = Path(named).expanduser()
    else:
        user = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
        root = (Path(user) if user else Path.home() / ".cache") / "p2u-eval"
    folder = root.joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
