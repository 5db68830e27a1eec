"""``p2u gc``: remove old versions from a package."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from p2u.cli.options import DryRun, Json, Quiet
from p2u.units import parse_seconds

#: Shown below the options of ``--help``.
EXAMPLES = (
    "Examples:\n\n  p2u gc ./model.p2u --keep 3 --dry-run\n\n"
    "  p2u gc ./model.p2u --keep 10 --anchors 2 --grace 1h"
)


def gc(
    package: Annotated[str, typer.Argument(help="Path or URL of a package.")],
    keep: Annotated[
        int, typer.Option(metavar="N", help="Number of newest versions to keep.", min=1)
    ] = 5,
    anchors: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            metavar="N", help="Number of older anchors to keep.", min=0, show_default="all"
        ),
    ] = None,
    grace: Annotated[
        str,
        typer.Option(
            metavar="TIME", help="Keep unneeded files for this long, for slow clients: 1h."
        ),
    ] = "0s",
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Remove old versions and their files; newcomers can still reach all others."""
    from p2u.cli import show
    from p2u.packing.api import gc as collect

    report = collect(
        package, keep=keep, anchors=anchors, grace=parse_seconds(grace), dry_run=dry_run
    )
    if as_json or dry_run or not quiet:
        show.collected(report, package, dry_run=dry_run, json=as_json)
