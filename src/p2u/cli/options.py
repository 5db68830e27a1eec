"""Options that several commands share, and the parsers of their texts."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from p2u.errors import UsageError

Jobs = Annotated[Optional[int], typer.Option("--jobs", "-j", help="Number of threads.", min=1)]  # noqa: UP045
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Accept a model that is not exact, another model, or the same files once more.",
    ),
]
Levels = Annotated[
    str,
    typer.Option(
        metavar="LABELS",
        help="The levels to make: base, then any of 5bit to 19bit, coarse to fine, then exact.",
    ),
]
Name = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(metavar="NAME", help="The version's name.", show_default="the next number"),
]
BlobSize = Annotated[str, typer.Option(help="Size limit of a blob.")]
EngineName = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="NAME",
        help="Where the work is done: local (threads), or ray (processes, on many machines).",
    ),
]
Workers = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        help="With --engine ray: number of workers.", show_default="all processors", min=1
    ),
]
RayAddress = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        metavar="HOST:PORT",
        help="With --engine ray: the cluster, or auto.",
        show_default="started on this machine",
    ),
]
LimitRate = Annotated[
    Optional[str],  # noqa: UP045 - typer reads this on 3.10, too
    typer.Option(
        "--limit-rate", metavar="RATE", help="Limit the bytes per second: 2MB/s, 16Mbit/s."
    ),
]
MaxBytes = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--max-bytes", metavar="SIZE", help="Refuse a model whose files are larger: 20GB."
    ),
]
Repair = Annotated[
    bool, typer.Option("--repair", help="Overwrite files that were changed since the last pull.")
]
Metrics = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--metrics",
        metavar="FILE|HOST:PORT",
        help="Keep a file of Prometheus metrics up to date, or serve them at /metrics.",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only show the actions, without any change.")
]


def parse_labels(text: str) -> list[str]:
    """The labels of ``base,8bit,exact``."""
    return [name.strip() for name in text.split(",")]


def parse_tensor_bits(texts: list[str]) -> dict[str, float]:
    """Globs and bits of ``encoder.*=5``."""
    out: dict[str, float] = {}
    for text in texts:
        pattern, _, bits = text.rpartition("=")
        try:
            # The last one of equal patterns counts, in its own place.
            out.pop(pattern, None)
            out[pattern] = float(bits)
        except ValueError:
            pattern = ""
        if not pattern:
            raise UsageError(
                f"{text!r} is not a pattern and bits", hint="Write it like 'encoder.layer.0.*=5'"
            )
    return out
