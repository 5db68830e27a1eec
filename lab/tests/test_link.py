"""The shaped link: the traces, and the line itself as root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from p2u.errors import UnsupportedError
from p2u_lab.network import link, traces

TUN = Path("/dev/net/tun")

SERVER = """
import socket, sys
server = socket.create_server((sys.argv[1], 9000))
print("up", flush=True)
while True:
    client, _ = server.accept()
    client.sendall(bytes(int(client.recv(20))))
    client.close()
"""
# Prints the best of some times to connect in ms, and the seconds until so many bytes were here.
CLIENT = """
import json, socket, sys, time
ip, size = sys.argv[1], sys.argv[2]
times = []
for wanted in ["0"] * 5 + [size]:
    begin = time.perf_counter()
    with socket.create_connection((ip, 9000), 5) as line:
        times.append(time.perf_counter() - begin)
        line.sendall(wanted.encode())
        begin, got = time.perf_counter(), 0
        while part := line.recv(1 << 16):
            got += len(part)
print(json.dumps([min(times) * 1e3, time.perf_counter() - begin, got]))
"""


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty one, so that the relay is compiled."""
    monkeypatch.setenv("P2U_EVAL_CACHE", str(tmp_path))


def needs_the_line() -> None:
    """Skips where namespaces cannot be joined; a container may have root and still not."""
    if sys.platform != "linux" or os.geteuid() != 0 or not os.access(TUN, os.R_OK | os.W_OK):
        pytest.skip("needs Linux, root and TUN devices")
    missing = [name for name in ("ip", "tc", "rustc") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {missing}")
    name = f"p2utest{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        pytest.skip("root may not make network namespaces here")
    subprocess.run(["ip", "netns", "del", name], check=True)


def fetch(line: link.Link, size: int) -> tuple[float, float]:
    """Milliseconds to connect, and seconds that so many bytes took."""
    out = line.run("client", [sys.executable, "-c", CLIENT, line.server_ip, str(size)])
    connect, seconds, got = json.loads(out)
    assert got == size
    return connect, seconds


def serve(line: link.Link) -> None:
    server = line.spawn(
        "server", [sys.executable, "-c", SERVER, line.server_ip], stdout=subprocess.PIPE
    )
    assert server.stdout.readline() == b"up\n"


def test_a_made_up_mobile_line_is_the_same_everywhere() -> None:
    trace = traces.lte_trace(20, 60, seed=1)
    assert trace == traces.lte_trace(20, 60, seed=1) != traces.lte_trace(20, 60, seed=2)
    assert [mbit for _, mbit in trace[:4]] == [16.697, 14.43, 8.964, 12.716]
    assert sum(s for s, _ in trace) == pytest.approx(60)
    assert traces.mean_mbit(trace) == pytest.approx(20, abs=1e-3)
    rates = sorted(mbit for _, mbit in trace)
    assert rates[0] < 4, "no fade in a minute"
    assert rates[-1] > 40, "never twice the mean"
    assert traces.read_trace(traces.format_trace(trace)) == trace


@pytest.mark.parametrize("text", ["", "1 2 3\n", "1\n", "one 2\n"])
def test_a_trace_is_two_numbers_per_line(text: str) -> None:
    with pytest.raises(ValueError):
        traces.read_trace(text)


def test_a_link_has_a_rate_or_a_trace() -> None:
    for options in ({}, {"mbit": 5, "trace": [(1, 5)]}):
        with pytest.raises(ValueError, match="either"):
            link.Link(**options)


def test_who_has_no_rustc_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUSTC", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UnsupportedError, match="needs rustc"):
        link.relay_program()


@pytest.mark.slow
def test_the_line_has_its_delay_rate_losses_and_trace(tmp_path: Path) -> None:
    needs_the_line()
    with link.Link(40, 30, loss=0.01, seed=4) as line:
        serve(line)
        connect, seconds = fetch(line, 1_000_000)
    # Bounds that a busy machine keeps: nothing is faster than the line, and little is much slower.
    assert 28 < connect < 60
    assert 0.18 < seconds < 2.5
    stats = line.stats()
    assert 1_000_000 < stats["down"]["bytes"] < 1_300_000
    assert 0 < stats["down"]["lost"] < 40
    assert stats["down"]["unread"] == 0
    assert stats["cpu_seconds"] < stats["seconds"]
    (program,) = tmp_path.glob("relay-*")
    made = program.stat().st_mtime_ns

    # 8 Mbit/s for 0.2 s, then nothing for 0.2 s: 0.4 MB and headers meet two pauses at least.
    with link.Link(trace=[(0.2, 8), (0.2, 0)], rtt_ms=10) as line:
        serve(line)
        line.restart_trace()
        _, seconds = fetch(line, 400_000)
    assert 0.8 < seconds < 6
    assert line.stats()["down"]["packets"] > 270
    assert program.stat().st_mtime_ns == made, "compiled twice"
    names = subprocess.run(["ip", "netns"], check=True, capture_output=True, text=True).stdout
    assert line._names["server"] not in names
