"""The processes of the engine ray: a cluster that is there, or one on this machine meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from p2u.disk.scratch import HeldFolder, remove_abandoned
from p2u.errors import UsageError, WorkerError
from p2u.processors import processors

#: Longest folder for temporary files, in bytes: names of sockets have 107 at most, 91 of which are
#: our folder's and Ray's.
LONGEST = 16
#: How often a start is tried: Ray waits 30 seconds for its processes, too few on a busy machine.
STARTS = 3
#: Seconds for which tasks that were cancelled are waited for.
PATIENCE = 10.0


class RayCluster:
    """A connection to workers.

    Args:
        workers: How many may run at the same time; None for as many as there are processors.
        address: Of a cluster; None to start one on this machine.
        memory: Bytes of results that a cluster started here keeps in memory.
    """

    def __init__(self, workers: int | None, address: str | None, memory: int) -> None:
        if address is not None and "://" in address:
            raise UsageError(
                "a Ray client's address was given",
                file=address,
                hint="Run the command on a machine of the cluster, with HOST:PORT or auto",
            )
        self._wanted = workers
        self._address = address
        self._memory = memory
        self._folder: HeldFolder | None = None
        self._ours = False
        self._started = False
        #: How many workers there are.
        self.workers = workers or processors()
        #: Processors of the largest machine.
        self.largest = self.workers

    def start(self) -> None:
        """Connect, unless that is done; a process that uses Ray already keeps its cluster.

        Raises:
            WorkerError: There is no such cluster, or it cannot be started.
        """
        import ray

        if self._started:
            return
        if not ray.is_initialized():
            with _signals_kept(), _quiet():
                self._connect()
        self._started = True
        self.largest = max(
            (int(n["Resources"].get("CPU", 0)) for n in ray.nodes() if n["Alive"]), default=1
        )
        if self._wanted is None:
            self.workers = max(1, int(ray.cluster_resources().get("CPU", 1)))

    def cancel(self, refs: list[Any]) -> None:
        """End tasks and the processes that do them."""
        import ray

        for ref in refs:
            with contextlib.suppress(Exception):
                ray.cancel(ref, force=True)
        with contextlib.suppress(Exception):
            ray.wait(refs, num_returns=len(refs), timeout=PATIENCE, fetch_local=False)

    def close(self) -> None:
        """Disconnect; a cluster that was started here ends."""
        if self._ours:
            import ray

            with _signals_kept():
                ray.shutdown()
            self._ours = False
        self._started = False
        if self._folder is not None:
            _end_processes(str(self._folder.path))
            self._folder.__exit__()
            self._folder = None

    def _connect(self) -> None:
        import ray

        left = 1 if self._address else STARTS
        while True:
            left -= 1
            self._ours = True
            try:
                self._init()
                return
            except (Exception, SystemExit) as error:
                ray.shutdown()
                self.close()
                if not left:
                    raise self._failed(error) from error

    def _failed(self, error: BaseException) -> WorkerError:
        if self._address:
            what, hint = "reached", "Check the cluster with `ray status`"
        else:
            what, hint = "started", "Check memory, and the folder for temporary files"
        said = (str(error) or type(error).__name__).strip().split("\n", 1)[0][:300]
        return WorkerError(f"Ray cannot be {what}: {said}", file=self._address, hint=hint)

    def _init(self) -> None:
        import ray

        common: dict[str, Any] = {
            "configure_logging": False,
            "log_to_driver": False,
            "logging_level": "ERROR",
        }
        if self._address is not None:
            ray.init(address=self._address, **common)
            return
        target = Path(_short_folder(), "p2u-ray")
        remove_abandoned(target)
        self._folder = HeldFolder(target, 0o700).__enter__()
        ray.init(
            address="local",
            num_cpus=self.workers,
            num_gpus=0,
            include_dashboard=False,
            object_store_memory=self._memory,
            _temp_dir=str(self._folder.path),
            **common,
        )


def _end_processes(folder: str) -> None:
    """End the processes of a cluster that was shut down: some take long, and write files again.

    Args:
        folder: Of the cluster alone; all its processes are started with its name.
    """
    begin = time.monotonic()
    while found := [pid for pid, words in _processes() if os.fsencode(folder) in words]:
        late = time.monotonic() - begin
        if late > PATIENCE:
            return
        if late > PATIENCE / 10:
            for pid in found:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _processes() -> Iterator[tuple[int, bytes]]:
    """The id and the words of each process, where the system has files about them (Linux)."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            yield int(path.parent.name), path.read_bytes()


def _short_folder() -> str:
    """The folder for temporary files, or another one if that has a long name."""
    found = tempfile.gettempdir()
    return found if len(os.fsencode(found)) <= LONGEST or not Path("/tmp").is_dir() else "/tmp"


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray sets handlers of its own, which would end a command without our cleaning up."""
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM") if hasattr(signal, name)]
    former = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # not the main thread: Ray has set none, either
            for number, handler in former.items():
                signal.signal(number, handler)


@contextmanager
def _quiet() -> Iterator[None]:
    """No reports of usage over the network, no warnings about what does not concern us."""
    wanted = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
