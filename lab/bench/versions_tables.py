"""The tables of docs/versions.md from what `bench_versions.py` kept.

    python lab/bench/versions_tables.py docs/data/versions.csv docs/data/tables

Writes ``versions-sizes.csv``, updates as per cent of the new version's file, and
``versions-speeds.csv``, GB/s of the largest pair that is fine-tuned by some steps.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

OURS, ALONE = "P2U version", "P2U, new alone"
#: The pair whose speeds are shown.
SPEEDS = "step8"


def read(path: Path) -> dict[str, dict[str, dict[str, str]]]:
    """Rows by pair and method."""
    pairs: dict[str, dict[str, dict[str, str]]] = {}
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            pairs.setdefault(row["pair"], {})[row["method"]] = row
    return pairs


def sizes(pairs: dict[str, dict[str, dict[str, str]]]) -> list[list[str]]:
    """A line per pair: all methods, and how many times the best rival is larger than ours."""
    rivals = {m: None for rows in pairs.values() for m in rows if m not in (OURS, ALONE)}
    head = ["pair", "weights changed, %", OURS, "best rival / P2U", *rivals, ALONE]
    lines = [head]
    for pair, rows in pairs.items():

        def percent(method: str, rows: dict[str, dict[str, str]] = rows) -> str:
            return f"{100 * float(rows[method]['fraction']):.3f}" if method in rows else ""

        best = min(int(rows[m]["bytes"]) for m in rivals if m in rows)
        ratio = f"{best / int(rows[OURS]['bytes']):.2f}"
        changed = f"{100 * float(rows[OURS]['changed']):.1f}"
        lines.append([pair, changed, percent(OURS), ratio, *map(percent, rivals), percent(ALONE)])
    return lines


def speeds(pairs: dict[str, dict[str, dict[str, str]]]) -> list[list[str]]:
    """A line per method."""
    rows = pairs[SPEEDS].values()
    return [
        ["method", "encode GB/s", "apply GB/s"],
        *([row["method"], row["encode"], row["apply"]] for row in rows),
    ]


def main() -> int:
    """Command line."""
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    pairs = read(source)
    for name, lines in (("sizes", sizes(pairs)), ("speeds", speeds(pairs))):
        with (folder / f"versions-{name}.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream, lineterminator="\n").writerows(lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
