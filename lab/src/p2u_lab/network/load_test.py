"""Inference at each state, while a model refines and after: speed and memory.

Needs no root: the rate of the transfer is limited in the client, whose package is a folder.
Each measurement is a process of its own: ``python -m p2u_lab.network.load_test JOB``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from p2u.errors import UnsupportedError, UsageError
from p2u_lab.network.client import memory
from p2u_lab.network.users import User, make_user

#: Calls before anything is measured.
_WARM = 3


@dataclass(frozen=True, slots=True)
class ServingResult:
    """Calls of a model, one after the other.

    Attributes:
        source: ``"plain"``, the publisher's folder, or ``"p2u"``.
        phase: ``"rest"``, or ``"refining"`` while the next state is on its way.
        state: What answered.
        batch: Items per call.
        calls: How many were measured.
        throughput: Items per second.
        p50, p99, worst: Milliseconds per call.
        cpu: Milliseconds of processor time of the calling thread per call, the median: the call's
            cost where torch has one thread, whatever else the machine does.
        peak_rss: Of the phase, in bytes; of the first one, loading included.
        model_rss: The same, less what the process had before it loaded the model.
    """

    source: str
    phase: str
    state: str
    batch: int
    calls: int
    throughput: float
    p50: float
    p99: float
    worst: float
    cpu: float
    peak_rss: int
    model_rss: int


@dataclass(frozen=True, slots=True)
class _Job:
    """One process: of a folder, of a package at one state, or of one that refines."""

    source: str
    path: str
    state: str | None
    user: str
    options: Mapping[str, Any]
    batch: int
    seconds: float


def serving(
    model: Path,
    package: Path,
    *,
    options: Mapping[str, Any],
    user: str = "torch",
    batches: Sequence[int] = (1, 16),
    states: Sequence[str] = ("base", "8bit"),
    seconds: float = 3.0,
    refine_seconds: float = 10.0,
) -> Iterator[ServingResult]:
    """Measure a model as its publisher has it, at states of its package, and while it refines.

    Args:
        model: The publisher's folder.
        package: Its package.
        options: Of the user, see `users.Torch` and `users.Onnx`.
        user: ``"torch"``, or another one that can be told to stop at a state.
        batches: Items per call.
        states: Measured at rest, in addition to the last one.
        seconds: For how long each is called at rest.
        refine_seconds: How long all updates take.

    Raises:
        UnsupportedError: Not Linux, where memory is told in other ways.
        UsageError: A process failed; its last words are in the message.
    """
    if sys.platform != "linux":
        raise UnsupportedError("peak memory is read from Linux's /proc")
    rate = _refining_rate(package, refine_seconds)
    for batch in batches:
        jobs = [_Job("plain", str(model), "exact", user, options, batch, seconds)]
        for state in states:
            still = {**options, "load": {"state": state, "background": False}}
            jobs.append(_Job("p2u", str(package), state, user, still, batch, seconds))
        live = {**options, "load": {"limit_rate": rate}}
        jobs.append(_Job("p2u", str(package), None, user, live, batch, seconds))
        for job in jobs:
            yield from _measure(job)


def _refining_rate(package: Path, seconds: float) -> float:
    """Bytes per second at which everything behind the base takes so long."""
    import p2u

    with p2u.open(package) as replica:
        replica.wait()
        marks = replica.progress.marks
    return max(1.0, (marks[-1][1] - marks[0][1]) / seconds)


def _measure(job: _Job) -> list[ServingResult]:
    command = [sys.executable, "-m", "p2u_lab.network.load_test", json.dumps(asdict(job))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"serving {job.source} failed: {done.stderr[-2000:]}")
    return [ServingResult(**found) for found in json.loads(done.stdout.splitlines()[-1])]


class _Phase:
    """Calls between two moments, and the peak of memory among them."""

    def __init__(self) -> None:
        self.calls: list[float] = []
        self.cpu: list[float] = []
        self.begin = time.perf_counter()

    def call(self, work: Callable[[], Any]) -> None:
        """One more."""
        begin, cpu = time.perf_counter(), time.thread_time()
        work()
        self.cpu.append(time.thread_time() - cpu)
        self.calls.append(time.perf_counter() - begin)

    def result(self, job: _Job, phase: str, state: str, before: int) -> dict[str, Any]:
        """Count; the next phase's peak begins here."""
        span = time.perf_counter() - self.begin
        ordered = sorted(self.calls)
        peak = memory("VmHWM")
        _forget_peak()
        return asdict(
            ServingResult(
                source=job.source,
                phase=phase,
                state=state,
                batch=job.batch,
                calls=len(ordered),
                throughput=job.batch * len(ordered) / span,
                p50=1e3 * ordered[len(ordered) // 2],
                p99=1e3 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
                worst=1e3 * ordered[-1],
                cpu=1e3 * sorted(self.cpu)[len(ordered) // 2],
                peak_rss=peak,
                model_rss=peak - before,
            )
        )


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _phases(user: User, job: _Job, before: int) -> Iterator[dict[str, Any]]:
    """Refine if that goes on, then rest."""

    def work() -> Any:
        return user.run(0, job.batch)

    replica = user.replica
    for _ in range(_WARM):
        work()
    if job.state is None and replica is not None:
        last = replica.states[-1]
        while (state := replica.state) != last:
            phase = _Phase()
            while replica.state == state:
                phase.call(work)
            # The last of these calls waited for the commit, or ran as it ended.
            yield phase.result(job, "refining", str(state), before)
    phase = _Phase()
    while time.perf_counter() < phase.begin + job.seconds:
        phase.call(work)
    yield phase.result(job, "rest", str(replica.state if replica else "exact"), before)


def main() -> None:
    """Command line."""
    job = _Job(**json.loads(sys.argv[1]))
    user = make_user(job.user, job.options)
    if job.source == "plain":
        user.prepare()
        before = memory("VmRSS")
        _forget_peak()
        user.build()
        user.load(Path(job.path))
    else:
        user.prepare()
        before = memory("VmRSS")
        _forget_peak()
        user.follow(job.path)
    found = list(_phases(user, job, before))
    if user.replica is not None:
        user.replica.cancel()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
