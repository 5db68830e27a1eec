"""Methods against each other: at equal bytes, and claim by claim."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from p2u_lab.stats import difference

if TYPE_CHECKING:
    from p2u_lab.results import Row
    from p2u_lab.run import Measured, Pair

#: P2U's methods begin with it.
OURS = "p2u"
#: Convolutional nets, of which one claim speaks.
CNNS = ("resnet", "mobilenet", "effnet", "vgg")


def ours(method: str) -> bool:
    """Whether a method is P2U or one of its recipes."""
    return method == OURS or method.startswith(f"{OURS}+")


def at_equal_bytes(pair: Pair, seed: int) -> Iterator[dict[str, Any]]:
    """Each lossy point of P2U compared with the best that each rival has for as many bytes.

    Args:
        pair: A model on a task.
        seed: Of the bootstrap.

    Yields:
        Names, bytes and scores of both; ``diff`` is ours less the rival's on the same items,
        with its 95 % interval. A rival that has no point so small is left out.
    """
    rivals: dict[str, list[Measured]] = {}
    for m in pair.points:
        if not ours(m.point.method):
            rivals.setdefault(m.point.method, []).append(m)
    for m in pair.points:
        if not ours(m.point.method) or m.point.exact:
            continue
        for name, theirs in rivals.items():
            fitting = [t for t in theirs if t.point.bytes <= m.point.bytes]
            if not fitting:
                continue
            best = max(fitting, key=lambda t: (t.scores.mean, -t.point.bytes))
            found = difference(
                m.scores.values, best.scores.values, m.scores.weights, seed=seed
            ).interval
            yield {
                "model": pair.model, "task": pair.task, "method": m.point.method,
                "state": m.point.state, "bits": m.point.bits, "bytes": m.point.bytes,
                "score": m.scores.mean, "rival": name, "rival_state": best.point.state,
                "rival_bytes": best.point.bytes, "rival_score": best.scores.mean,
                "diff": found.value, "diff_low": found.low, "diff_high": found.high,
            }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verdict:
    """A claim about a model on a task.

    Attributes:
        claim: What is claimed, in words.
        model: Name.
        task: Name.
        method: P2U's recipe.
        ours: What P2U has.
        against: What it is held against.
        holds: Whether it is so.
    """

    claim: str
    model: str
    task: str
    method: str
    ours: str
    against: str
    holds: bool


def _score(row: Row) -> str:
    return f"{100 * row.score:.2f} %"


def _change(row: Row) -> str:
    low, high = 100 * row.diff_low, 100 * row.diff_high
    return f"{100 * row.diff:+.2f} [{low:+.2f}, {high:+.2f}]"


def _base(rows: Sequence[Row], bits: float) -> list[Row]:
    return [r for r in rows if ours(r.method) and r.state == "base" and r.bits == bits]


def _eight(rows: Sequence[Row]) -> Iterator[Verdict]:
    claim = "8bit state: no difference to the original (0 lies in the 95 % interval)"
    for r in rows:
        if ours(r.method) and r.state == "8bit":
            name = f"{r.method}, base {r.bits:g} bit" if r.bits is not None else r.method
            holds = r.diff_low <= 0 <= r.diff_high
            yield Verdict(claim, r.model, r.task, name, _change(r), "0", holds)


def _classic(rows: Sequence[Row]) -> Iterator[Verdict]:
    claim = "base at 4 bits: at least the score of direct per-tensor min/max at 4 bits"
    for t in rows:
        if t.method == "minmax-tensor" and t.bits == 4:
            for r in _base(rows, 4):
                holds = r.score >= t.score
                yield Verdict(claim, r.model, r.task, r.method, _score(r), _score(t), holds)


def _within(
    claim: str, bits: float, points: float, wanted: Callable[[Row], bool]
) -> Callable[[Sequence[Row]], Iterator[Verdict]]:
    def check(rows: Sequence[Row]) -> Iterator[Verdict]:
        for r in _base(rows, bits):
            if wanted(r):
                holds = 100 * r.diff >= -points
                limit = f"{-points:+.2f}"
                yield Verdict(claim, r.model, r.task, r.method, _change(r), limit, holds)

    return check


def _share(
    claim: str, bits: float, wanted: Callable[[Row], bool]
) -> Callable[[Sequence[Row]], Iterator[Verdict]]:
    def check(rows: Sequence[Row]) -> Iterator[Verdict]:
        original = rows[0].score
        for r in _base(rows, bits):
            if wanted(r):
                holds = r.score >= 0.9 * original
                least = f"{90 * original:.2f} %"
                yield Verdict(claim, r.model, r.task, r.method, _score(r), least, holds)

    return check


def _sixteen(rows: Sequence[Row]) -> Iterator[Verdict]:
    claim = "8bit state: fewer bytes than a 16-bit cast (of fp32), its score no worse (95 %)"
    for t in rows:
        if t.method in ("bf16", "fp16"):
            for r in rows:
                if ours(r.method) and r.state == "8bit" and r.bits in (None, 4):
                    # No worse: its interval against the original reaches the cast's difference.
                    holds = r.bytes < t.bytes and r.diff_high >= t.diff
                    left = f"{r.percent:.1f} % of the bytes, {_score(r)}"
                    right = f"{t.method}: {t.percent:.1f} %, {_score(t)}"
                    yield Verdict(claim, r.model, r.task, r.method, left, right, holds)


def _crossing(rows: Sequence[Row]) -> Iterator[Verdict]:
    claim = "exact: fewer bytes than a lossy 16-bit cast (of fp32)"
    for t in rows:
        if t.method in ("bf16+entropy", "fp16+entropy", "bf16", "fp16"):
            for r in rows:
                if ours(r.method) and r.exact and r.bits in (None, 4):
                    left, right = f"{r.percent:.1f} %", f"{t.method}: {t.percent:.1f} %"
                    yield Verdict(claim, r.model, r.task, r.method, left, right, r.bytes < t.bytes)


CHECKS: tuple[Callable[[Sequence[Row]], Iterator[Verdict]], ...] = (
    _eight,
    _classic,
    _within(
        "base at 4 bits: within 1 point of the original on CNNs", 4, 1,
        lambda r: r.model.startswith(CNNS) and r.metric == "accuracy",
    ),
    _within(
        "base at 3 bits: within 3 points on ResNet-20/56, CIFAR-10", 3, 3,
        lambda r: r.model.startswith(("resnet20", "resnet56")) and r.task.startswith("cifar10"),
    ),
    _share(
        "base at 3 bits: MiniLM keeps 90 % of the original's retrieval", 3,
        lambda r: r.model.startswith("minilm") and "recall" in r.metric,
    ),
    _share(
        "base at 4 bits: Whisper and MPNet stay usable (90 % of the original's score)", 4,
        lambda r: r.model.startswith(("whisper", "mpnet")),
    ),
    _sixteen,
    _crossing,
)  # fmt: skip


def verdicts(pairs: Sequence[Sequence[Row]]) -> list[Verdict]:
    """All claims, each for all pairs that it speaks of.

    Args:
        pairs: The rows of each model on a task, the original first.
    """
    return [v for check in CHECKS for rows in pairs for v in check(rows)]


def status(found: Sequence[Verdict]) -> str:
    """``"holds"``, ``"holds with limits (5 of 6)"``, ``"does not hold"``."""
    good = sum(v.holds for v in found)
    if good == len(found):
        return "holds"
    return f"holds with limits ({good} of {len(found)})" if good else "does not hold"
