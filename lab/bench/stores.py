"""Compare HTTP client libraries and small HTTP servers for P2U, on loopback.

    python lab/bench/stores.py [--size-mib 256] [--repeat 3] [--skip clients|servers|behaviour]

Prints three Markdown tables (quoted in docs/stores.md):

* clients: import time, memory, and throughput of concurrent 4 MiB ranges from a real nginx
  with 1, 4 and 16 threads. Each measurement is a process of its own.
* behaviour: what each client does with servers that are not ideal.
* servers: throughput of the candidates for ``p2u serve`` with 16 threads, and their weight.

Needs nginx (Debian: nginx-light) and ``pip install obstore httpx urllib3 certifi werkzeug uvicorn
starlette aiohttp cheroot``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests" / "support"))  # servers, good and bad

RANGE = 4 << 20
PIECE = 256 << 10
TIMEOUT = 10.0
Fetch = Callable[[str, int, int], int]
CLIENTS = ("obstore", "obstore-whole", "httpx", "urllib3", "p2u")
SERVERS = ("p2u", "werkzeug", "cheroot", "starlette", "aiohttp")


def memory_mib() -> tuple[float, float]:
    """Resident now and at its peak, MiB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    value = {line.split(":")[0]: line.split() for line in lines}
    return int(value["VmRSS"][1]) / 1024, int(value["VmHWM"][1]) / 1024


# --- clients: each returns a function fetch(url, start, length) -> bytes received --------------


def client_obstore(whole: bool = False) -> Fetch:
    import obstore
    from obstore.store import HTTPStore

    stores: dict[str, Any] = {}

    def fetch(url: str, start: int, length: int) -> int:
        base, _, key = url.rpartition("/")
        key, mark, query = key.partition("?")
        store = stores.get(base)
        if store is None:
            store = stores[base] = HTTPStore.from_url(
                base + mark + query,
                client_options={"allow_http": True, "read_timeout": f"{TIMEOUT:.0f}s"},
                retry_config={"max_retries": 0},
            )
        if whole:
            return len(obstore.get_range(store, key, start=start, length=length))
        result = obstore.get(store, key, options={"range": (start, start + length)})
        return sum(len(piece) for piece in result.stream(min_chunk_size=PIECE))

    return fetch


def client_httpx() -> Fetch:
    import httpx

    client = httpx.Client(
        limits=httpx.Limits(max_connections=16, max_keepalive_connections=16),
        timeout=TIMEOUT,
        follow_redirects=True,
    )

    def fetch(url: str, start: int, length: int) -> int:
        headers = {"Range": f"bytes={start}-{start + length - 1}", "Accept-Encoding": "identity"}
        with client.stream("GET", url, headers=headers) as response:
            response.raise_for_status()
            return sum(len(piece) for piece in response.iter_raw(PIECE))

    return fetch


def client_urllib3() -> Fetch:
    import urllib3

    retries = urllib3.Retry(5, connect=0, read=0, respect_retry_after_header=False)
    pool = urllib3.PoolManager(maxsize=16, timeout=TIMEOUT, retries=retries)

    def fetch(url: str, start: int, length: int) -> int:
        headers = {"Range": f"bytes={start}-{start + length - 1}", "Accept-Encoding": "identity"}
        response = pool.request("GET", url, headers=headers, preload_content=False)
        if response.status >= 400:
            raise RuntimeError(f"HTTP {response.status}")
        done = 0
        while piece := response.read1(PIECE, decode_content=False):
            done += len(piece)
        response.release_conn()
        return done

    return fetch


def client_p2u() -> Fetch:
    from p2u.stores import Store, open_store

    open_store("http://127.0.0.1").close()  # imports what is for HTTP now, not when first used
    stores: dict[str, Store] = {}

    def fetch(url: str, start: int, length: int) -> int:
        base, _, key = url.rpartition("/")
        key, mark, query = key.partition("?")
        store = stores.get(base) or stores.setdefault(
            base, open_store(base + mark + query, stall_timeout=TIMEOUT)
        )
        return sum(len(piece) for piece in store.stream(key, start, length))

    return fetch


MAKE: dict[str, Callable[[], Fetch]] = {
    "obstore": client_obstore,
    "obstore-whole": lambda: client_obstore(whole=True),
    "httpx": client_httpx,
    "urllib3": client_urllib3,
    "p2u": client_p2u,
}


def work_throughput(name: str, url: str, size: int, threads: int) -> dict[str, float]:
    """In a fresh process: import, then fetch the object in ranges with so many threads."""
    before = memory_mib()[1]
    start = time.perf_counter()
    fetch = MAKE[name]()
    ready = time.perf_counter()
    imported = memory_mib()[1] - before
    cpu = time.process_time()
    with ThreadPoolExecutor(threads) as pool:
        done = sum(
            pool.map(lambda at: fetch(url, at, min(RANGE, size - at)), range(0, size, RANGE))
        )
    wall = time.perf_counter() - ready
    assert done == size, f"{name}: {done} of {size} bytes"
    return {
        "import_ms": (ready - start) * 1e3,
        "import_mib": imported,
        "peak_mib": memory_mib()[1],
        "mb_s": size / wall / 1e6,
        "cpu_s_per_gb": (time.process_time() - cpu) / (size / 1e9),
    }


def work_behaviour(name: str, url: str) -> dict[str, Any]:
    """In a fresh process: one range request; what came of it and how long it took."""
    global TIMEOUT
    TIMEOUT = 1.0
    fetch = MAKE[name]()
    start = time.perf_counter()
    try:
        found = f"{fetch(url, 1000, 2000)} bytes"
    except Exception as error:
        text = " ".join(str(error).split())
        found = f"{type(error).__name__}: {text}"
    return {"found": found, "seconds": time.perf_counter() - start}


def spawn(*arguments: str) -> dict[str, Any]:
    """Run this script as a worker; its last line is JSON."""
    run = subprocess.run(
        [sys.executable, __file__, "--worker", *arguments],
        stdout=subprocess.PIPE,
        timeout=120,
        check=True,
        text=True,
    )
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result


def table(head: list[str], rows: list[list[str]]) -> None:
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def compare_clients(url: str, size: int, repeat: int) -> None:
    rows = []
    for name in CLIENTS:
        row = [name]
        runs: dict[int, list[dict[str, Any]]] = {}
        for threads in (1, 4, 16):
            runs[threads] = [
                spawn("throughput", name, url, str(size), str(threads)) for _ in range(repeat)
            ]
        every = [run for group in runs.values() for run in group]
        row.append(f"{min(run['import_ms'] for run in every):.0f} ms")
        row.append(f"{min(run['import_mib'] for run in every):.1f}")
        row += [f"{max(run['mb_s'] for run in runs[threads]):.0f}" for threads in runs]
        row.append(f"{min(run['cpu_s_per_gb'] for run in runs[4]):.2f}")
        row += [f"{min(run['peak_mib'] for run in runs[threads]):.1f}" for threads in (4, 16)]
        rows.append(row)
    print(f"## Clients: {size >> 20} MiB in 4 MiB ranges from nginx on loopback\n")
    head = ["client", "import", "import MiB", "1 thread MB/s", "4 threads", "16 threads"]
    table([*head, "CPU s per GB", "peak MiB, 4 threads", "16 threads"], rows)


def compare_behaviour(nginx_url: str) -> None:
    from fault_server import FaultServer

    cases = {
        "Range ignored (200)": "noranges",
        "presigned, HEAD rejected": "signed",
        "redirect": "moved",
        "wrong Content-Range": "wrong-content-range",
        "gzip although identity asked": "gzip",
        "429, Retry-After: 3": "retry-seconds",
        "1 byte each 0.1 s, for 8 s": "drip-body",
        "header, 1 byte each 0.1 s, for 8 s": "drip-header",
    }
    rows = []
    with FaultServer() as faults:
        for title, case in cases.items():
            if case == "signed":
                url = f"{nginx_url}/signed/object?sig=s3cr3t"
            elif case in ("noranges", "moved"):
                url = f"{nginx_url}/{case}/object"
            else:
                url = f"{faults.url}/{case}/object"
            row = [title]
            for name in ("obstore", "httpx", "urllib3", "p2u"):
                out = spawn("behaviour", name, url)
                text = out["found"].replace("|", "/").replace(url, "URL")
                row.append(f"{text[:150]} ({out['seconds']:.1f} s)")
            rows.append(row)
    print("## Behaviour: 2000 bytes asked, time-outs 1 s\n")
    table(["server", "obstore", "httpx", "urllib3", "p2u"], rows)


# --- servers ------------------------------------------------------------------------------------


def wsgi_app(root: str) -> Callable[[Any, Any], Any]:
    """A static folder in the few lines that Werkzeug's own Range support needs."""
    from werkzeug.wrappers import Request, Response
    from werkzeug.wsgi import FileWrapper

    def app(environ: Any, start_response: Any) -> Any:
        path = Path(root, environ["PATH_INFO"].lstrip("/"))
        size = path.stat().st_size
        response = Response(FileWrapper(path.open("rb"), PIECE), direct_passthrough=True)
        response.content_length = size
        response.make_conditional(Request(environ), accept_ranges=True, complete_length=size)
        return response(environ, start_response)

    return app


def serve_werkzeug(root: str, port: int) -> None:
    from werkzeug.serving import WSGIRequestHandler, make_server

    WSGIRequestHandler.log_request = lambda *a, **k: None  # type: ignore[method-assign]
    make_server("127.0.0.1", port, wsgi_app(root), threaded=True).serve_forever()


def serve_cheroot(root: str, port: int) -> None:
    from cheroot.wsgi import Server

    Server(("127.0.0.1", port), wsgi_app(root), numthreads=16).start()


def serve_starlette(root: str, port: int) -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.routing import Mount
    from starlette.staticfiles import StaticFiles

    app = Starlette(routes=[Mount("/", StaticFiles(directory=root))])
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


def serve_aiohttp(root: str, port: int) -> None:
    from aiohttp import web

    app = web.Application()
    app.router.add_static("/", root)
    web.run_app(app, host="127.0.0.1", port=port, print=lambda *_: None)


def serve_p2u(root: str, port: int) -> None:
    from p2u.serve import make_server

    make_server(root, port=port, quiet=True).serve_forever()


def work_server(name: str, root: str, port: int) -> None:
    """In a fresh process: serve; a thread prints the weight once the import is done."""
    before = memory_mib()[1]
    start = time.perf_counter()
    modules = {
        "werkzeug": "werkzeug.serving",
        "cheroot": "cheroot.wsgi",
        "starlette": "starlette.staticfiles",
        "aiohttp": "aiohttp.web",
        "p2u": "p2u.serve",
    }
    __import__(modules[name])
    if name == "starlette":
        __import__("uvicorn")
    if name == "cheroot":
        __import__("werkzeug.wrappers")
    weight = {
        "import_ms": (time.perf_counter() - start) * 1e3,
        "import_mib": memory_mib()[1] - before,
    }
    print(json.dumps(weight), flush=True)
    globals()[f"serve_{name}"](root, port)


def measured_server(name: str, root: Path, size: int) -> list[str]:
    from nginx import free_port

    port = free_port()
    command = [sys.executable, __file__, "--worker", "server", name, str(root), str(port)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        weight = json.loads(server.stdout.readline())
        time.sleep(0.7)
        url = f"http://127.0.0.1:{port}/object"
        speed = [
            max(spawn("throughput", "urllib3", url, str(size), str(n))["mb_s"] for _ in range(2))
            for n in (1, 16)
        ]
        peak = Path(f"/proc/{server.pid}/status").read_text().split("VmHWM:")[1].split()[0]
    finally:
        server.terminate()
        server.wait(timeout=10)
    row = [name, f"{weight['import_ms']:.0f} ms", f"{weight['import_mib']:.1f}"]
    return [*row, *(f"{value:.0f}" for value in speed), f"{int(peak) / 1024:.0f}"]


def compare_servers(root: Path, size: int) -> None:
    rows = [measured_server(name, root, size) for name in SERVERS]
    print("## Servers: 4 MiB ranges fetched by urllib3 on loopback\n")
    head = ["server", "import", "import MiB", "1 thread MB/s", "16 threads MB/s", "peak MiB"]
    table(head, rows)


def worker(arguments: list[str]) -> None:
    kind, name, url = arguments[:3]
    if kind == "throughput":
        print(json.dumps(work_throughput(name, url, int(arguments[3]), int(arguments[4]))))
    elif kind == "behaviour":
        print(json.dumps(work_behaviour(name, url)), flush=True)
        os._exit(0)  # a client that still hangs on to a slow server must not delay the table
    else:
        work_server(name, url, int(arguments[3]))


def pieces(size: int) -> Iterator[bytes]:
    for _ in range(size >> 20):
        yield os.urandom(1 << 20)


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size-mib", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--skip", action="append", default=[])
    options = parser.parse_args()
    from nginx import Nginx

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        size = options.size_mib << 20
        with (root / "object").open("wb") as out:
            out.writelines(pieces(size))
        with Nginx(root) as nginx:
            if "clients" not in options.skip:
                compare_clients(f"{nginx.url}/object", size, options.repeat)
            if "behaviour" not in options.skip:
                compare_behaviour(nginx.url)
        if "servers" not in options.skip:
            compare_servers(root, size)
    assert threading.active_count() == 1


if __name__ == "__main__":
    main()
