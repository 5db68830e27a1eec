"""``p2u pack``: make a package of a model, or add a version to one."""

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
    parse_tensor_bits,
)
from p2u.units import parse_size

#: Shown below the options of ``--help``.
EXAMPLES = (
    "Examples:\n\n  p2u pack model.safetensors model.p2u\n\n"
    "  p2u pack ./MiniLM ./MiniLM.p2u --bits 4 --levels base,exact --blob-size 100MiB\n\n"
    "  p2u pack ./MiniLM ./MiniLM.p2u --levels base,6bit,8bit,10bit,exact\n\n"
    "  p2u pack ./MiniLM ./MiniLM.p2u --budget 5MB --keep 'pooler.*'\n\n"
    "  p2u pack ./MiniLM ./MiniLM.p2u --base-ratio 0.2 --tensor-bits 'encoder.layer.0.*=5'\n\n"
    "  p2u pack ./MiniLM ./MiniLM.p2u --bits 3 --sensitivity minilm.json\n\n"
    "  p2u pack ./MiniLM-v2 ./MiniLM.p2u --parent ./MiniLM.p2u   # an update\n\n"
    "  p2u pack ./MiniLM ./MiniLM.p2u --adopt MiniLM-Q4_K_M.gguf"
)


def pack(
    src: Annotated[
        str, typer.Argument(help="A model file (.safetensors, .onnx ...), directory or URL.")
    ],
    dst: Annotated[Path, typer.Argument(help="The package: a directory of static files.")],
    calibration: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads this on 3.10, too
        typer.Option(help="A file from p2u.torch.calibrate: gives a better base of the same size."),
    ] = None,
    thrift: Annotated[
        float,
        typer.Option(
            help="With --calibration: a higher value makes the exact state smaller, 0 to 16."
        ),
    ] = 0.2,
    bits: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Average bits per weight of the base, 1 to 6.", show_default="3.5"),
    ] = None,
    budget: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="SIZE", help="Instead of --bits: limit the bytes to fetch for the base: 5MB."
        ),
    ] = None,
    base_ratio: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            metavar="PART",
            help="Instead of --bits: limit them to this fraction of the model: 0.12.",
        ),
    ] = None,
    tensor_bits: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            metavar="GLOB=BITS",
            help="Bits per weight of tensors with these names; --bits is the average of the "
            "others. May be repeated; the last match counts.",
        ),
    ] = None,
    keep: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="GLOB", help="Make these tensors exact in the base; may be repeated."),
    ] = None,
    sensitivity: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="A file from p2u.torch.sensitivity."),
    ] = None,
    levels: Levels = "base,8bit,exact",
    parent: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="PKG-or-DIR[@STATE]",
            help="Add a version, as an update from the newest state of this package, from its "
            "state STATE, or from a model directory.",
        ),
    ] = None,
    adopt: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            metavar="FILE",
            help="Also make an update from somebody else's copy of this model: a quantised GGUF, "
            "or floats of lower precision.",
        ),
    ] = None,
    version: Name = None,
    also_base: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(
            "--also-base/--no-base",
            help="Make a base for newcomers, too, or not.",
            show_default="unless there is a parent",
        ),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Replace the package that is there, with all its versions."),
    ] = False,
    force: Force = False,
    jobs: Jobs = None,
    blob_size: BlobSize = "24MiB",
    engine: EngineName = "local",
    workers: Workers = None,
    ray_address: RayAddress = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a package of a model: a base, and updates up to the exact original."""
    from p2u.cli import show
    from p2u.packing.api import pack as pack_model

    with show.phases(quiet or as_json) as progress:
        report = pack_model(
            src, dst, bits=bits, budget=parse_size(budget) if budget else None,
            base_ratio=base_ratio, tensor_bits=parse_tensor_bits(tensor_bits or []),
            keep=keep or (), sensitivity=sensitivity, calibration=calibration, thrift=thrift,
            levels=parse_labels(levels), jobs=jobs, blob_size=parse_size(blob_size),
            parent=parent, adopt=adopt, version=version, also_base=also_base,
            replace=replace, force=force, engine=engine, workers=workers,
            ray_address=ray_address, progress=progress,
        )  # fmt: skip
    if as_json or not quiet:
        show.packed(report, dst, json=as_json)
