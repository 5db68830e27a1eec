"""What a live model takes to go to another version, measured in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import p2u

FOLLOWS = """
import sys, numpy, p2u, p2u.client.live.replica
def status(key):
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(lines[key].split()[0]) << 10
with p2u.open(sys.argv[1]) as replica:
    replica.wait()
    print("ready", flush=True)
    sys.stdin.readline()
    open("/proc/self/clear_refs", "w").write("5")
    before = status("VmRSS")
    replica.refresh()
    replica.wait()
    print(replica.version, status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux")
def test_a_change_takes_the_memory_of_what_changes(tmp_path: Path) -> None:
    """Two of six tensors; the versions between take nothing more."""
    rng = np.random.default_rng(1)
    tensors = {name: rng.normal(0, 0.02, (2 << 20,)).astype(np.float32) for name in "abcdef"}
    package, model = tmp_path / "pkg", tmp_path / "m.safetensors"

    def publish() -> None:
        save_file(tensors, model)
        p2u.publish(model, package, levels=("base", "exact"))

    publish()
    with subprocess.Popen(
        [sys.executable, "-c", FOLLOWS, str(package)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(p2u.__file__).parent.parent)},
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for _ in range(3):
            for name in "bc":
                tensors[name][::7] += np.float32(1e-4)
            publish()
        out, _ = process.communicate("\n", timeout=120)
    version, more = out.split()
    changed = tensors["b"].nbytes + tensors["c"].nbytes
    assert version == "v4"
    assert int(more) < changed + (20 << 20)
