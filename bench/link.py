"""A shaped link between two network namespaces: rate by tbf, delay by a small relay.

    with Link(mbit=20, rtt_ms=40) as link:
        link.spawn("server", ["nginx", ...])          # reachable as link.server_ip
        link.run("client", ["python", "client.py"])

Linux, as root, with iproute2. Without a delay the namespaces are joined by a veth pair. With one,
each has a TUN device, and a process between them hands on each packet half a round trip after it
came, so that TCP sees the delay that it would see on a real line (netem is not in every kernel).
The relay is Python: it keeps up to about 100 Mbit/s; above that leave the delay out.
The rate is that of the server's side; the way back has the same.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import os
import random
import selectors
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

#: Milliseconds of data that the queue before the link holds, beside a round trip's.
QUEUE_MS = 50
_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 1, 0x1000
_MTU = 1500


def congestion_control() -> str:
    """The kernel's default congestion control."""
    return Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()


class Link:
    """Two namespaces, ``server`` and ``client``, and the line between them.

    Args:
        mbit: Rate in 1e6 bits per second, each way.
        rtt_ms: Round trip in milliseconds, beside what the queue adds.
        jitter_ms: Each packet waits up to this much longer; the order stays.
        loss: Share of packets that are dropped.
        seed: Of jitter and loss.
    """

    def __init__(
        self,
        mbit: float,
        rtt_ms: float = 0,
        *,
        jitter_ms: float = 0,
        loss: float = 0,
        seed: int = 0,
    ) -> None:
        self._mbit = mbit
        self._rtt = rtt_ms
        self._noise = (jitter_ms, loss, seed)
        self._relayed = rtt_ms > 0 or jitter_ms > 0 or loss > 0
        tag = f"p2u{os.getpid() % 100000}"
        self._names = {"server": f"{tag}s", "client": f"{tag}c"}
        net = 2 * (os.getpid() % 16000)
        self._ips = {
            side: f"10.{200 + net // 16384}.{net // 64 % 256}.{net % 64 * 4 + k + 1}"
            for k, side in enumerate(self._names)
        }
        self.server_ip = self._ips["server"]
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Link:
        try:
            for name in self._names.values():
                _ip("netns", "add", name)
            devices = self._join()
            for side, name in self._names.items():
                _ip("-n", name, "link", "set", "lo", "up")
                device, other = devices[side], self._ips["client" if side == "server" else "server"]
                _ip("-n", name, "link", "set", device, "up", "mtu", str(_MTU))
                _ip("-n", name, "addr", "add", self._ips[side], "peer", other, "dev", device)
                self._shape(name, device)
        except BaseException:
            self.close()
            raise
        return self

    def _join(self) -> dict[str, str]:
        """Connect the namespaces; returns the device of each side."""
        server, client = self._names["server"], self._names["client"]
        if not self._relayed:
            one, two = f"{server}0", f"{client}0"
            _ip("link", "add", one, "netns", server, "type", "veth", "peer", "name", two, "netns", client)  # noqa: E501  # fmt: skip
            return {"server": one, "client": two}
        jitter, loss, seed = self._noise
        command = [sys.executable, __file__, server, client, f"--delay-ms={self._rtt / 2}"]
        command += [f"--jitter-ms={jitter}", f"--loss={loss}", f"--seed={seed}"]
        relay = subprocess.Popen(command, stdout=subprocess.PIPE)
        self._processes.append(relay)
        assert relay.stdout is not None
        if relay.stdout.readline().strip() != b"ready":
            raise RuntimeError("the relay did not start")
        return {"server": "tun0", "client": "tun0"}

    def _shape(self, name: str, device: str) -> None:
        bytes_per_s = self._mbit * 1e6 / 8
        burst = max(4 * _MTU, int(bytes_per_s / 250))
        limit = max(2 * burst, int(bytes_per_s * (QUEUE_MS + self._rtt) / 1000))
        rate = f"{int(self._mbit * 1e6)}bit"
        _run("tc", "-n", name, "qdisc", "add", "dev", device, "root", "tbf", "rate", rate, "burst", str(burst), "limit", str(limit))  # noqa: E501  # fmt: skip

    def spawn(self, side: str, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a program on one side; it ends with the link."""
        full = ["ip", "netns", "exec", self._names[side], *command]
        process = subprocess.Popen(full, **options)
        self._processes.append(process)
        return process

    def run(self, side: str, command: Sequence[str], **options: Any) -> str:
        """Run a program on one side; returns what it printed."""
        full = ["ip", "netns", "exec", self._names[side], *command]
        done = subprocess.run(full, check=True, stdout=subprocess.PIPE, text=True, **options)
        return done.stdout

    def close(self) -> None:
        """End what runs on the link and remove it."""
        for process in reversed(self._processes):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
            process.kill()
            process.wait()
        for name in self._names.values():
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


# --- the relay: a process of its own -----------------------------------------------------------


@contextlib.contextmanager
def _inside(namespace: str) -> Iterator[None]:
    """This thread's network is that of a namespace for the time of the block."""
    libc = ctypes.CDLL(None, use_errno=True)
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if libc.setns(there, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        yield
        libc.setns(own, _CLONE_NEWNET)
    finally:
        os.close(own)
        os.close(there)


def _tun(namespace: str) -> int:
    with _inside(namespace):
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH", b"tun0", _IFF_TUN | _IFF_NO_PI))
    return fd


class _Way:
    """One direction: packets wait here until they are due."""

    def __init__(self, source: int, target: int, options: argparse.Namespace) -> None:
        self.source, self.target = source, target
        self._delay = options.delay_ms / 1000
        self._jitter = options.jitter_ms / 1000
        self._loss = options.loss
        self._random = random.Random(options.seed)
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._last = 0.0

    def take(self) -> None:
        """Read what is there."""
        now = time.monotonic()
        for _ in range(64):
            try:
                packet = os.read(self.source, 1 << 16)
            except BlockingIOError:
                return
            except OSError:
                return  # the device is not up yet, or no more
            if self._loss and self._random.random() < self._loss:
                continue
            due = now + self._delay
            if self._jitter:
                due += self._random.random() * self._jitter
            self._last = due = max(due, self._last)
            self._waiting.append((due, packet))

    def give(self) -> float:
        """Write what is due; returns the seconds until the next is."""
        while self._waiting:
            left = self._waiting[0][0] - time.monotonic()
            if left > 0:
                return left
            with contextlib.suppress(OSError):  # as a real line: what does not fit is lost
                os.write(self.target, self._waiting[0][1])
            self._waiting.popleft()
        return 1.0


def main() -> None:
    """The relay's own command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("namespaces", nargs=2)
    for name in ("delay-ms", "jitter-ms", "loss"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    one, two = (_tun(name) for name in options.namespaces)
    ways = {one: _Way(one, two, options), two: _Way(two, one, options)}
    selector = selectors.DefaultSelector()
    for fd in ways:
        selector.register(fd, selectors.EVENT_READ)
    print("ready", flush=True)
    wait = 1.0
    while True:
        for key, _ in selector.select(wait):
            ways[key.fd].take()
        wait = min(way.give() for way in ways.values())


if __name__ == "__main__":
    main()
