"""``p2u mirror`` and ``p2u push``: copy a package from store to store."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p2u.cli.options import Json, Quiet

if TYPE_CHECKING:
    from p2u.replication.mirror import MirrorResult

#: Shown below the options of ``--help``.
EXAMPLES = (
    "Examples:\n\n  p2u mirror s3://bucket/model.p2u gs://other/model.p2u\n\n"
    "  p2u mirror https://example.org/model.p2u ./model.p2u"
)
PUSH_EXAMPLES = (
    "Examples:\n\n  p2u push ./model.p2u s3://bucket/model.p2u\n\n"
    "  p2u push ./model.p2u hf://org/model\n\n"
    "  p2u push ./model.p2u oci://registry.example.org/team/model:v1"
)

Replace = Annotated[
    bool, typer.Option("--replace", help="Replace a package that has versions the source lacks.")
]


def mirror(
    source: Annotated[str, typer.Argument(help="Path or URL of a package.")],
    target: Annotated[str, typer.Argument(help="Path or URL of the copy.")],
    replace: Replace = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Copy a package from any store to any other; run it again to resume or to update."""
    from p2u.replication.mirror import mirror as copy

    _run(partial(copy, source, target, replace=replace), target, as_json=as_json, quiet=quiet)


def push(
    package: Annotated[Path, typer.Argument(help="A package on this machine.")],
    target: Annotated[str, typer.Argument(help="URL to write it to: s3, gs, az, oci, hf.")],
    replace: Replace = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Upload a package to a bucket, a registry or the Hub; run it again to resume or to update."""
    from p2u.replication.mirror import push as upload

    _run(partial(upload, package, target, replace=replace), target, as_json=as_json, quiet=quiet)


def _run(copy: Callable[..., MirrorResult], target: str, *, as_json: bool, quiet: bool) -> None:
    """Copy with a bar, and print the result."""
    from p2u.cli import show

    with show.phases(quiet or as_json) as progress:
        result = copy(progress=progress)
    if as_json or not quiet:
        _show(result, target, json=as_json)


def _show(result: MirrorResult, target: str, *, json: bool) -> None:
    """Print what was copied."""
    from dataclasses import asdict

    from p2u.cli.bars import human
    from p2u.cli.show import as_json as print_json
    from p2u.cli.terminal import say

    if json:
        print_json(target=target, **asdict(result))
        return
    say(
        f"{target}: {result.copied} objects copied ({human(result.bytes)}), "
        f"{result.there} were there"
    )
    say(f"versions: {', '.join(result.versions[-8:])}")
