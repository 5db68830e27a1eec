"""Show progress on the terminal, in one line that fits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from p2u.cli import logs
from p2u.cli.terminal import console, has_signs, say, shown, warn

if TYPE_CHECKING:
    from p2u.client.transfer.control import Progress as Transfer
    from p2u.packing.report import PackProgress
    from p2u.replication.mirror import MirrorProgress
    from p2u.replication.torrent import TorrentProgress

    Phased = PackProgress | MirrorProgress | TorrentProgress

#: Widest and narrowest bar, in columns.
_WIDTH, _LEAST = 44, 8
#: Filled, empty, a state that is reached, one that is not: they differ without colours, too.
_CELLS, _PLAIN_CELLS = ("━", "╌", "┃", "╎"), ("=", "-", "#", "|")


def human(count: float) -> str:
    """``1234567`` as ``1.23 MB``."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 999.5 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError


@contextmanager
def phases(quiet: bool) -> Iterator[Callable[[Phased], None] | None]:
    """One bar per phase of packing, copying or hashing, on stderr if that is a terminal."""
    stream = console(stderr=True)
    if quiet or logs.is_json() or not stream.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description:>8}"),
        BarColumn(max(_LEAST, min(_WIDTH, stream.width - 26))),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=stream) as bars:
        tasks: dict[str, Any] = {}

        def update(p: Phased) -> None:
            if p.phase not in tasks:
                tasks[p.phase] = bars.add_task(p.phase, total=p.total)
            bars.update(tasks[p.phase], completed=p.done, total=p.total)

        yield update


class TransferView:
    """One bar for the whole transfer, with the states marked on it."""

    def __init__(self, stream: Console, live: Live | None) -> None:
        self._stream = stream
        self._live = live
        self._last: Transfer | None = None

    def progress(self, p: Transfer) -> None:
        """Draw how far the transfer is."""
        self._last = p
        if self._live is not None:
            self._live.update(render(p, self._stream.width, signs=has_signs(self._stream)))

    def reached(self, state: Any) -> None:
        """Say that a state is on disk and usable."""
        if self._live is None or self._last is None or not self._last.done:
            return
        label = str(getattr(state, "label", state))
        what = "bit-identical to the original" if label == "exact" else "usable now"
        # Not what has come, which may be a part of the next update already.
        found = [at for title, at in self._last.marks if title in (label, getattr(state, "id", ""))]
        size = f"{human(found[-1])}, " if found else ""
        say(
            ("✓ ", "green"),
            (label, "bold"),
            f" is complete: {what} ",
            (f"({size}{self._last.seconds:.1f} s)", "dim"),
            stderr=True,
        )


def render(p: Transfer, width: int, *, signs: bool = True) -> Text:
    """The bar and its figures: as many as fit in a line.

    Args:
        p: The progress.
        width: Columns of the terminal.
        signs: Whether it has characters for bars.
    """
    total = max(p.total, 1)
    done = min(p.done, total)
    figures = [
        (f" {100 * done / total:3.0f} %", ""),
        (f"  {human(done)} of {human(total)}", ""),
        (f"  {human(p.rate)}/s", "dim"),
        (f"  to {shown(p.target)}" if p.target else "", ""),
        (f"  {(total - done) / p.rate:.0f} s left" if p.rate > 0 and done < total else "", "dim"),
    ]
    # The last column stays free: some terminals begin a new line when it is written.
    room = width - 1 - _LEAST
    kept = []
    for words, style in figures:
        if len(words) <= room:
            kept.append((words, style))
            room -= len(words)
    return Text.assemble(*_bar(p, min(_WIDTH, _LEAST + max(room, 0)), signs), *kept)


def _bar(p: Transfer, width: int, signs: bool) -> list[tuple[str, str]]:
    """The cells of the bar: filled part, and marks at the states."""
    total = max(p.total, 1)
    full, empty, reached, ahead = _CELLS if signs else _PLAIN_CELLS
    filled = width * min(p.done, total) // total
    cells = [(full, "cyan") if i < filled else (empty, "dim") for i in range(width)]
    for _, at in p.marks:
        i = min(width - 1, max(0, width * at // total - 1))
        cells[i] = (reached, "green") if p.done >= at else (ahead, "yellow")
    return cells


@contextmanager
def transfer(quiet: bool) -> Iterator[TransferView]:
    """The bar of a transfer, on stderr; nothing is drawn where that is not a terminal."""
    stream = console(stderr=True)
    if quiet or logs.is_json():
        yield TransferView(stream, None)
        return
    with (
        retries_reported(),
        Live(console=stream, refresh_per_second=8, transient=True) as live,
    ):
        yield TransferView(stream, live)


@contextmanager
def retries_reported() -> Iterator[None]:
    """Print failures that a try follows, to stderr: nobody waits in front of a silent terminal."""
    log, handler = logging.getLogger("p2u.retry"), _Printed()
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


class _Printed(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        warn(record.getMessage())
