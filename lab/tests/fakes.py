"""A model, a task and methods that keep the contract and take no time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from p2u.errors import UnsupportedError
from p2u_lab.base import Method, MissingDataError, Model, Point, Report, Scores, Task, Trainable

WEIGHTS = np.random.default_rng(7).normal(0, 0.05, (8, 40)).astype("<f4")


def model(root: Path, name: str = "tiny") -> Model:
    """A linear classifier of 8 classes, in a raw file."""

    def folder(report: Report) -> Path:
        root.mkdir(parents=True, exist_ok=True)
        (root / "weights.bin").write_bytes(WEIGHTS.tobytes())
        (root / "config.json").write_text("{}")
        return root

    return Model(name, folder, ("points",), "made here")


class Points(Task):
    """Points; right is the class that the true weights say, with some noise."""

    name, metric = "points", "accuracy"

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.scored: list[str] = []

    def prepare(self) -> None:
        rng = np.random.default_rng(1)
        self.items = rng.normal(size=(200, 40))[: self.limit]
        self.labels = (self.items @ WEIGHTS.T + rng.normal(0, 0.2, (200, 8))[: self.limit]).argmax(
            1
        )

    def scores(self, folder: Path) -> Scores:
        self.scored.append(folder.name)
        weights = np.frombuffer((folder / "weights.bin").read_bytes(), "<f4").reshape(8, 40)
        right = (self.items @ weights.T).argmax(1) == self.labels
        return Scores(right.astype(np.float64), extra={"norm": float(np.abs(weights).sum())})


class NoData(Points):
    name = "nodata"

    def prepare(self) -> None:
        raise MissingDataError("points.npz is missing", hint="get it from nowhere")


def _write(work: Path, weights: np.ndarray) -> Path:
    folder = work / "out"
    folder.mkdir(exist_ok=True)
    (folder / "weights.bin").write_bytes(weights.astype("<f4").tobytes())
    (folder / "config.json").write_text("{}")
    return folder


def _rounded(bits: float) -> np.ndarray:
    step = 2 * np.abs(WEIGHTS).max() / 2**bits
    return (np.round(WEIGHTS / step) * step).astype("<f4")


class Rounding(Method):
    """A choice of bits; ``p2u`` like: base, then exact."""

    name = "p2u"

    def __init__(self, name: str = "p2u") -> None:
        self.name = name
        self.calls: list[tuple[float, ...]] = []

    def points(
        self, model: Path, work: Path, bits: Sequence[float], trainable: Trainable | None
    ) -> Iterator[Point]:
        self.calls.append(tuple(bits))
        assert not list(work.iterdir())
        for b in bits:
            size = int(40 * b)
            folder = _write(work, _rounded(b))
            if self.name != "p2u":
                yield Point(self.name, f"{b:g}bit", b, size + 3, folder)
                continue
            yield Point(self.name, "base", b, size, folder)
            yield Point(self.name, "8bit", b, 330, _write(work, _rounded(10)))
            yield Point(self.name, "exact", b, 1100, _write(work, WEIGHTS), exact=True)


class Cast(Method):
    """No choice of bits."""

    name = "fp16"

    def __init__(self) -> None:
        self.calls = 0

    def points(
        self, model: Path, work: Path, bits: Sequence[float], trainable: Trainable | None
    ) -> Iterator[Point]:
        self.calls += 1
        weights = WEIGHTS.astype(np.float16).astype("<f4")
        yield Point("fp16", "fp16", 16.0, 640, _write(work, weights))


class Plain(Method):
    name = "plain"

    def points(
        self, model: Path, work: Path, bits: Sequence[float], trainable: Trainable | None
    ) -> Iterator[Point]:
        yield Point("plain", "exact", None, 1282, _write(work, WEIGHTS), exact=True)


class Picky(Rounding):
    """Has no 3 bits; falls over at 5."""

    def __init__(self) -> None:
        super().__init__("picky")

    def points(
        self, model: Path, work: Path, bits: Sequence[float], trainable: Trainable | None
    ) -> Iterator[Point]:
        self.calls.append(tuple(bits))
        for b in bits:
            if b == 3:
                raise UnsupportedError("picky has no 3 bits")
            if b == 5:
                raise ZeroDivisionError("oh")
            yield Point(self.name, f"{b:g}bit", b, int(40 * b), _write(work, _rounded(b)))


class Lacking(Method):
    name = "lacking"

    def points(
        self, model: Path, work: Path, bits: Sequence[float], trainable: Trainable | None
    ) -> Iterator[Point]:
        raise MissingDataError("nolib is not installed", hint="pip install nolib")
        yield  # pragma: no cover - makes it an iterator


class Liar(Method):
    name = "liar"

    def points(
        self, model: Path, work: Path, bits: Sequence[float], trainable: Trainable | None
    ) -> Iterator[Point]:
        yield Point("liar", "exact", None, 3, _write(work, _rounded(4)), exact=True)


class Interrupted(Rounding):
    """Ctrl-C while it is at its second bits."""

    def points(
        self, model: Path, work: Path, bits: Sequence[float], trainable: Trainable | None
    ) -> Iterator[Point]:
        for at, point in enumerate(super().points(model, work, bits, trainable)):
            if at == 4:
                raise KeyboardInterrupt
            yield point
