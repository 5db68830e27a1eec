"""The results of a run, as rows with statistics: the CSV, the JSON, and what is made of them."""

from __future__ import annotations

import csv
import io
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from p2u.errors import FormatError
from p2u_lab.cells import write_whole
from p2u_lab.compare import at_equal_bytes
from p2u_lab.run import ORIGINAL, Outcome, Pair, p2u_version
from p2u_lab.stats import difference, interval

#: The file that all others are made of.
RUN = "run.json"
#: Libraries whose versions a report states, if they are installed.
LIBRARIES = (
    *("numpy", "torch", "transformers", "onnxruntime", "zstandard", "matplotlib", "pillow"),
    *("nncodec", "hqq", "zipnn", "lmzip", "bitsandbytes"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A point with its statistics; scores are parts of 1.

    Attributes:
        model: Name.
        task: Name.
        metric: What the score is.
        items: How many were scored.
        method: Name; ``"original"`` for the publisher's files.
        state: See `p2u_lab.base.Point`.
        bits: Asked for; None where that means nothing.
        bytes: Transmitted from nothing to this point.
        percent: Of the original's bytes.
        score: The mean.
        low: Of its 95 % interval.
        high: Likewise.
        diff: Score less the original's, on the same items.
        diff_low: Of its 95 % interval.
        diff_high: Likewise.
        lost: Items that only the original has right; None if they are not right or wrong.
        gained: Items that only this has right.
        p: McNemar's exact test.
        exact: The files are the publisher's, byte for byte.
        extra: More numbers of the task.
    """

    model: str
    task: str
    metric: str
    items: int
    method: str
    state: str
    bits: float | None
    bytes: int
    percent: float
    score: float
    low: float
    high: float
    diff: float
    diff_low: float
    diff_high: float
    lost: int | None
    gained: int | None
    p: float | None
    exact: bool
    extra: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Results:
    """A run, ready for tables.

    Attributes:
        about: Versions, machine, seeds, what was asked for.
        sources: Model to where its weights come from.
        rows: The original of each model and task first, then methods and bits in order.
        skipped: What was not measured: model, task, method, bits (a list), status, reason.
        equal: P2U compared with rivals at equal bytes, see `p2u_lab.compare.at_equal_bytes`.
        network: Transfers over shaped links, see `p2u_lab.links`.
    """

    about: dict[str, Any]
    sources: dict[str, str]
    rows: list[Row]
    skipped: list[dict[str, Any]]
    equal: list[dict[str, Any]] = field(default_factory=list)
    network: list[dict[str, Any]] = field(default_factory=list)

    def pairs(self) -> list[tuple[str, str]]:
        """Models and tasks, in order."""
        return list(dict.fromkeys((row.model, row.task) for row in self.rows))

    def of(self, model: str, task: str) -> list[Row]:
        """The rows of a model on a task; the original is the first."""
        return [row for row in self.rows if (row.model, row.task) == (model, task)]


def _pair_rows(pair: Pair, seed: int) -> Iterable[Row]:
    base = pair.original
    own = interval(base.values, base.weights, seed=seed)
    yield Row(
        pair.model, pair.task, pair.metric, len(base.values), ORIGINAL, ORIGINAL, None,
        pair.original_bytes, 100.0, own.value, own.low, own.high, 0.0, 0.0, 0.0, 0, 0, 1.0, True,
        base.extra,
    )  # fmt: skip
    for measured in pair.points:
        point, scores = measured.point, measured.scores
        own = interval(scores.values, scores.weights, seed=seed)
        against = difference(scores.values, base.values, base.weights, seed=seed)
        diff = against.interval
        yield Row(
            pair.model, pair.task, pair.metric, len(scores.values), point.method, point.state,
            point.bits, point.bytes, 100 * point.bytes / pair.original_bytes,
            own.value, own.low, own.high, diff.value, diff.low, diff.high,
            against.lost, against.gained, against.p, point.exact, scores.extra,
        )  # fmt: skip


def _together(outcome: Outcome) -> list[dict[str, Any]]:
    """Skipped cells with the same reason as one."""
    found: dict[tuple[str, ...], list[float]] = {}
    for s in outcome.skipped:
        bits = found.setdefault((s.model, s.task, s.method, s.status, s.reason), [])
        if s.bits is not None:
            bits.append(s.bits)
    names = ("model", "task", "method", "status", "reason")
    return [{**dict(zip(names, key, strict=True)), "bits": b} for key, b in found.items()]


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def environment() -> dict[str, Any]:
    """Versions and machine; nothing that tells one run from the next on the same machine."""
    import os

    return {
        "p2u": p2u_version(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count() or 1,
        "libraries": {n: v for n in LIBRARIES if (v := _version(n)) is not None},
    }


def make_results(outcome: Outcome, request: Mapping[str, Any], seed: int) -> Results:
    """Rows and all that a report says.

    Args:
        outcome: What the runner found.
        request: What was asked for, as JSON.
        seed: Of the bootstrap.
    """
    about = {**environment(), "seed": seed, "request": dict(request)}
    rows = [row for pair in outcome.pairs for row in _pair_rows(pair, seed)]
    sources = {pair.model: pair.source for pair in outcome.pairs}
    equal = [found for pair in outcome.pairs for found in at_equal_bytes(pair, seed)]
    return Results(about, sources, rows, _together(outcome), equal)


def table_csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows with the same keys as CSV; floats with six digits after the point."""
    if not rows:
        return b""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return stream.getvalue().encode()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float):
        return f"{value:.6f}".rstrip("0").rstrip(".")
    if isinstance(value, dict):
        return " ".join(f"{k}={_cell(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return " ".join(str(_cell(v)) for v in value)
    return "" if value is None else value


def save(results: Results, folder: Path) -> None:
    """Write ``run.json``, the tables as CSV.

    Raises:
        DiskError: They cannot be written.
    """
    tree = asdict(results)
    write_whole(folder / RUN, (json.dumps(tree, indent=1) + "\n").encode())
    write_whole(folder / "points.csv", table_csv(tree["rows"]))
    for name in ("skipped", "equal", "network"):
        if tree[name]:
            write_whole(folder / f"{name}.csv", table_csv(tree[name]))
        else:
            (folder / f"{name}.csv").unlink(missing_ok=True)


def load(folder: Path) -> Results:
    """Read ``run.json`` again.

    Raises:
        FormatError: It is not there, or not what `save` writes.
    """
    path = folder / RUN
    try:
        tree = json.loads(path.read_bytes())
        rows = [Row(**row) for row in tree.pop("rows")]
        return Results(rows=rows, **tree)
    except FileNotFoundError:
        raise FormatError(
            "is missing", file=str(path), hint="Name the folder of `p2u eval run --out`"
        ) from None
    except (OSError, ValueError, TypeError, KeyError) as e:
        raise FormatError(f"is not a run: {e}", file=str(path)) from e
