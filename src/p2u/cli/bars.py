"""Show progress on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

if TYPE_CHECKING:
    from p2u.client.transfer.control import Progress as Transfer
    from p2u.packing.report import PackProgress

_WIDTH = 44


def human(count: float) -> str:
    """``1234567`` as ``1.23 MB``."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 999.5 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError


@contextmanager
def phases(quiet: bool) -> Iterator[Callable[[PackProgress], None] | None]:
    """One bar per phase of packing."""
    if quiet:
        yield None
        return
    columns = (TextColumn("{task.description:>8}"), BarColumn(_WIDTH), TaskProgressColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def update(p: PackProgress) -> None:
            if p.phase not in tasks:
                tasks[p.phase] = bars.add_task(p.phase, total=p.total)
            bars.update(tasks[p.phase], completed=p.done, total=p.total)

        yield update


class TransferView:
    """One bar for the whole transfer, with the states marked on it."""

    def __init__(self, console: Console, live: Live | None) -> None:
        self._console = console
        self._live = live
        self._seconds = 0.0
        self._done = 0

    def progress(self, p: Transfer) -> None:
        """Draw how far the transfer is."""
        self._seconds, self._done = p.seconds, p.done
        if self._live is not None:
            self._live.update(render(p))

    def reached(self, state: Any) -> None:
        """Say that a state is on disk and usable."""
        if self._live is None or not self._done:
            return
        label = getattr(state, "label", state)
        what = "bit-identical to the original" if label == "exact" else "usable now"
        self._console.print(
            f"[green]✓[/] [bold]{label}[/] is complete: {what} "
            f"[dim]({human(self._done)}, {self._seconds:.1f} s)[/]"
        )


def render(p: Transfer) -> Text:
    """The bar: filled part, marks at the states, figures."""
    total = max(p.total, 1)
    filled = _WIDTH * min(p.done, total) // total
    cells = ["━"] * _WIDTH
    styles = ["cyan" if i < filled else "dim" for i in range(_WIDTH)]
    text = Text()
    for _, at in p.marks:
        i = min(_WIDTH - 1, max(0, _WIDTH * at // total - 1))
        cells[i] = "┃"
        styles[i] = "green" if p.done >= at else "yellow"
    for cell, style in zip(cells, styles, strict=True):
        text.append(cell, style)
    text.append(f" {100 * min(p.done, total) / total:3.0f} %  {human(p.done)} of {human(total)}")
    text.append(f"  {human(p.rate)}/s", "dim")
    if p.target:
        text.append(f"  → {p.target}")
    if p.rate > 0 and p.done < total:
        text.append(f"  {(total - p.done) / p.rate:.0f} s left", "dim")
    return text


@contextmanager
def transfer(quiet: bool) -> Iterator[TransferView]:
    """The bar of a transfer, on stderr; nothing is drawn where that is not a terminal."""
    console = Console(stderr=True, highlight=False)
    if quiet:
        yield TransferView(console, None)
        return
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        yield TransferView(console, live)
