"""The runner: every method of every model on every task, once.

A fault of one cell is noted, and the rest goes on; Ctrl-C loses the cell in work and no other.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from p2u.errors import Cancelled, IntegrityError, P2UError, UnsupportedError
from p2u_lab.base import Method, MissingDataError, Model, Point, Report, Scores, Task
from p2u_lab.cells import Cell, CellPoint, CellStore, Key, Status, folder_digest, model_files

#: What the original is called where a method's name stands.
ORIGINAL = "original"


@dataclass(frozen=True, slots=True)
class Skipped:
    """What was not measured, and why.

    Attributes:
        model: Its name.
        task: Its name; empty if the model as a whole is missing.
        method: Its name; empty if no method could be tried.
        bits: The bits that could not be had; None if none in particular.
        status: ``"unsupported"``, ``"missing"`` or ``"failed"``.
        reason: The error's message, with what to do.
    """

    model: str
    task: str
    method: str
    bits: float | None
    status: Status
    reason: str


@dataclass(frozen=True, slots=True)
class Measured:
    """A point with its scores.

    Attributes:
        point: Bytes and names.
        scores: Of the receiver's files.
        seconds: Of its cell: preparation and scoring of all its points, when it was measured.
    """

    point: CellPoint
    scores: Scores
    seconds: float


@dataclass(slots=True)
class Pair:
    """A model on a task.

    Attributes:
        model: Name.
        source: Where its weights come from.
        task: Name.
        metric: What the mean of the scores is.
        limit: Most items that were asked for.
        original_bytes: Of the publisher's files.
        files: Digest of the publisher's files.
        original: Their scores.
        points: In the order of methods and bits.
    """

    model: str
    source: str
    task: str
    metric: str
    limit: int | None
    original_bytes: int
    files: str
    original: Scores
    points: list[Measured] = field(default_factory=list)


@dataclass(slots=True)
class Outcome:
    """All that a run found.

    Attributes:
        pairs: Models on tasks.
        skipped: What was not measured.
        cached: Cells that were there already.
        made: Cells that were measured in this run.
    """

    pairs: list[Pair] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    cached: int = 0
    made: int = 0


def p2u_version() -> str:
    """P2U's version and the core's ABI, as part of a cell's key."""
    from importlib.metadata import PackageNotFoundError, version

    from p2u.codec.core import ABI_VERSION

    try:
        return f"{version('p2u-models')}/abi{ABI_VERSION}"
    except PackageNotFoundError:
        return f"source/abi{ABI_VERSION}"


def why(error: Exception) -> tuple[Status, str]:
    """An error as a status and one line."""
    text = " ".join(str(error).split())
    if isinstance(error, MissingDataError):
        return "missing", text
    if isinstance(error, UnsupportedError):
        return "unsupported", text
    return "failed", text if isinstance(error, P2UError) else f"{type(error).__name__}: {text}"


class Runner:
    """Measures cells.

    Args:
        store: Finished cells.
        report: Told what is being done.
    """

    def __init__(self, store: CellStore, report: Report = lambda text, done, total: None) -> None:
        self.store = store
        self.report = report
        self.outcome = Outcome()
        self._p2u = p2u_version()

    def pair(
        self,
        model: Model,
        task: Task,
        methods: Mapping[str, Method],
        bits: Sequence[float],
        limit: int | None = None,
    ) -> None:
        """Measure a model on a task with all methods; what cannot be is noted.

        Args:
            model: The model.
            task: One of its tasks.
            methods: By the names that they are asked for.
            bits: For the methods that have a choice.
            limit: The limit that the task was made with.
        """
        with self._noting(model.name, task.name) as fine:
            # Items first: without them there is no need to train.
            self.report(f"{task.name}: items", 0, 0)
            task.prepare()
            self.report(f"{model.name}: weights", 0, 0)
            folder = model.folder(self.report)
            files = folder_digest(folder)
            size = sum(path.stat().st_size for path in model_files(folder))
            self.report(f"{model.name} on {task.name}: {ORIGINAL}", 0, 0)
            original = self._scores(task, limit, folder, files)
            fine.append(folder)
        if not fine:
            return
        pair = Pair(model.name, model.source, task.name, task.metric, limit, size, files, original)
        self.outcome.pairs.append(pair)
        for number, (name, method) in enumerate(methods.items()):
            text = f"{model.name} on {task.name}: {name}"
            self.report(text, number, len(methods))
            column = _Column(self, pair, task, folder, name, method, text)
            column.measure(sorted(set(map(float, bits))))
        self.report(f"{model.name} on {task.name}: done", len(methods), len(methods))

    @contextmanager
    def _noting(self, model: str, task: str) -> Iterator[list[Path]]:
        """Note what goes wrong within."""
        try:
            yield []
        except Cancelled:
            raise
        except Exception as error:  # noqa: BLE001 - one model's fault must not end the others
            status, reason = why(error)
            self.outcome.skipped.append(Skipped(model, task, "", None, status, reason))

    def _scores(self, task: Task, limit: int | None, folder: Path, files: str) -> Scores:
        known = self.store.scores(task.name, task.version, limit, files)
        if known is None:
            known = task.scores(folder)
            self.store.save_scores(task.name, task.version, limit, files, known)
        return known


class _Column:
    """A method of a model on a task: its cells, one per bits and one for all else."""

    def __init__(
        self,
        runner: Runner,
        pair: Pair,
        task: Task,
        folder: Path,
        name: str,
        method: Method,
        text: str,
    ) -> None:
        self.runner, self.pair, self.task, self.folder = runner, pair, task, folder
        self.name, self.method, self.text = name, method, text
        self.done: dict[float | None, Cell] = {}

    def key(self, bits: float | None) -> Key:
        pair, task = self.pair, self.task
        return Key(
            pair.files, task.name, task.version, pair.limit, self.name, self.method.version,
            bits, self.runner._p2u,
        )  # fmt: skip

    def measure(self, bits: Sequence[float]) -> None:
        """Take the cells that are there, make the others, and hand the points over."""
        for known in (None, *bits):
            if (cell := self.runner.store.load(self.key(known))) is not None:
                self.done[known] = cell
        self.runner.outcome.cached += len(self.done)
        missing = [b for b in bits if b not in self.done]
        fixed = self.done.get(None)
        if fixed is None or (missing and fixed.choice):
            known_cells = dict(self.done)
            self._call(missing or list(bits[:1]))
            self.runner.outcome.made += sum(
                cell.status in ("done", "unsupported") and known_cells.get(at) is not cell
                for at, cell in self.done.items()
            )
        self._hand_over(bits)

    def _call(self, bits: Sequence[float]) -> None:
        """Ask for all bits at once; after an error for the rest one by one."""
        error = self._attempt(bits)
        if error is None:
            return
        rest = [b for b in bits if b not in self.done]
        if len(bits) > 1 and rest and not isinstance(error, MissingDataError):
            for b in rest:
                if (error := self._attempt([b])) is not None:
                    self._fail(b, error)
        else:
            self._fail(rest[0] if len(rest) == 1 else None, error)

    def _fail(self, bits: float | None, error: Exception) -> None:
        status, reason = why(error)
        self._finish(bits, Cell(status, reason=reason))

    def _attempt(self, bits: Sequence[float]) -> Exception | None:
        """One call of the method; finished cells are kept as soon as the next one begins."""
        wanted = set(bits)
        found: dict[float | None, list[CellPoint]] = {None: []}
        current: float | None = None
        started = time.perf_counter()
        try:
            trainable = self.task.trainable(self.folder)
            with tempfile.TemporaryDirectory(prefix="p2u-eval-") as work:
                for point in self.method.points(self.folder, Path(work), bits, trainable):
                    at = point.bits if point.bits in wanted else None
                    if at is not None and at != current:
                        if current is not None:
                            self._finish(current, self._cell(found[current], started))
                            started = time.perf_counter()
                        current = at
                    found.setdefault(at, []).append(self._score(point))
        except Cancelled:
            raise
        except Exception as error:  # noqa: BLE001 - one method's fault must not end the others
            return error
        seconds = started
        for b in bits:
            if b not in self.done:
                self._finish(b, self._cell(found.get(b, []), seconds))
        choice = len(found) > 1
        if None not in self.done or choice:
            self._finish(None, self._cell(found[None], seconds, choice=choice))
        return None

    @staticmethod
    def _cell(points: Sequence[CellPoint], started: float, *, choice: bool = True) -> Cell:
        seconds = round(time.perf_counter() - started, 3)
        return Cell("done", tuple(points), seconds=seconds, choice=choice)

    def _score(self, point: Point) -> CellPoint:
        """Score a point; what calls itself exact must be.

        Raises:
            IntegrityError: It is not.
        """
        label = f"{point.method} {point.state}"
        self.runner.report(f"{self.text}: {label}, {point.bits or 0:g} bit", 0, 0)
        files = folder_digest(point.folder)
        if point.exact and files != self.pair.files:
            raise IntegrityError(
                f"{label} is said to be exact, but its files are not the publisher's",
                file=str(point.folder),
            )
        self.runner._scores(self.task, self.pair.limit, point.folder, files)
        return CellPoint(point.method, point.state, point.bits, point.bytes, point.exact, files)

    def _finish(self, bits: float | None, cell: Cell) -> None:
        self.done[bits] = cell
        self.runner.store.save(self.key(bits), cell)

    def _hand_over(self, bits: Sequence[float]) -> None:
        """Give the points to the pair, and what went wrong to the outcome."""
        pair, outcome, task = self.pair, self.runner.outcome, self.task
        seen = set()
        for at in (*bits, None):
            cell = self.done.get(at)
            if cell is None:
                continue
            if cell.status != "done":
                outcome.skipped.append(
                    Skipped(pair.model, pair.task, self.name, at, cell.status, cell.reason)
                )
            for point in cell.points:
                name = (point.method, point.state, point.bits)
                if name in seen or (at is None and cell.choice and point.bits not in (None, *bits)):
                    continue  # of a call with other bits
                seen.add(name)
                scores = self.runner.store.scores(task.name, task.version, pair.limit, point.files)
                assert scores is not None
                pair.points.append(Measured(point, scores, cell.seconds))
