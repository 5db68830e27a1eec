"""One client in a process of its own: fetch a model, use it, say when.

    python -m p2u_lab.network.client JOB BEGIN

JOB is `Job` as JSON; BEGIN is the `time.monotonic` at which the process was started. All methods
begin to fetch before the heavy imports, which go on meanwhile, and use the model in the same way.
Prints one line of JSON: see `main`. All times are seconds since BEGIN.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from p2u_lab.network.users import User, make_user

#: Bytes that a downloader takes at a time.
_PIECE = 1 << 18


@dataclass(frozen=True, slots=True)
class Job:
    """What a client does.

    Attributes:
        method: See `offer.METHODS`.
        url: Of the server's root.
        files: Of downloads: see `offer.Offer.files`.
        package: Of P2U: path below the root.
        user, options: See `users.make_user`.
        states: Of P2U: labels of the states that are used, but for those that P2U leaves out on a
            fast line; None: all there are.
        stream: Requests to answer, see `answer_requests`; None: answer once from each state.
    """

    method: str
    url: str
    files: tuple[tuple[str, str], ...] = ()
    package: str = "package"
    user: str = "arrays"
    options: Mapping[str, Any] = field(default_factory=dict)
    states: tuple[str, ...] | None = None
    stream: Mapping[str, Any] | None = None


class Client:
    """A transfer and what became of it; `load` runs in the main thread or alongside requests."""

    def __init__(self, job: Job, begin: float) -> None:
        self.job, self.begin = job, begin
        self.user: User = make_user(job.user, job.options)
        self.ready = threading.Event()
        self.asked = 0.0
        self.received = 0
        #: Of each state, in order: label, bytes on the way to it, and times.
        self.states: list[dict[str, Any]] = []
        self.sha256: Callable[[], str] = lambda: ""
        self.error: BaseException | None = None
        self._open = ExitStack()

    def now(self) -> float:
        """Seconds since the process was started."""
        return time.monotonic() - self.begin

    def run(self) -> None:
        """Fetch and use the model; all states, if nobody else asks for answers."""
        try:
            if self.job.method == "p2u":
                self._follow()
            else:
                self._download()
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.ready.set()

    def close(self) -> None:
        """Remove what was fetched."""
        self._open.close()

    def _use(self, state: dict[str, Any]) -> None:
        """Answer from a state, unless requests are answered anyway."""
        if self.job.stream is None:
            state["answer"] = self.user.answer()
        state["usable"] = self.now()
        self.ready.set()

    def _follow(self) -> None:
        arrived: dict[str, float] = {}
        self.asked = self.now()
        replica = self.user.follow(
            f"{self.job.url}/{self.job.package}",
            lambda label: arrived.update({label: self.now()}),
            straight=False if self.job.states is None else None,
        )
        self._open.enter_context(replica)
        marks = dict(replica.progress.marks)
        for label in replica.states:
            if self.job.states is not None and label not in self.job.states:
                continue
            if label not in marks:  # left out, because the line is fast
                continue
            replica.wait(label)
            state: dict[str, Any] = {"label": label, "bytes": marks[label]}
            self._use(state)
            # The callback that notes it may run an instant after the one that wakes us.
            state["arrived"] = min(arrived.get(label, state["usable"]), state["usable"])
            self.states.append(state)
        replica.wait()
        self.received = replica.progress.done
        self.sha256 = lambda: digest({n: memoryview(d) for n, d in replica.files.items()})

    def _download(self) -> None:
        folder = Path(self._open.enter_context(tempfile.TemporaryDirectory()))
        self.asked = self.now()
        failed: list[BaseException] = []
        ended: list[float] = []

        def fetch_all() -> None:
            try:
                self.received = fetch(self.job.url, folder, self.job.files)
            except BaseException as error:  # noqa: BLE001 - raised again by who waits
                failed.append(error)
            ended.append(self.now())

        thread = threading.Thread(target=fetch_all)
        thread.start()
        from p2u_lab.network.offer import unpacker

        suffixes = {
            Path(sent).suffix for name, sent in self.job.files if _packed(folder, name, sent)
        }
        unpack = {suffix: unpacker(suffix) for suffix in suffixes}
        self.user.prepare()
        self.user.build()
        thread.join()
        if failed:
            raise failed[0]
        for name, sent in self.job.files:
            if packed := _packed(folder, name, sent):
                unpack[packed.suffix](packed, folder / name)
                packed.unlink()
        self.user.load(folder)
        state = {"label": "exact", "bytes": self.received, "arrived": ended[0]}
        self._use(state)
        self.states.append(state)
        names = [name for name, _ in self.job.files]
        self.sha256 = lambda: digest({n: memoryview((folder / n).read_bytes()) for n in names})


def _packed(folder: Path, name: str, sent: str) -> Path | None:
    """Where a file lies that is not yet what it was; None if it is."""
    suffix = Path(sent).suffix
    return None if Path(name).suffix == suffix else folder / (name + suffix)


def fetch(url: str, folder: Path, files: tuple[tuple[str, str], ...]) -> int:
    """Download files over one connection, as any downloader does; returns the bytes.

    Raises:
        StoreError: The server does not have one.
    """
    import urllib3

    from p2u.errors import StoreError

    pool, received = urllib3.PoolManager(), 0
    for name, sent in files:
        target = _packed(folder, name, sent) or folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            pool.request("GET", f"{url}/{sent}", preload_content=False) as response,
            target.open("wb") as out,
        ):
            if response.status != 200:
                raise StoreError(f"the server says {response.status}", file=f"{url}/{sent}")
            for piece in response.stream(_PIECE):
                received += out.write(piece)
    return received


def digest(files: Mapping[str, memoryview]) -> str:
    """SHA-256 of files by name, and of the names."""
    whole = hashlib.sha256()
    for name in sorted(files):
        whole.update(f"{name}\0{hashlib.sha256(files[name]).hexdigest()}\n".encode())
    return whole.hexdigest()


def memory(key: str) -> int:
    """Bytes of this process: ``VmRSS`` now, ``VmHWM`` at the peak (getrusage has the parent's)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{key}:"))


def answer_requests(client: Client, wanted: Mapping[str, Any]) -> list[list[Any]]:
    """Answer requests that come at a steady rate from the process's start, one after the other.

    Args:
        client: Loads the model in another thread.
        wanted: ``rate`` (per second), ``seconds``, ``patience`` (seconds that a request waits) and
            ``order`` (numbers of items, repeated as often as needed).

    Returns:
        Of each request: when it came, when it was answered (None: never), by which state, and how
        right the answer was.
    """
    rate, patience, order = wanted["rate"], wanted["patience"], wanted["order"]
    log: list[list[Any]] = []
    for number in range(round(rate * wanted["seconds"])):
        due = number / rate
        time.sleep(max(0.0, due - client.now()))
        client.ready.wait(max(0.0, due + patience - client.now()))
        if client.error is not None:
            raise client.error
        if not client.ready.is_set() or client.now() > due + patience:
            log.append([due, None, None, 0.0])
            continue
        with client.user.held() as state:
            right = client.user.item(order[number % len(order)])
        log.append([due, client.now(), state, right])
    return log


def main() -> None:
    """Command line; prints what `Client` has, ``sha256`` of the exact files, and peak memory."""
    described, begin = sys.argv[1:]
    job = Job(**json.loads(described))
    client = Client(job, float(begin))
    requests = None
    if job.stream is None:
        client.run()
    else:
        loader = threading.Thread(target=client.run, daemon=True)
        loader.start()
        requests = answer_requests(client, job.stream)
        loader.join()
        if client.error is not None:
            raise client.error
    peak = memory("VmHWM")
    found = {
        "asked": client.asked,
        "received": client.received,
        "states": client.states,
        "sha256": client.sha256(),
        "peak_rss": peak,
        "requests": requests,
    }
    client.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
