"""``p2u clean``: remove what pulls that were given up have left."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from p2u.cli.options import DryRun, Json, Quiet

#: Shown below the options of ``--help``.
EXAMPLES = (
    "Examples:\n\n  p2u clean ./model      # of this directory\n\n"
    "  p2u clean . --dry-run  # list those of all directories here"
)

_FATES = {
    "removed": "removed",
    "abandoned": "would remove",
    "busy": "in use",
    "needed": "needed: pull again to finish the refinement in place of",
}


def clean(
    folder: Annotated[
        Path, typer.Argument(help="A model directory that was pulled, or a directory of such.")
    ],
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Remove the work folders of pulls that were given up; models stay as they are."""
    from p2u.cli import show
    from p2u.cli.bars import human
    from p2u.cli.terminal import say
    from p2u.client.folder.clean import clean as remove

    found = remove(folder, dry_run=dry_run)
    if as_json:
        show.as_json(directory=str(folder), dry_run=dry_run, leftovers=[asdict(f) for f in found])
    elif dry_run or not quiet:
        for left in found:
            place = left.target if left.fate == "needed" else left.path
            say(f"{_FATES[left.fate]} {place}: {human(left.bytes)}, {left.age / 3600:.1f} h old")
        if not found:
            say(f"{folder}: nothing was left there")
