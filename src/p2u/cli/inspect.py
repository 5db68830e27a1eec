"""``p2u inspect``: show the states and tensors of a package."""

from __future__ import annotations

from typing import Annotated

import typer

#: Shown below the options of ``--help``.
EXAMPLES = (
    "Examples:\n\n  p2u inspect model.p2u --tensors\n\n"
    "  p2u inspect https://example.org/model.p2u --json"
)


def inspect(
    package: Annotated[str, typer.Argument(help="Path or URL of a package.")],
    tensors: Annotated[bool, typer.Option("--tensors", help="Also list the tensors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the contents of a package: states, sizes, quality, tensors."""
    from p2u.cli import show

    show.inspect(package, tensors=tensors, as_json=as_json)
