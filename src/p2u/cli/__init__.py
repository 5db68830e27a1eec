"""The command line: ``p2u pack | publish | gc | inspect | verify | pull | watch ...``.

Only words and tables live here; every command is one call of the Python API. Errors of ours are
shown as one message without a traceback, with exit status 1; Ctrl-C ends with 130.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from p2u.errors import Cancelled, P2UError, UsageError

app = typer.Typer(
    name="p2u",
    help="Progressive precision updates for model files: usable first, bit-exact at the end.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Jobs = Annotated[Optional[int], typer.Option("--jobs", "-j", help="Threads.", min=1)]  # noqa: UP045
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Levels = Annotated[str, typer.Option(help="States, from base to exact.")]
Name = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(metavar="NAME", help="The version's name.", show_default="the next number"),
]
BlobSize = Annotated[str, typer.Option(help="Most bytes of one blob.")]
Rate = Annotated[
    Optional[str],  # noqa: UP045 - typer reads this on 3.10, too
    typer.Option("--limit-rate", metavar="RATE", help="Most bytes per second: 2MB/s, 16Mbit/s."),
]


def _labels(text: str) -> list[str]:
    """States of ``base,8bit,exact``."""
    return [name.strip() for name in text.split(",")]


def _size(text: str) -> int:
    """Bytes of ``24MiB``, ``25MB``, ``1000000``."""
    number = text.strip().rstrip("iBbKkMmGg")
    unit = text.strip()[len(number) :].lower()
    scale = {"": 1, "b": 1, "k": 1000, "m": 1000**2, "g": 1000**3}
    scale |= {f"{u}b": scale[u] for u in "kmg"}
    scale |= {f"{u}ib": 1024 ** (i + 1) for i, u in enumerate("kmg")}
    try:
        return int(float(number) * scale[unit])
    except (KeyError, ValueError, OverflowError):
        raise UsageError(f"{text!r} is not a size", hint="Write it like 24MiB or 25MB") from None


def _seconds(text: str) -> float:
    """Seconds of ``2s``, ``500ms``, ``1.5``, ``1m``, ``2h``."""
    number = text.strip().rstrip("sminh ")
    unit = text.strip()[len(number) :].strip()
    try:
        return float(number) * {"": 1, "s": 1, "ms": 0.001, "m": 60, "min": 60, "h": 3600}[unit]
    except (KeyError, ValueError):
        raise UsageError(f"{text!r} is not a time", hint="Write it like 2s or 500ms") from None


def _own_bits(texts: list[str]) -> dict[str, float]:
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


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"p2u {version('p2u-models')}")
        except PackageNotFoundError:
            print("p2u (not installed)")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command(
    epilog="Examples:\n\n  p2u pack model.safetensors model.p2u\n\n"
    "  p2u pack ./MiniLM ./MiniLM.p2u --bits 4 --levels base,exact --blob-size 100MiB\n\n"
    "  p2u pack ./MiniLM ./MiniLM.p2u --budget 5MB --keep 'pooler.*'\n\n"
    "  p2u pack ./MiniLM ./MiniLM.p2u --base-ratio 0.2 --set 'encoder.layer.0.*=5'\n\n"
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
    own_bits: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--set",
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
            src, dst, bits=bits, budget=_size(budget) if budget else None, base_ratio=base_ratio,
            own_bits=_own_bits(own_bits or []), keep=keep or (), sensitivity=sensitivity,
            calibration=calibration, thrift=thrift, levels=_labels(levels), jobs=jobs,
            blob_size=_size(blob_size), parent=parent, adopt=adopt, version=version,
            also_base=also_base, progress=progress,
        )  # fmt: skip
    if not quiet:
        show.packed(report, dst)


@app.command(
    epilog="Examples:\n\n  p2u inspect model.p2u --tensors\n\n"
    "  p2u inspect https://example.org/model.p2u --json"
)
def inspect(
    package: Annotated[str, typer.Argument(help="Path or URL of a package.")],
    tensors: Annotated[bool, typer.Option("--tensors", help="List the tensors, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Show what a package holds: states, sizes, quality, tensors."""
    from p2u.cli import show

    show.inspect(package, tensors=tensors, as_json=as_json)


@app.command(epilog="Examples:\n\n  p2u verify model.p2u\n\n  p2u verify ./MiniLM")
def verify(
    target: Annotated[str, typer.Argument(help="A package (path or URL) or a pulled directory.")],
    decode: Annotated[
        bool, typer.Option("--decode", help="Of a package, decode every state, too.")
    ] = False,
    jobs: Jobs = None,
    quiet: Quiet = False,
) -> None:
    """Check every byte of a package, or of a directory that was pulled, against its SHA-256."""
    from p2u.cli import show
    from p2u.client.folder.verify import verify as verify_bytes

    with show.transfer(quiet) as view:
        result = verify_bytes(target, decode=decode, jobs=jobs, progress=view.progress)
    if not quiet:
        show.verified(result, target)


@app.command(
    epilog="Examples:\n\n  p2u pull https://example.org/model.p2u ./model\n\n"
    "  p2u pull model.p2u ./model --until base\n\n"
    "  p2u pull URL ./model --limit-rate 2MB/s --in-place\n\n"
    "  p2u pull URL ./model --deadline 2s   # the best state that can be here by then\n\n"
    "  p2u pull URL ./model --from model-Q4_K_M.gguf"
)
def pull(
    src: Annotated[str, typer.Argument(help="Path or http(s) URL of a package.")],
    dst: Annotated[Path, typer.Argument(help="The model directory to make or to sharpen.")],
    until: Annotated[
        str, typer.Option(help="State to stop at: exact, v1, v1@base.", metavar="STATE")
    ] = "exact",
    origin: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--from", metavar="PATH", help="Begin at a state in this folder or file; only read."
        ),
    ] = None,
    deadline: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="TIME", help="Stop at the best state that can be here by then: 2s."),
    ] = None,
    jobs: Jobs = None,
    limit_rate: Rate = None,
    in_place: Annotated[
        bool,
        typer.Option(
            "--in-place", help="Refine the files where they lie: no room for two copies needed."
        ),
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Overwrite files that were changed since.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would do.")] = False,
    quiet: Quiet = False,
) -> None:
    """Fetch a model, usable first; run it again to go on where it stopped.

    A folder with an older version takes the update to the newest one.
    """
    from p2u.cli import show
    from p2u.client.folder.pull import pull as pull_model

    with show.transfer(quiet or dry_run) as view:
        report = pull_model(
            src, dst, until=until, origin=origin, jobs=jobs, limit_rate=limit_rate,
            in_place=in_place, repair=repair, dry_run=dry_run,
            deadline=_seconds(deadline) if deadline else None,
            progress=view.progress, on_state=view.reached,
        )  # fmt: skip
    if dry_run or not quiet:
        show.pulled(report, dst, dry_run=dry_run)


@app.command(
    epilog="Example:\n\n  p2u serve model.p2u --port 8000 --limit-rate 20Mbit/s\n\n"
    "For development; in production any static file host serves a package."
)
def serve(
    package: Annotated[Path, typer.Argument(help="A package, or a folder of packages.")],
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    limit_rate: Rate = None,
    quiet: Quiet = False,
) -> None:
    """Serve a package over HTTP with ranges and CORS, for development."""
    from p2u.serve import make_server
    from p2u.stores.throttle import parse_rate

    rate = parse_rate(limit_rate) if limit_rate else None
    server = make_server(package, host=host, port=port, limit_rate=rate, quiet=quiet)
    if not quiet:
        print(f"serving {package} at {server.url}  (Ctrl-C ends)", flush=True)
    try:
        server.serve_forever()
    finally:
        server.shutdown()


@app.command(
    epilog="Examples:\n\n  p2u watch https://example.org/model.p2u ./model\n\n"
    "  p2u watch URL ./model --every 1s --exec 'curl -X POST localhost:8080/reload'\n\n"
    "The command finds P2U_STATE (v2@exact), P2U_VERSION (v2) and P2U_DIR in its environment. "
    "Ctrl-C or SIGTERM ends the watch; the next one goes on."
)
def watch(
    src: Annotated[str, typer.Argument(help="Path or http(s) URL of a package.")],
    dst: Annotated[Path, typer.Argument(help="The model directory to keep at the newest version.")],
    every: Annotated[str, typer.Option(metavar="TIME", help="Time between two looks.")] = "5s",
    execute: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--exec", metavar="COMMAND", help="Run after each new state."),
    ] = None,
    until: Annotated[str, typer.Option(help="State wanted of each version.")] = "exact",
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Change the files where they lie.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Overwrite files that were changed since.")
    ] = False,
    jobs: Jobs = None,
    limit_rate: Rate = None,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON per event.")] = False,
    quiet: Quiet = False,
) -> None:
    """Follow a package: pull each version as it is published, and run a command after each."""
    from p2u.cli.watching import run

    run(
        src, dst, every=_seconds(every), until=until, execute=execute, in_place=in_place,
        repair=repair, jobs=jobs, limit_rate=limit_rate, as_json=as_json, quiet=quiet,
    )  # fmt: skip


@app.command(
    epilog="Examples:\n\n  p2u publish ./checkpoint ./model.p2u   # a package, later a version\n\n"
    "  p2u publish ./checkpoint ./model.p2u --anchor-every 20 --fold --version step1200"
)
def publish(
    src: Annotated[Path, typer.Argument(help="A model file or directory.")],
    package: Annotated[Path, typer.Argument(help="The package; made if there is none.")],
    version: Name = None,
    parent_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            metavar="DIR", help="Holds the newest version: saves decoding it from the package."
        ),
    ] = None,
    expect: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="STATE", help="Fail unless this is the newest state: v7@exact."),
    ] = None,
    anchor_every: Annotated[
        int, typer.Option(metavar="N", help="Every Nth version gets a base for newcomers.", min=1)
    ] = 50,
    fold: Annotated[
        bool, typer.Option("--fold", help="Also updates across 2, 4, 8 ... versions, if smaller.")
    ] = False,
    fold_factor: Annotated[
        float, typer.Option(metavar="PART", help="Of the chain's bytes that these may have.")
    ] = 0.8,
    bits: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Average bits per weight of a base, 1 to 6.", show_default="3.5"),
    ] = None,
    levels: Levels = "base,8bit,exact",
    jobs: Jobs = None,
    blob_size: BlobSize = "24MiB",
    quiet: Quiet = False,
) -> None:
    """Publish a model: as a new package, or as the next version, an update from the newest."""
    from p2u.cli import show
    from p2u.packing.api import publish as publish_model

    with show.phases(quiet) as progress:
        report = publish_model(
            src, package, version=version, parent=parent_dir, expect=expect,
            every_anchor=anchor_every, fold=fold_factor if fold else None, bits=bits,
            levels=_labels(levels), jobs=jobs, blob_size=_size(blob_size), progress=progress,
        )  # fmt: skip
    if not quiet:
        show.packed(report, package)


@app.command(
    epilog="Examples:\n\n  p2u gc ./model.p2u --keep 3 --dry-run\n\n"
    "  p2u gc ./model.p2u --keep 10 --anchors 2 --grace 1h"
)
def gc(
    package: Annotated[Path, typer.Argument(help="A package on this machine.")],
    keep: Annotated[int, typer.Option(metavar="N", help="Newest versions to keep.", min=1)] = 5,
    anchors: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            metavar="N", help="Older versions with a base to keep.", min=0, show_default="all"
        ),
    ] = None,
    grace: Annotated[
        str, typer.Option(metavar="TIME", help="Files stay for this long, for slow readers: 1h.")
    ] = "0s",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would do.")] = False,
    quiet: Quiet = False,
) -> None:
    """Drop old versions and the files that only they need; new readers still get to all others."""
    from p2u.cli import show
    from p2u.packing.api import gc as collect

    report = collect(package, keep=keep, anchors=anchors, grace=_seconds(grace), dry_run=dry_run)
    if dry_run or not quiet:
        show.collected(report, package, dry_run=dry_run)


def _fail(message: str, status: int) -> int:
    print(f"p2u: {message}", file=sys.stderr)
    return status


def main() -> None:
    """Entry point of the ``p2u`` command."""
    logging.getLogger("p2u").addHandler(logging.NullHandler())  # results have all warnings
    try:
        app(standalone_mode=True)
    except KeyboardInterrupt:
        status = _fail("interrupted; run the same command again to go on", 130)
    except Cancelled as e:
        status = _fail(str(e), 130)
    except UsageError as e:
        status = _fail(str(e), 2)
    except P2UError as e:
        status = _fail(str(e), 1)
    except BrokenPipeError:
        # The reader of our output went away (`p2u inspect PKG | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = 1
    else:
        return
    raise SystemExit(status)


if __name__ == "__main__":
    main()
