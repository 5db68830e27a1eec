"""``p2u verify``: check every byte of a package or of a pulled folder."""

from __future__ import annotations

from typing import Annotated

import typer

from p2u.cli.options import Jobs, Json, LimitRate, Quiet

#: Shown below the options of ``--help``.
EXAMPLES = "Examples:\n\n  p2u verify model.p2u\n\n  p2u verify ./MiniLM"


def verify(
    target: Annotated[str, typer.Argument(help="A package (path or URL), or a pulled directory.")],
    decode: Annotated[
        bool, typer.Option("--decode", help="Also decode every state of the package.")
    ] = False,
    jobs: Jobs = None,
    limit_rate: LimitRate = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check every byte of a package or of a pulled directory."""
    from p2u.cli import show
    from p2u.client.folder.verify import verify as verify_bytes

    with show.transfer(quiet or as_json) as view:
        result = verify_bytes(
            target, decode=decode, jobs=jobs, limit_rate=limit_rate, progress=view.progress
        )
    if as_json or not quiet:
        show.verified(result, target, json=as_json)
