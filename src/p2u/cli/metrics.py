"""``--metrics``: the numbers of a command as Prometheus text, in a file or over HTTP."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2u.adapters.extras import check_library
from p2u.client.folder import state_file
from p2u.client.transfer.control import Meter
from p2u.disk.errors import disk_errors
from p2u.errors import DiskError, UsageError
from p2u.version import __version__

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from p2u.client.folder.watch import Watched
    from p2u.serve import Answers

#: ``127.0.0.1:9464``, ``[::1]:9464``, ``:9464``; everything else is a path.
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^/\\:\[\]]*):(\d{1,5})")
#: Seconds between two writes of a file while nothing else causes one.
WRITE_EVERY = 15.0


class Metrics:
    """The numbers of one command. Thread-safe.

    Attributes:
        meter: Counts what is fetched.
        answers: Counts what is served; None: nothing is.
    """

    def __init__(self) -> None:
        self.meter = Meter()
        self.answers: Answers | None = None
        self._lock = threading.Lock()
        self._states: Counter[str] = Counter()
        self._seconds: dict[str, float] = {}
        self._here: tuple[str, float] | None = None
        self._errors: Counter[str] = Counter()

    def here(self, state: str) -> None:
        """The folder holds a state, ``"v2@exact"``."""
        with self._lock:
            self._here = state, time.time()

    def reached(self, state: str, seconds: float) -> None:
        """A pull has reached a state so many seconds after it began."""
        label = state.rpartition("@")[2]
        with self._lock:
            self._states[label] += 1
            self._seconds[label] = seconds
        self.here(state)

    def error(self, kind: str) -> None:
        """Something failed: the name of the error's class, or ``"hook"``."""
        with self._lock:
            self._errors[kind] += 1

    def collect(self) -> Iterator[Metric]:
        """All numbers, as the library's registry asks for them."""
        from prometheus_client.core import CounterMetricFamily as Count
        from prometheus_client.core import InfoMetricFamily as Info

        yield Info("p2u_build", "The version of P2U.", value={"version": __version__})
        with self._lock:
            errors = Count("p2u_errors", "Failures, by kind.", labels=["kind"])
            for kind, count in self._errors.items():
                errors.add_metric([kind], count)
        yield errors
        if self.answers is not None:
            yield from _served(self.answers)
            return
        meter = self.meter
        yield Count("p2u_fetched_bytes", "Bytes that came from the store.", value=meter.fetched)
        yield Count("p2u_cached_bytes", "Bytes that came from the cache.", value=meter.cached)
        yield Count("p2u_requests", "Requests made.", value=meter.requests)
        yield Count("p2u_retries", "Requests made again after a failure.", value=meter.retries)
        yield Count(
            "p2u_hash_failures",
            "Objects, chunks and files that came without their digest.",
            value=meter.hash_failures,
        )
        with self._lock:
            yield from self._of_states()

    def _of_states(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily as Count
        from prometheus_client.core import GaugeMetricFamily as Gauge
        from prometheus_client.core import InfoMetricFamily as Info

        states = Count("p2u_states", "States that were reached, by label.", labels=["state"])
        seconds = Gauge(
            "p2u_state_seconds",
            "Seconds from the beginning of the newest pull that reached a state.",
            labels=["state"],
        )
        for label, count in self._states.items():
            states.add_metric([label], count)
            seconds.add_metric([label], self._seconds[label])
        yield states
        yield seconds
        if self._here is not None:
            version, _, label = self._here[0].rpartition("@")
            info = {"version": version, "state": label}
            yield Info("p2u_state", "The state that the folder holds.", value=info)
            yield Gauge(
                "p2u_state_timestamp_seconds",
                "When the folder was first seen to hold its state.",
                value=self._here[1],
            )


def _served(answers: Answers) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily as Count

    yield Count("p2u_served_bytes", "Bytes of bodies that were sent.", value=answers.bytes)
    requests = Count("p2u_served_requests", "Requests, by status.", labels=["status"])
    for status, count in sorted(answers.requests.items()):
        requests.add_metric([str(status)], count)
    yield requests


class Exporter:
    """A file that is kept up to date, or an address that answers; or nothing.

    Attributes:
        metrics: The numbers.
    """

    def __init__(self, target: str | None) -> None:
        if target is not None:
            check_library("prometheus_client", "metrics", "--metrics")
            import prometheus_client
        self.metrics = Metrics()  # whose clock begins now, after the import
        self._path: str | None = None
        self._version: str | None = None
        self._spent = 0.0
        self._server: tuple[Any, threading.Thread] | None = None
        if target is None:
            return
        self._registry = prometheus_client.CollectorRegistry()
        self._registry.register(self.metrics)  # type: ignore[arg-type, unused-ignore]
        address = _ADDRESS.fullmatch(target)
        if address:
            self._serve(address[1].strip("[]") or "0.0.0.0", int(address[2]))
        else:
            self._path = target
            self.write()

    def _serve(self, host: str, port: int) -> None:
        from prometheus_client import start_http_server

        try:
            self._server = start_http_server(port, host, self._registry)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(
                f"cannot listen on {host}, port {port} ({reason})",
                hint="Choose another address for --metrics",
            ) from error

    def write(self) -> None:
        """Replace the file, if there is one.

        Raises:
            DiskError: It cannot be written.
        """
        if self._path is None:
            return
        from prometheus_client import write_to_textfile

        with disk_errors(self._path):
            write_to_textfile(self._path, self._registry)

    def pulled(self, folder: Path) -> None:
        """A pull says that a folder holds a state; one without requests found it there."""
        found = state_file.read(folder)
        if found is not None and self.metrics.meter.requests > 1:  # the manifest takes one
            self.metrics.reached(found.state, self.metrics.meter.seconds)
        elif found is not None:
            self.metrics.here(found.state)
        self.write()

    def watched(self, event: Watched) -> None:
        """A watch reports an event."""
        if event.kind == "commit" and event.state is not None:
            # The times of the states before it, of the same version, are a part of its own.
            self._spent = event.seconds + (self._spent if event.version == self._version else 0.0)
            self._version = event.version
            self.metrics.reached(event.state, self._spent)
        elif event.kind == "error":
            self.metrics.error(event.error)
        elif event.kind == "hook" and event.status:
            self.metrics.error("hook")
        with contextlib.suppress(DiskError):  # a full disk does not end a watch
            self.write()

    def write_now_and_then(self, ended: threading.Event) -> None:
        """Replace the file until the event is set; whoever writes next meets an error."""
        while not ended.wait(WRITE_EVERY):
            with contextlib.suppress(DiskError):
                self.write()

    def close(self) -> None:
        """Answer no more."""
        if self._server is not None:
            server, thread = self._server
            server.shutdown()
            server.server_close()
            thread.join()


@contextmanager
def exported(target: str | None) -> Iterator[Exporter]:
    """Export the numbers of a command for the time of the block, whose error counts, too.

    Args:
        target: A path, or ``HOST:PORT``; None: nothing is exported.

    Raises:
        UnsupportedError: The library is not installed.
        UsageError: The address is taken or not allowed.
        DiskError: The file cannot be written.
    """
    exporter = Exporter(target)
    ended = threading.Event()
    if target is not None:
        threading.Thread(
            target=exporter.write_now_and_then, args=(ended,), daemon=True, name="p2u-metrics"
        ).start()
    try:
        yield exporter
    except Exception as error:
        exporter.metrics.error(type(error).__name__)
        with contextlib.suppress(DiskError):
            exporter.write()
        raise
    except BaseException:  # a signal ends it
        with contextlib.suppress(DiskError):
            exporter.write()
        raise
    else:
        exporter.write()
    finally:
        ended.set()
        exporter.close()
