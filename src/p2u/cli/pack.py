"""``p2u pack``: a model as a new package, or as another version of one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from p2u.cli.options import (
    BlobSize,
    Jobs,
    Levels,
    Name,
    Quiet,
    parse_labels,
    parse_size,
    parse_tensor_bits,
)

#: Shown below the options of ``--help``.
EXAMPLES = (
    "Examples:\n\n  p2u pack model.safetensors model.p2u\n\n"
    "  p2u pack ./MiniLM ./MiniLM.p2u --bits 4 --levels base,exact --blob-size 100MiB\n\n"
    "  p2u pack ./MiniLM ./MiniLM.p2u --budget 5MB --keep 'pooler.*'\n\n"
    "  p2u pack ./MiniLM ./MiniLM.p2u --base-ratio 0.2 --tensor-bits 'encoder.layer.0.*=5'\n\n"
    "  p2u pack ./MiniLM ./MiniLM.p2u --bits 3 --sensitivity minilm.json\n\n"
    "  p2u pack ./MiniLM-v2 ./MiniLM.p2u --parent ./MiniLM.p2u   # an update\n\n"
    "  p2u pack ./MiniLM ./MiniLM.p2u --adopt MiniLM-Q4_K_M.gguf"
)


def pack(
    src: Annotated[
        Path, typer.Argument(help="A model file (.safetensors, .onnx ...) or directory.")
    ],
    dst: Annotated[Path, typer.Argument(help="The package: a directory of static files.")],
    calibration: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads this on 3.10, too
        typer.Option(help="What p2u.torch.calibrate wrote: a better base of the same size."),
    ] = None,
    thrift: Annotated[
        float, typer.Option(help="With a calibration: more means a smaller exact state. 0 to 16.")
    ] = 0.2,
    bits: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Average bits per weight of the base, 1 to 6.", show_default="3.5"),
    ] = None,
    budget: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="SIZE", help="Instead: most bytes to fetch for the base: 5MB."),
    ] = None,
    base_ratio: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(metavar="PART", help="Instead: the same as a part of the model: 0.12."),
    ] = None,
    tensor_bits: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            metavar="GLOB=BITS",
            help="Bits per weight of these tensors; --bits is the average of the others. May be "
            "repeated, the last one that matches counts.",
        ),
    ] = None,
    keep: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="GLOB", help="Tensors that are exact in the base; may be repeated."),
    ] = None,
    sensitivity: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="What p2u.torch.sensitivity measured."),
    ] = None,
    levels: Levels = "base,8bit,exact",
    parent: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="PKG-or-DIR[@STATE]",
            help="Make another version of the package, as an update from this package's newest "
            "state or the one named, or from a model at hand.",
        ),
    ] = None,
    adopt: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            metavar="FILE",
            help="Make an update from somebody else's file of this model: a quantised GGUF, or "
            "one of a lower precision.",
        ),
    ] = None,
    version: Name = None,
    also_base: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(
            "--also-base/--no-base",
            help="Whether there is a base for newcomers, too.",
            show_default="unless there is a parent",
        ),
    ] = None,
    jobs: Jobs = None,
    blob_size: BlobSize = "24MiB",
    quiet: Quiet = False,
) -> None:
    """Pack a model: base first, then its updates up to the exact original."""
    from p2u.cli import show
    from p2u.packing.api import pack as pack_model

    with show.phases(quiet) as progress:
        report = pack_model(
            src, dst, bits=bits, budget=parse_size(budget) if budget else None,
            base_ratio=base_ratio, tensor_bits=parse_tensor_bits(tensor_bits or []),
            keep=keep or (), sensitivity=sensitivity, calibration=calibration, thrift=thrift,
            levels=parse_labels(levels), jobs=jobs, blob_size=parse_size(blob_size),
            parent=parent, adopt=adopt, version=version, also_base=also_base, progress=progress,
        )  # fmt: skip
    if not quiet:
        show.packed(report, dst)
