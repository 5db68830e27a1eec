"""What `rl_sync` measures with: a slow link, the replicas' processes, what they say, a table."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

import p2u
from p2u.errors import UnsupportedError
from p2u.serve import make_server

#: What is measured of each replica: seconds from when a version could be fetched, and from the
#: trainer's step, until it answers with it; milliseconds in which it could not answer.
COLUMNS = ("fetch_s", "total_s", "pause_ms")


class Teller:
    """A replica's side: lines of JSON for the trainer, which ends it by closing its input."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        sys.stdin.read()
        self.ended.set()

    def sync(self, version: str | None, pause: float) -> None:
        """A version is in use now, after a pause in seconds."""
        print(json.dumps({"version": version, "time": time.time(), "pause": pause}), flush=True)

    def end(self, times: list[float], content: bytes | memoryview) -> None:
        """Seconds of all answers, and the weights' file at the end."""
        digest = hashlib.sha256(content).hexdigest()
        found = {"answers": len(times), "seconds": median(times), "sha256": digest}
        print(json.dumps(found), flush=True)


class Replica:
    """The trainer's side: a process and what it says."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.syncs: dict[str, dict[str, Any]] = {}
        self.end: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            if "version" in event:
                self.syncs.setdefault(event["version"], event)
            else:
                self.end = event

    def finish(self) -> None:
        """Let it end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._thread.join(60)
        self.process.wait(60)


def _shaped_link(mbit: float) -> Any:
    """A link between network namespaces.

    Raises:
        ImportError: The laboratory is not installed.
        UnsupportedError: This machine cannot have such a link.
    """
    from p2u_lab.network.link import Link, check_support

    check_support()
    return Link(mbit=mbit, rtt_ms=20)


class Fleet(contextlib.ExitStack):
    """A server behind a link, replicas behind the other end of it, and when what happened.

    With the laboratory (``p2u-lab``), as root on Linux, the link is a real one with a round trip of
    20 ms (network namespaces); else the server limits its rate. The server's folder is
    ``work / "site"``.
    """

    def __init__(self, work: Path, mbit: float) -> None:
        super().__init__()
        self._work, self._mbit = work, mbit
        self._replicas: dict[str, Replica] = {}
        self._taken: dict[int, float] = {}
        self._published: dict[p2u.sync.Published, float] = {}
        self._size = 0

    def __enter__(self) -> Fleet:
        site, nginx = self._work / "site", self._work / "nginx"
        for folder in (site, nginx):
            folder.mkdir()
        self._work.chmod(0o755)  # nginx has another user
        self._spawn: Callable[..., subprocess.Popen[bytes]]
        try:
            link = self.enter_context(_shaped_link(self._mbit))
            self._url = link.serve(site, nginx)
            self._spawn = lambda command, **o: link.spawn("client", command, **o)
            self.link = f"link of {self._mbit:g} Mbit/s and 20 ms between namespaces"
        except (ImportError, UnsupportedError) as error:
            rate = self._mbit * 1e6 / 8
            server = self.enter_context(make_server(site, limit_rate=rate, quiet=True))
            self._url, self._spawn = server.url, subprocess.Popen
            reason = "p2u-lab is not installed" if isinstance(error, ImportError) else error.message
            self.link = f"server that sends {self._mbit:g} Mbit/s ({reason})"
        return self

    def start(self, roles: Iterable[str], command: list[str]) -> None:
        """Start a replica of each role."""
        pipe = subprocess.PIPE
        for role in roles:
            arguments = [*command, role, f"{self._url}/minilm", str(self._work / role)]
            replica = Replica(self._spawn(arguments, stdin=pipe, stdout=pipe))
            self.callback(replica.process.kill)
            self._replicas[role] = replica

    def publish(self, publisher: p2u.sync.Publisher, model: torch.nn.Module, step: int) -> None:
        """Publish, and keep when the step was taken."""
        self._taken[step] = time.time()
        publisher.publish(model, step)

    def available(self, found: p2u.sync.Published) -> None:
        """Keep when a version was there."""
        self._published[found] = time.time()

    def wait(self, version: str) -> None:
        """Until all replicas have a version."""
        end = time.monotonic() + 120
        while any(version not in replica.syncs for replica in self._replicas.values()):
            ended = any(r.process.poll() is not None for r in self._replicas.values())
            if ended or time.monotonic() > end:
                raise SystemExit(f"a replica did not come to {version}")
            time.sleep(0.05)

    def finish(self, content: bytes) -> None:
        """End the replicas, which must have a file with this content."""
        self._size = len(content)
        print()
        for role, replica in self._replicas.items():
            replica.finish()
            end = replica.end
            if end.get("sha256") != hashlib.sha256(content).hexdigest():
                raise SystemExit(f"{role}: other bytes than the trainer published")
            print(
                f"{role}: {end['answers']} answers, median {1e3 * end['seconds']:.0f} ms; "
                "at the end bit-identical to what was published last"
            )

    def report(self, skipped: int, path: Path | None) -> None:
        """Print the table and what it comes to; write it to a CSV."""
        rows = [self._row(found) for found in self._published if found.step]
        names = list(rows[0])
        for row in (dict(zip(names, names, strict=True)), *rows):
            print("  ".join(f"{row[name]!s:>15}" for name in names))
        size = mean(row["bytes"] for row in rows)
        print(
            f"{len(rows)} syncs, {skipped} replaced by newer ones; on average {size / 1e3:.0f} kB, "
            f"{size / self._size:.4f} of the model's {self._size / 1e6:.1f} MB"
        )
        for name in names[1:]:
            values = [row[name] for row in rows if row[name] != ""]
            print(f"{name:>15}: median {median(values):g}, worst {max(values):g}")
        if path is not None:
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, names, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)

    def _row(self, found: p2u.sync.Published) -> dict[str, Any]:
        """What is known of a version; nothing where a replica left it out."""
        row: dict[str, Any] = {
            "step": found.step,
            "bytes": found.bytes + found.manifest,
            "part": round((found.bytes + found.manifest) / self._size, 5),
            "snapshot_ms": round(1e3 * found.snapshot, 1),
            "encode_s": round(found.seconds, 3),
        }
        for role, replica in self._replicas.items():
            event = replica.syncs.get(found.version)
            values: tuple[object, ...] = ("", "", "")
            if event is not None:
                values = (
                    round(event["time"] - self._published[found], 3),
                    round(event["time"] - self._taken[found.step], 3),
                    round(1e3 * event["pause"], 1),
                )
            row |= {f"{role}_{name}": v for name, v in zip(COLUMNS, values, strict=True)}
        return row
