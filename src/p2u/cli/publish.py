"""``p2u publish``: add a model to a package as its next version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from p2u.cli.options import (
    BlobSize,
    EngineName,
    Force,
    Jobs,
    Json,
    Levels,
    Name,
    Quiet,
    RayAddress,
    Workers,
    parse_labels,
)
from p2u.units import parse_size

#: Shown below the options of ``--help``.
EXAMPLES = (
    "Examples:\n\n  p2u publish ./checkpoint ./model.p2u   # a package, later a version\n\n"
    "  p2u publish ./checkpoint ./model.p2u --anchor-every 20 --fold 0.8 --version step1200\n\n"
    "  p2u publish ./checkpoint s3://bucket/model.p2u\n\n"
    "  p2u publish s3://bucket/model s3://bucket/model.p2u --engine ray --ray-address auto"
)


def publish(
    src: Annotated[str, typer.Argument(help="A model file, directory or URL.")],
    package: Annotated[
        str, typer.Argument(help="Path or URL of the package; created if it does not exist.")
    ],
    version: Name = None,
    parent: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            metavar="DIR", help="A copy of the newest version, so that it need not be decoded."
        ),
    ] = None,
    expect: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="STATE", help="Fail unless the newest state is this one: v7@exact."),
    ] = None,
    anchor_every: Annotated[
        int, typer.Option(metavar="N", help="Give every Nth version a base, for newcomers.", min=1)
    ] = 50,
    fold: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            metavar="PART",
            help="Also make updates across 2, 4, 8 ... versions; keep a folded update only if it "
            "has at most this fraction of the chain's bytes: 0.8.",
        ),
    ] = None,
    bits: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Average bits per weight of a base, 1 to 6.", show_default="3.5"),
    ] = None,
    levels: Levels = "base,8bit,exact",
    force: Force = False,
    jobs: Jobs = None,
    blob_size: BlobSize = "24MiB",
    engine: EngineName = "local",
    workers: Workers = None,
    ray_address: RayAddress = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Publish a model: as a new package, or as the next version of an existing one."""
    from p2u.cli import show
    from p2u.packing.api import publish as publish_model

    with show.phases(quiet or as_json) as progress:
        report = publish_model(
            src, package, version=version, parent=parent, expect=expect,
            anchor_every=anchor_every, fold=fold, bits=bits, levels=parse_labels(levels),
            jobs=jobs, blob_size=parse_size(blob_size), force=force,
            engine=engine, workers=workers, ray_address=ray_address, progress=progress,
        )  # fmt: skip
    if as_json or not quiet:
        show.packed(report, package, json=as_json)
