"""``p2u watch``: signals, and a line per event."""

from __future__ import annotations

import json
import signal
import sys
import threading
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from p2u.cli.bars import human
from p2u.client.folder.watch import Watched, watch
from p2u.errors import Cancelled


def run(src: str, dst: Path, *, as_json: bool, quiet: bool, **options: Any) -> None:
    """Watch until Ctrl-C or SIGTERM, which are no failures: the folder holds a whole state."""
    stop = threading.Event()
    tell = _json if as_json else _line

    def event(found: Watched) -> None:
        if not quiet or found.kind in ("error", "warning"):
            tell(found, dst)

    def end(*_: object) -> None:
        if not stop.is_set():
            stop.set()
            raise KeyboardInterrupt  # whatever this thread waits for

    if hasattr(signal, "SIGTERM"):
        signal.signal(signal.SIGTERM, end)
    # What the hook prints is none of our lines.
    output = sys.stderr.fileno() if as_json else None
    try:
        watch(src, dst, stop=stop, on_event=event, output=output, **options)
    except (KeyboardInterrupt, Cancelled):
        if not quiet and not as_json:
            print(f"{_now()} ended; {dst} stays as it is", flush=True)


def _now() -> str:
    return datetime.now().strftime("%H:%M:%S")


def _line(event: Watched, dst: Path) -> None:
    if event.kind == "commit":
        size = human(event.bytes)
        print(f"{_now()} {dst} is {event.state}: {size} in {event.seconds:.2f} s", flush=True)
    elif event.kind == "hook":
        if event.status:
            print(f"{_now()} the command ended with {event.status}", file=sys.stderr, flush=True)
    else:
        print(f"{_now()} {event.kind}: {event.message}", file=sys.stderr, flush=True)


def _json(event: Watched, dst: Path) -> None:
    time = datetime.now().astimezone().isoformat(timespec="milliseconds")
    tree = {"time": time, "dir": str(dst), **asdict(event), "version": event.version}
    print(json.dumps(tree), flush=True)
