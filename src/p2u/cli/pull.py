"""``p2u pull``: bring a folder to a state of a package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from p2u.cli.options import DryRun, Jobs, Json, LimitRate, MaxBytes, Metrics, Quiet, Repair
from p2u.units import parse_seconds, parse_size

#: Shown below the options of ``--help``.
EXAMPLES = (
    "Examples:\n\n  p2u pull https://example.org/model.p2u ./model\n\n"
    "  p2u pull model.p2u ./model --until base\n\n"
    "  p2u pull URL ./model --limit-rate 2MB/s --in-place\n\n"
    "  p2u pull URL ./model --deadline 2s   # the best state that can be here by then\n\n"
    "  p2u pull URL ./model --origin model-Q4_K_M.gguf"
)


def pull(
    src: Annotated[str, typer.Argument(help="Path or URL of a package.")],
    dst: Annotated[Path, typer.Argument(help="The model directory to create or update.")],
    until: Annotated[
        str, typer.Option(help="Stop at this state: exact, v1, v1@base.", metavar="STATE")
    ] = "exact",
    origin: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            metavar="PATH", help="Start from the model in this folder or file, which is only read."
        ),
    ] = None,
    deadline: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="TIME", help="Stop at the best state that can arrive within this time: 2s."
        ),
    ] = None,
    check: Annotated[
        str,
        typer.Option(
            metavar="exact|all", help="Compare files with the publisher's SHA-256 in these states."
        ),
    ] = "exact",
    straight: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(
            "--straight/--no-straight",
            help="Make only the state wanted, or every state on the way.",
            show_default="by the speed of the line",
        ),
    ] = None,
    jobs: Jobs = None,
    limit_rate: LimitRate = None,
    max_bytes: MaxBytes = None,
    in_place: Annotated[
        bool,
        typer.Option(
            "--in-place", help="Change the files themselves, to need no room for two copies."
        ),
    ] = False,
    cache: Annotated[
        bool, typer.Option("--cache", help="Take from the cache what it has, and keep what comes.")
    ] = False,
    repair: Repair = False,
    metrics: Metrics = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fetch a model, usable early; run the same command again to resume.

    A folder with an older version is updated to the newest one.
    """
    from p2u.cli import show
    from p2u.cli.metrics import exported
    from p2u.client.folder.pull import run_pull
    from p2u.client.folder.pull_task import PullTask
    from p2u.client.transfer.options import TransferOptions

    options = TransferOptions(
        jobs=jobs, limit_rate=limit_rate, straight=straight,
        max_bytes=parse_size(max_bytes) if max_bytes else None, cache=cache,
    )  # fmt: skip
    with (
        exported(metrics) as exporter,
        show.transfer(quiet or dry_run or as_json) as view,
    ):

        def on_state(label: str) -> None:
            view.reached(label)
            exporter.pulled(dst)

        # The view only shows the states: nobody waits for those between.
        task = PullTask(
            until=until, origin=origin, in_place=in_place, repair=repair, check=check,
            deadline=parse_seconds(deadline) if deadline else None,
            progress=view.progress, on_state=on_state,
            meter=exporter.metrics.meter,
        )  # fmt: skip
        report = run_pull(src, dst, task, options, dry_run=dry_run)
    if as_json or dry_run or not quiet:
        show.pulled(report, dst, dry_run=dry_run, json=as_json)
