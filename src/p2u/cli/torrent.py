"""``p2u torrent``: a torrent of a package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from p2u.cli.options import Json, Quiet

if TYPE_CHECKING:
    from p2u.replication.torrent import TorrentResult

#: Shown below the options of ``--help``.
EXAMPLES = (
    "Examples:\n\n  p2u torrent ./model.p2u --web-seed https://example.org/model.p2u\n\n"
    "  p2u torrent ./model.p2u --tracker https://tracker.example.org/announce\n\n"
    "  p2u torrent ./model.p2u --v1   # for aria2"
)


def torrent(
    package: Annotated[Path, typer.Argument(help="A package on this machine.")],
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="The torrent.", show_default="PACKAGE.torrent"),
    ] = None,
    web_seed: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="URL", help="The package on a web server; may be given repeatedly."),
    ] = None,
    tracker: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="URL", help="A tracker; may be given repeatedly."),
    ] = None,
    v1: Annotated[
        bool,
        typer.Option("--v1", help="Version 1 only, for clients that cannot read hybrid torrents."),
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a torrent of a package, for any client of BitTorrent."""
    from p2u.cli import show
    from p2u.replication.torrent import torrent as make

    with show.phases(quiet or as_json) as progress:
        result = make(
            package, out, web_seed=web_seed or (), tracker=tracker or (), v1=v1, progress=progress
        )
    if as_json:
        from dataclasses import asdict

        show.as_json(**asdict(result))
    elif not quiet:
        _show(result)


def _show(result: TorrentResult) -> None:
    from p2u.cli.bars import human
    from p2u.cli.terminal import say

    say(f"{result.path}: {human(result.bytes)} in pieces of {human(result.piece)}")
    files = ",".join(map(str, result.base))
    say(f"base: files {files}, complete after {human(result.base_end)} where pieces come in order")
    say(result.magnet)
