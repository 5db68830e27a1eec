"""Start-up time and peak memory of the client and the packer, each in a process of its own.

python lab/bench/bench_footprint.py [minilm-bf16]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from models import WEIGHTS, cache_dir, read_safetensors

MIB = 1 << 20
HELP = (sys.executable, "-m", "p2u", "--help")
#: Not getrusage: on Linux its peak begins at what the parent had.
CHILD = """
{code}
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


def peak(code: str) -> float:
    """Peak resident memory of a Python process, MiB, the interpreter included (Linux)."""
    out = subprocess.run(
        [sys.executable, "-c", CHILD.format(code=code)], check=True, capture_output=True, text=True
    )
    return int(out.stdout.splitlines()[-1]) / 1024


def seconds(*command: str, runs: int = 5) -> float:
    """Best wall time of a command."""
    best = float("inf")
    for _ in range(runs):
        begin = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        best = min(best, time.perf_counter() - begin)
    return best


def main() -> None:
    """Command line."""
    name = sys.argv[1] if len(sys.argv) > 1 else "minilm-bf16"
    model = cache_dir() / name
    size = (model / WEIGHTS).stat().st_size / MIB
    tensors, _ = read_safetensors(model / WEIGHTS)
    largest = max(t.nbytes for t in tensors.values()) / MIB
    bare = seconds(sys.executable, "-c", "pass")
    python = [sys.executable, "-c", "import p2u"]
    print(f"import p2u          {1000 * (seconds(*python) - bare):6.0f} ms   limit 100")
    print(f"p2u --help          {1000 * seconds(*HELP):6.0f} ms   limit 300")
    with tempfile.TemporaryDirectory() as tmp:
        package, out = Path(tmp, "package"), Path(tmp, "model")
        used = peak(f"import p2u; p2u.pack({str(model)!r}, {str(package)!r})")
        print(f"pack {name:14} {used:6.0f} MiB  limit {2 * largest + 256:.0f}")
        used = peak(f"import p2u; p2u.pull({str(package)!r}, {str(out)!r})")
        print(f"pull {name:14} {used:6.0f} MiB  limit {largest + 64:.0f}")
        code = f"import p2u\nwith p2u.open({str(package)!r}) as r: r.wait('exact'); r.tensors"
        print(f"open {name:14} {peak(code):6.0f} MiB  limit {size + 64:.0f}")


if __name__ == "__main__":
    main()
