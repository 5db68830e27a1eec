"""A shaped link between two network namespaces: rate by tbf or by a trace, delay by a relay.

    with Link(mbit=20, rtt_ms=40) as link:
        link.spawn("server", ["nginx", ...])          # reachable as link.server_ip
        link.run("client", ["python", "client.py"])
    print(link.stats())

    with Link(trace=lte_trace(20, 300, seed=1), rtt_ms=50) as link:
        ...

Linux, as root, with iproute2. With a rate alone, the namespaces are joined by a veth pair. Else
each has a TUN device, and `relay.rs` between them hands on each packet half a round trip after it
came, so that TCP sees the delay that it would see on a real line (netem is not in every kernel).
The relay is compiled when it is first needed, by rustc.

A rate is that of the server's side; the way back has the same. A trace limits the way to the client
only, in the relay: behind the server's interface, with a queue that drops what does not fit.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from p2u.errors import StoreError, UnsupportedError
from p2u_lab.network.traces import Trace, format_trace, mean_mbit
from p2u_lab.places import cache_dir

#: Milliseconds of data that the queue before the link holds, in addition to a round trip's.
QUEUE_MS = 50
#: The same before a trace, at its mean rate. Base stations of mobile networks keep that much; with
#: 50 ms, BBR loses a tenth of its packets where the rate falls, and a third of the rate.
TRACE_QUEUE_MS = 250
_MTU = 1500
#: Packets that a TUN device keeps for the relay: 0.1 s of 1 Gbit/s, should the relay have to wait.
_TUN_QUEUE = 10_000
_SOURCE = Path(__file__).with_name("relay.rs")
_CONTROL = "/proc/sys/net/ipv4/tcp_congestion_control"
_CLONE_NEWNET = 0x40000000
#: Root's programs are not always on the path of who calls sudo.
_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"))
_RIGHTS = "Shaped links need Linux, root, iproute2 and /dev/net/tun; containers may lack the rights"
_NGINX = """
daemon off; pid {work}/nginx.pid; error_log {work}/error.log warn; user root; worker_processes 1;
events {{ worker_connections 64; }}
http {{
    access_log off; sendfile on; default_type application/octet-stream;
    client_body_temp_path {work}/a; proxy_temp_path {work}/b; fastcgi_temp_path {work}/c;
    uwsgi_temp_path {work}/d; scgi_temp_path {work}/e;
    server {{ listen {ip}:8000; root {root}; }}
}}
"""


def relay_program() -> Path:
    """The compiled relay; one is kept in the cache folder for each version of the source.

    Raises:
        UnsupportedError: There is no rustc, or it failed.
    """
    source = _SOURCE.read_bytes()
    program = cache_dir() / f"relay-{hashlib.sha256(source).hexdigest()[:16]}"
    if program.is_file():
        return program
    rustc = os.environ.get("RUSTC") or shutil.which("rustc")
    if rustc is None:
        raise UnsupportedError(
            "a link with a delay needs rustc", hint="Install Rust, or set RUSTC to its path"
        )
    program.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=program.parent) as work:
        made = Path(work, "relay")
        _run(rustc, "-O", "-C", "strip=symbols", "--edition", "2021", "-o", str(made), str(_SOURCE))
        made.replace(program)
    return program


def check_support() -> None:
    """Whether this machine can have a shaped link with a server on it, as far as can be seen.

    Raises:
        UnsupportedError: It cannot; the hint says what is missing.
    """
    if sys.platform != "linux":
        raise UnsupportedError("shaped links need Linux's network namespaces")
    if os.geteuid() != 0:
        raise UnsupportedError(
            "shaped links need root, for network namespaces",
            hint="Run it with sudo; all other parts of the evaluation work without",
        )
    lacking = [name for name in ("ip", "tc") if shutil.which(name, path=_PATH) is None]
    if shutil.which("nginx", path=_PATH) is None:
        lacking.append("nginx")
    if not os.environ.get("RUSTC") and shutil.which("rustc") is None:
        lacking.append("rustc")
    if lacking:
        raise UnsupportedError(
            f"shaped links need {', '.join(lacking)}",
            hint="Debian: apt-get install iproute2 nginx-light rustc",
        )
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        raise UnsupportedError("shaped links need /dev/net/tun", hint=_RIGHTS)


class Link:
    """Two namespaces, ``server`` and ``client``, and the line between them.

    Args:
        mbit: Rate in 1e6 bits per second, each way; not together with a trace.
        rtt_ms: Round trip in milliseconds, in addition to what the queue adds.
        jitter_ms: Each packet waits up to this much longer; the order stays.
        loss: Share of packets that are dropped.
        seed: Of jitter and loss.
        trace: Rates of the way to the client, see `traces.py`; begins when the link is there, and
            again with `restart_trace`, and repeats itself.
        queue_ms: Milliseconds of data that the queue before the link holds in addition to a round
            trip's; with a trace, at its mean rate. 50, and 250 with a trace.
        congestion: Congestion control of both sides; None: the kernel's default.
    """

    def __init__(
        self,
        mbit: float | None = None,
        rtt_ms: float = 0,
        *,
        jitter_ms: float = 0,
        loss: float = 0,
        seed: int = 0,
        trace: Trace | None = None,
        queue_ms: float | None = None,
        congestion: str | None = None,
    ) -> None:
        if (mbit is None) == (trace is None):
            raise ValueError("a link has either a rate or a trace")
        self._mbit, self._trace = mbit, trace
        usual = QUEUE_MS if trace is None else TRACE_QUEUE_MS
        self._queue_ms = usual if queue_ms is None else queue_ms
        self._rtt = rtt_ms
        self._noise = (jitter_ms, loss, seed)
        self._congestion = congestion
        self._relayed = trace is not None or rtt_ms > 0 or jitter_ms > 0 or loss > 0
        tag = f"p2u{os.getpid() % 100000}"
        self._names = {"server": f"{tag}s", "client": f"{tag}c"}
        net = 2 * (os.getpid() % 16000)
        self._ips = {
            side: f"10.{200 + net // 16384}.{net // 64 % 256}.{net % 64 * 4 + k + 1}"
            for k, side in enumerate(self._names)
        }
        self.server_ip = self._ips["server"]
        self._processes: list[subprocess.Popen[bytes]] = []
        self._relay: subprocess.Popen[bytes] | None = None
        self._stats: dict[str, Any] = {}

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
                if self._relayed:
                    _ip("-n", name, "link", "set", device, "txqueuelen", str(_TUN_QUEUE))
                if self._mbit is not None:
                    self._shape(name, device, self._mbit)
                if self._congestion is not None:
                    self._control(name, self._congestion)
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
        self._relay = self._start_relay(server, client)
        return {"server": "tun0", "client": "tun0"}

    def _start_relay(self, server: str, client: str) -> subprocess.Popen[bytes]:
        jitter, loss, seed = self._noise
        command = [str(relay_program()), server, client, "--delay-ms", str(self._rtt / 2)]
        command += ["--jitter-ms", str(jitter), "--loss", str(loss), "--seed", str(seed)]
        with tempfile.NamedTemporaryFile("w", suffix=".trace") as file:
            if self._trace is not None:
                file.write(format_trace(self._trace))
                file.flush()
                queue = self._queue_bytes(mean_mbit(self._trace))
                command += ["--trace", file.name, "--queue-bytes", str(queue)]
            # Its own session: Ctrl-C ends it through the link, so that it still counts.
            pipe = subprocess.PIPE
            relay = subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True)
            assert relay.stdout is not None
            if relay.stdout.readline().strip() != b"ready":
                relay.wait()
                raise UnsupportedError("the relay did not start", hint=_RIGHTS)
            # A line does not wait for a processor. Where that is not allowed, `late` tells.
            with contextlib.suppress(OSError):
                os.sched_setscheduler(relay.pid, os.SCHED_RR, os.sched_param(1))
        return relay

    def _queue_bytes(self, mbit: float) -> int:
        """What waits before the link, at most."""
        return max(16 * _MTU, int(mbit * 125 * (self._queue_ms + self._rtt)))

    def _shape(self, name: str, device: str, mbit: float) -> None:
        burst = max(4 * _MTU, int(mbit * 1e6 / 8 / 250))
        limit = max(2 * burst, self._queue_bytes(mbit))
        rate = f"{int(mbit * 1e6)}bit"
        _run("tc", "-n", name, "qdisc", "add", "dev", device, "root", "tbf", "rate", rate, "burst", str(burst), "limit", str(limit))  # noqa: E501  # fmt: skip

    def _control(self, name: str, wanted: str) -> None:
        """Set the congestion control of one side; a namespace has its own."""
        _run("ip", "netns", "exec", name, "sh", "-c", f"echo {shlex.quote(wanted)} > {_CONTROL}")

    def congestion_control(self) -> str:
        """What the server's side uses."""
        return self.run("server", ["cat", _CONTROL]).strip()

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
        return str(done.stdout)

    def serve(self, root: Path, work: Path) -> str:
        """Start nginx on the server's side; returns the URL of a folder as soon as it answers.

        Args:
            root: The folder.
            work: Another one, for nginx.

        Raises:
            UnsupportedError: There is no nginx.
            StoreError: It does not answer.
        """
        config = work / "nginx.conf"
        config.write_text(_NGINX.format(work=work, ip=self.server_ip, root=root))
        nginx = shutil.which("nginx", path=_PATH)
        if nginx is None:
            raise UnsupportedError(
                "nginx is not installed", hint="Debian: apt-get install nginx-light"
            )
        self.spawn("server", [nginx, "-c", str(config), "-p", str(work)])
        with self.inside("client"):
            for _ in range(50):
                with contextlib.suppress(OSError):
                    socket.create_connection((self.server_ip, 8000), 5).close()
                    return f"http://{self.server_ip}:8000"
                time.sleep(0.1)
        raise StoreError(f"nginx does not answer: {(work / 'error.log').read_text()}")

    @contextlib.contextmanager
    def inside(self, side: str) -> Iterator[None]:
        """The network of one side is that of this thread, and of threads that it starts."""
        import ctypes  # os.setns came with Python 3.12

        libc = ctypes.CDLL(None, use_errno=True)
        with (
            open("/proc/thread-self/ns/net", "rb") as own,
            open(f"/run/netns/{self._names[side]}", "rb") as there,
        ):
            if libc.setns(there.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            try:
                yield
            finally:
                libc.setns(own.fileno(), _CLONE_NEWNET)

    def restart_trace(self) -> None:
        """The trace begins anew now, so that the next to be measured meets the same rates."""
        assert self._trace is not None
        assert self._relay is not None
        assert self._relay.stdin is not None
        self._relay.stdin.write(b"\n")
        self._relay.stdin.flush()

    def stats(self) -> dict[str, Any]:
        """What passed, once the link is closed; empty for a link without a relay.

        ``seconds`` and ``cpu_seconds`` of the relay, and of each way (``down`` is to the client)
        ``packets`` and IP ``bytes`` handed on, packets ``lost`` (by the share asked for),
        ``dropped`` (by a full queue of the trace, or not taken by the other side), ``late`` (handed
        on more than 1 ms after their time) and ``unread`` (the relay did not come to read them).
        The last two are 0 where the relay kept up.
        """
        return self._stats

    def _end_relay(self, relay: subprocess.Popen[bytes]) -> None:
        """Let it count, then go: it ends when its standard input does."""
        try:
            shown = [
                _run("ip", "-j", "-s", "-n", name, "link", "show", "tun0")
                for name in self._names.values()
            ]
            out, _ = relay.communicate(timeout=5)
            self._stats = json.loads(out)
            for way, text in zip(("down", "up"), shown, strict=True):
                self._stats[way]["unread"] = json.loads(text)[0]["stats64"]["tx"]["dropped"]
        finally:
            relay.kill()
            relay.wait()

    def close(self) -> None:
        """End what runs on the link and remove it."""
        for process in reversed(self._processes):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
            process.kill()
            process.wait()
        try:
            if self._relay is not None:
                self._end_relay(self._relay)
        finally:
            self._relay = None
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


def _run(*command: str) -> str:
    """Run a command; returns what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnsupportedError(f"{' '.join(command)}: {done.stderr.strip()}", hint=_RIGHTS)
    return done.stdout
