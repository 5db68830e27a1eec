"""From a request to a folder with results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2u.errors import P2UError, UsageError
from p2u_lab import registry
from p2u_lab.base import MissingDataError
from p2u_lab.cells import CellStore, write_whole
from p2u_lab.compare import Verdict, verdicts
from p2u_lab.html import page
from p2u_lab.links import Transfers, lines
from p2u_lab.places import cache_dir
from p2u_lab.plots import draw
from p2u_lab.results import RUN, Results, load, make_results, save, table_csv
from p2u_lab.run import Runner, Skipped, why

if TYPE_CHECKING:
    from p2u_lab.base import Model, Report, Task
    from p2u_lab.run import Outcome
    from p2u_lab.suites import Request

#: Lines on which the original would take longer (seconds) are left to arithmetic.
LONGEST = 120.0
REPORT = "report.html"


@dataclass(frozen=True, slots=True)
class Done:
    """What a run has made.

    Attributes:
        results: Its rows.
        verdicts: The claims.
        report: The HTML file.
        cached: Cells that were there before.
        made: Cells that were measured.
    """

    results: Results
    verdicts: list[Verdict]
    report: Path
    cached: int = 0
    made: int = 0


def evaluate(request: Request, out: Path, report: Report) -> Done:
    """Measure what is asked for, and write tables, plots and the report.

    Args:
        request: What to measure.
        out: The folder for the results; made.
        report: Told what is being done.

    Raises:
        UsageError: A name is unknown, or no model is for any of the tasks.
        MissingDataError: There are no data for anything that was asked for.
        UnsupportedError: matplotlib is missing.
        DiskError: Something cannot be written.
    """
    store = CellStore(cache_dir())
    runner = Runner(store, report)
    tasks = registry.choose("task", registry.task_factories(), request.tasks)
    models = registry.choose("model", registry.model_factories(), request.models)
    methods = {
        name: factory()
        for name, factory in registry.choose(
            "method", registry.method_factories(), request.methods
        ).items()
    }
    plan = _plan(models, tasks, request)
    links = Transfers(store, report)
    for model, task in plan:
        runner.pair(model, task, methods, request.bits, request.limit)
    outcome = runner.outcome
    if not outcome.pairs:
        reasons = dict.fromkeys(s.reason for s in outcome.skipped)
        raise MissingDataError(
            f"nothing could be measured: {'; '.join(reasons)}",
            hint="`p2u eval list` says what is missing and where to get it",
        )
    if request.transfers:
        _transfers(links, outcome, {m.name: m for m, _ in plan}, request, report)
    results = make_results(outcome, request.as_json(), request.seed)
    results.network = links.rows
    save(results, out)
    return _written(results, out, outcome.cached, outcome.made)


def evaluate_all(
    parts: Mapping[str, Request], out: Path, report: Report
) -> tuple[list[Done], dict[str, P2UError]]:
    """Measure several requests, each into a folder of its name.

    Args:
        parts: Requests by name; one without a name goes to ``out`` itself.
        out: The folder for the results.
        report: Told what is being done.

    Returns:
        What was made, and why parts could not be.

    Raises:
        As :func:`evaluate`, if nothing at all could be measured.
    """
    done = []
    missing: dict[str, P2UError] = {}
    for name, request in parts.items():
        try:
            done.append(evaluate(request, out / name, report))
        except MissingDataError as error:
            missing[name] = error
    if not done:
        raise next(iter(missing.values()))
    return done, missing


def _plan(
    models: Mapping[str, Any], tasks: Mapping[str, Any], request: Request
) -> list[tuple[Model, Task]]:
    made: dict[str, Task] = {}
    plan = []
    for model in (factory() for factory in models.values()):
        for name in model.tasks:
            if name in tasks:
                if name not in made:
                    made[name] = registry.make_task(tasks[name], request.limit)
                plan.append((model, made[name]))
    if not plan:
        raise UsageError(
            f"none of the models {', '.join(models)} is for any of the tasks {', '.join(tasks)}",
            hint="`p2u eval list` shows which model is for which task",
        )
    return plan


def _transfers(
    links: Transfers, outcome: Outcome, models: Mapping[str, Model], request: Request,
    report: Report,
) -> None:  # fmt: skip
    from p2u_lab.network.spec import analytic_seconds

    specs = lines(request.bandwidth, request.rtt)
    bits = min((b for b in request.bits if b <= 6), key=lambda b: abs(b - 4), default=4.0)
    seen = set()
    for pair in outcome.pairs:
        if pair.model in seen:
            continue
        seen.add(pair.model)
        size = pair.original_bytes
        quick = [s for s in specs if analytic_seconds(size, s) <= LONGEST]
        if len(quick) < len(specs):
            links.skipped.append(
                (
                    pair.model,
                    f"transfers over {len(specs) - len(quick)} of {len(specs)} lines: the original "
                    f"would take more than {LONGEST:g} s",
                )
            )
        folder = models[pair.model].folder(report)
        links.measure(pair.model, folder, pair.files, quick, bits)
    outcome.skipped += [
        Skipped(model, "transfers", "", None, "unsupported", text) for model, text in links.skipped
    ]


def _written(results: Results, out: Path, cached: int = 0, made: int = 0) -> Done:
    found = verdicts([results.of(*pair) for pair in results.pairs()])
    names = Verdict.__dataclass_fields__
    rows = [{name: getattr(v, name) for name in names} for v in found]
    write_whole(out / "claims.csv", table_csv(rows))
    plots = draw(results, out / "plots")
    write_whole(out / REPORT, page(results, plots).encode())
    return Done(results, found, out / REPORT, cached, made)


def rewrite(folder: Path) -> Iterator[Done]:
    """Make tables, plots and reports of an earlier run again, part by part.

    Raises:
        FormatError: The folder has no run.
        UnsupportedError: matplotlib is missing.
        DiskError: Something cannot be written.
    """
    for part in sorted(path.parent for path in folder.glob(f"*/{RUN}")) or [folder]:
        results = load(part)
        save(results, part)
        yield _written(results, part)


def available(task: Task) -> str:
    """Why a task cannot be run; empty if it can."""
    try:
        task.prepare()
    except (P2UError, ImportError) as error:
        return why(error)[1]
    return ""
