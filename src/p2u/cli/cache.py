"""``p2u cache``: list, prune and verify what is kept of packages on other machines."""

from __future__ import annotations

import time
from typing import Annotated, Optional

import typer

from p2u.cli.bars import human
from p2u.cli.options import Json
from p2u.cli.terminal import say, warn
from p2u.units import parse_seconds, parse_size

#: Shown below the options of ``--help``.
EXAMPLES = {
    "ls": "Examples:\n\n  p2u cache ls\n\n  P2U_HOME=/mnt/shared p2u cache ls --json",
    "prune": (
        "Examples:\n\n  p2u cache prune                    # to the limit, P2U_CACHE_SIZE\n\n"
        "  p2u cache prune --size 5GB\n\n  p2u cache prune --older-than 30d\n\n"
        "  p2u cache prune --all"
    ),
    "verify": "Examples:\n\n  p2u cache verify",
}

app = typer.Typer(no_args_is_help=True, help="Manage what is kept of packages on other machines.")


@app.command("ls", epilog=EXAMPLES["ls"])
def list_cache(as_json: Json = False) -> None:
    """List the packages of which something is kept, and the states that need no network."""
    from p2u.cache.cache import Cache
    from p2u.cli import show
    from p2u.cli.table import print_table
    from p2u.client.transfer.cached_packages import cached_packages

    cache = Cache()
    found = list(cached_packages(cache))
    total = sum(file.size for file in cache.objects.files())
    if as_json:
        rows = [
            {"url": p.manifest.url, "name": p.name, "bytes": p.size, "states": p.states}
            | {"read": p.manifest.read}
            for p in found
        ]
        folder, limit = str(cache.folder), cache.objects.limit
        show.as_json(folder=folder, bytes=total, limit=limit, packages=rows)
        return
    if found:
        rows_shown = [
            (p.manifest.url, p.states[-1] if p.states else "", human(p.size), _ago(p.manifest.read))
            for p in found
        ]
        print_table(("package", "complete up to", "bytes here", "read"), rows_shown)
    say(f"{cache.folder}: {human(total)} of at most {human(cache.objects.limit)}")


def _ago(then: float) -> str:
    seconds = max(0.0, time.time() - then)
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return "just now"


@app.command(epilog=EXAMPLES["prune"])
def prune(
    size: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="SIZE", help="Keep at most this much: 5GB."),
    ] = None,
    older_than: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="TIME", help="Remove what was not used for this long: 30d."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove all of it.")] = False,
    as_json: Json = False,
) -> None:
    """Remove what was used least recently; whoever needs it again fetches it."""
    from p2u.cache.cache import Cache
    from p2u.cli import show

    cache = Cache()
    limit = 0 if everything else None if size is None else parse_size(size)
    before = None if older_than is None else time.time() - parse_seconds(older_than)
    count, freed = cache.prune(limit=limit, before=before)
    if as_json:
        show.as_json(folder=str(cache.folder), files=count, bytes=freed)
    else:
        say(f"{cache.folder}: removed {count} files, {human(freed)}")


@app.command(epilog=EXAMPLES["verify"])
def verify(as_json: Json = False) -> None:
    """Compare everything with its digest, and remove what is wrong (status 1 if something was)."""
    from p2u.cache.cache import Cache
    from p2u.cli import show

    cache, count, wrong = Cache(), 0, []
    for file, right in cache.objects.verify():
        count += 1
        if not right:
            wrong.append(str(file.path))
    if as_json:
        show.as_json(folder=str(cache.folder), files=count, removed=wrong)
    else:
        for path in wrong:
            warn(f"{path} did not have its digest and was removed")
        say(f"{cache.folder}: {count - len(wrong)} of {count} files are right")
    if wrong:
        raise typer.Exit(1)
