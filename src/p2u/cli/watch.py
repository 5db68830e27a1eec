"""``p2u watch``: keep a folder at the newest version of a package."""

from __future__ import annotations

import json
import logging
import sys
import threading
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from p2u.cli import interrupts, logs
from p2u.cli.options import Jobs, LimitRate, MaxBytes, Metrics, Quiet, Repair
from p2u.cli.terminal import flush, say
from p2u.errors import Cancelled
from p2u.units import parse_seconds, parse_size

if TYPE_CHECKING:
    from p2u.cli.metrics import Exporter
    from p2u.client.folder.watch import Watched

#: Shown below the options of ``--help``.
EXAMPLES = (
    "Examples:\n\n  p2u watch https://example.org/model.p2u ./model\n\n"
    "  p2u watch URL ./model --every 1s --execute 'curl -X POST localhost:8080/reload'\n\n"
    "The command finds P2U_STATE (v2@exact), P2U_VERSION (v2) and P2U_DIR in its environment. "
    "Ctrl-C or SIGTERM ends the watch; run the same command to continue."
)


def watch(
    src: Annotated[str, typer.Argument(help="Path or URL of a package.")],
    dst: Annotated[Path, typer.Argument(help="The model directory to keep at the newest version.")],
    every: Annotated[str, typer.Option(metavar="TIME", help="Time between two polls.")] = "5s",
    execute: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="COMMAND", help="Run this after each new state."),
    ] = None,
    until: Annotated[str, typer.Option(help="Stop at this state of each version.")] = "exact",
    in_place: Annotated[
        bool,
        typer.Option(
            "--in-place", help="Change the files themselves, to need no room for two copies."
        ),
    ] = False,
    repair: Repair = False,
    jobs: Jobs = None,
    limit_rate: LimitRate = None,
    max_bytes: MaxBytes = None,
    metrics: Metrics = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON per event.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Pull each version of a package as it is published, and run a command after it."""
    from p2u.cli.metrics import exported

    with exported(metrics) as exporter:
        _run(
            src, dst, exporter, every=parse_seconds(every), until=until, execute=execute,
            in_place=in_place, repair=repair, jobs=jobs, limit_rate=limit_rate, as_json=as_json,
            quiet=quiet, max_bytes=parse_size(max_bytes) if max_bytes else None,
        )  # fmt: skip


def _run(
    src: str, dst: Path, exporter: Exporter, *, as_json: bool, quiet: bool, **options: Any
) -> None:
    """Watch until Ctrl-C or SIGTERM, which are no failures: the folder holds a whole state."""
    from p2u.client.folder.watch import watch as watch_package

    stop = threading.Event()
    report = _json if as_json else _logged if logs.is_json() else _line

    def event(found: Watched) -> None:
        exporter.watched(found)
        if not quiet or found.kind in ("error", "warning"):
            report(found, dst)

    # The lines of JSON are ours alone.
    output = sys.stderr.fileno() if as_json else None
    try:
        watch_package(
            src, dst, stop=stop, on_event=event, output=output,
            meter=exporter.metrics.meter, **options,
        )  # fmt: skip
    except (interrupts.Interrupted, Cancelled):
        stop.set()
        interrupts.say()
        if not quiet and not as_json:
            say(f"{_now()} ended; {dst} stays as it is")


def _now() -> str:
    return datetime.now().strftime("%H:%M:%S")


def _line(event: Watched, dst: Path) -> None:
    if event.kind == "commit":
        from p2u.cli.bars import human

        size = human(event.bytes)
        say(f"{_now()} {dst} is {event.state}: {size} in {event.seconds:.2f} s")
    elif event.kind == "hook":
        if event.status:
            say(f"{_now()} the command ended with {event.status}", stderr=True)
    else:
        say(f"{_now()} {event.kind}: {event.message}", stderr=True)
    flush()


def _logged(event: Watched, dst: Path) -> None:
    """Log an event; states are logged by the pull."""
    fields: dict[str, Any] = {"event": event.kind, "dir": str(dst), "state": event.state}
    if event.kind == "hook":
        level = logging.WARNING if event.status else logging.INFO
        fields |= {"status": event.status, "seconds": round(event.seconds, 3)}
        logs.log(level, f"the command ended with {event.status}", **fields)
    elif event.kind != "commit":
        level = logging.ERROR if event.kind == "error" else logging.WARNING
        logs.log(level, event.message, kind=event.error or None, **fields)


def _json(event: Watched, dst: Path) -> None:
    time = datetime.now().astimezone().isoformat(timespec="milliseconds")
    tree = {"time": time, "dir": str(dst), **asdict(event), "version": event.version}
    print(json.dumps(tree), flush=True)
