"""``p2u plan``: the states of a package, and the times at which a line would have them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from p2u.cli.options import Json

if TYPE_CHECKING:
    from p2u.client.routes.fetch_plan import FetchPlan

#: Shown below the options of ``--help``.
EXAMPLES = (
    "Examples:\n\n  p2u plan https://example.org/model.p2u\n\n"
    "  p2u plan https://example.org/model.p2u --rate 20Mbit/s\n\n"
    "  p2u pull URL DIR --dry-run   # the same for a directory that has something already"
)


def plan(
    src: Annotated[str, typer.Argument(help="Path or URL of a package.")],
    rate: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="RATE", help="Speed of the line: 20Mbit/s.", show_default="measured"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the states and versions of a package, and when each would be here; download nothing."""
    from p2u.cli import show
    from p2u.client.routes.fetch_plan import plan as make

    found = make(src, rate=rate)
    if as_json:
        show.as_json(**asdict(found))
    else:
        _show(found)


def _show(plan: FetchPlan) -> None:
    from p2u.cli.bars import human
    from p2u.cli.table import print_table
    from p2u.cli.terminal import say

    how = "measured" if plan.measured else "given"
    say((f"{plan.name} {plan.version}", "bold"), f" at {8 * plan.rate / 1e6:,.1f} Mbit/s ({how})")
    print_table(
        ("state", "bytes", "here already", "after", "bits/weight", "SNR"),
        [
            (
                s.label,
                f"{s.bytes:,}",
                f"{s.here:,}",
                _seconds(s.seconds),
                f"{s.bits:.2f}",
                "exact" if s.snr_db is None else f"{s.snr_db:.1f} dB",
            )
            for s in plan.states
        ],
    )
    if plan.versions:
        print_table(
            ("from version", "bytes", "after"),
            [(v.version, f"{v.bytes:,}", _seconds(v.seconds)) for v in plan.versions],
        )
    say(
        f"{plan.files} files: {human(plan.model_bytes)} in memory, or on the disk; "
        f"{human(plan.most_bytes)} of disk while a directory changes its state"
    )


def _seconds(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
