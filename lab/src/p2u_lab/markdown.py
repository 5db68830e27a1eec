"""Tables of documents, made from kept CSVs: ``python -m p2u_lab.markdown docs/evaluation.md``.

A document has ``<!-- points data/NAME/points.csv -->`` (or ``claims``, ``equal``, ``network``,
``syncs``) before a table and ``<!-- end -->`` behind it; what is between is replaced.
``<!-- csv FILE -->`` is the file as it is. So a number stands in one place, and a test can tell
whether a table is stale.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median

from p2u.errors import FormatError
from p2u_lab.compare import ours

Rows = Sequence[dict[str, str]]

BLOCK = re.compile(r"(<!-- (\w+) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _number(text: str) -> float | None:
    return float(text) if text else None


def _percent(text: str) -> str:
    return f"{100 * float(text):.2f}"


def _spread(row: dict[str, str]) -> str:
    return (
        f"{100 * float(row['diff']):+.2f} "
        f"[{100 * float(row['diff_low']):+.2f}, {100 * float(row['diff_high']):+.2f}]"
    )


def points(rows: Rows) -> str:
    """A grid of methods and bits for each model and task, then the points without bits."""
    out = []
    for pair in dict.fromkeys((r["model"], r["task"]) for r in rows):
        own = [r for r in rows if (r["model"], r["task"]) == pair]
        first = own[0]
        out.append(
            f"**{pair[0]} on {pair[1]}**: the original has {first['metric']} "
            f"{_percent(first['score'])} % [{_percent(first['low'])}, {_percent(first['high'])}] "
            f"on {int(first['items']):,} items, in {int(first['bytes']):,} bytes.\n\n"
        )
        out.append(_grid(own))
        out.append("\n")
        out.append(_others(own))
        out.append("\n")
    return "".join(out)


def _grid(rows: Rows) -> str:
    """Score and bytes, % of the original's: a line per method, a column per bits."""
    chosen = [r for r in rows if r["bits"] and float(r["bits"]) <= 8]
    chosen = [r for r in chosen if not ours(r["method"]) or r["state"] == "base"]
    bits = sorted({float(r["bits"]) for r in chosen})
    cells: dict[str, dict[float, str]] = {}
    for r in chosen:
        name = f"{r['method']} base" if ours(r["method"]) else r["method"]
        text = f"{_percent(r['score'])} ({float(r['percent']):.1f})"
        cells.setdefault(name, {})[float(r["bits"])] = f"**{text}**" if ours(name) else text
    head = ["score, % (bytes, % of the original)", *(f"{b:g} bit" for b in bits)]
    return _table(head, ([name, *(line.get(b, "") for b in bits)] for name, line in cells.items()))


def _others(rows: Rows) -> str:
    """States beyond the base at the bits nearest to 4, and methods without a choice of bits."""
    bits = {float(r["bits"]) for r in rows if ours(r["method"]) and r["bits"]}
    middle = min(bits, key=lambda b: abs(b - 4), default=None)
    chosen = [
        r
        for r in rows
        if (ours(r["method"]) and r["state"] != "base" and _number(r["bits"]) in (None, middle))
        or (not ours(r["method"]) and (not r["bits"] or float(r["bits"]) > 8))
    ]
    return _table(
        ("", "state", "bytes, % of the original", "score, %", "difference [95 %], points"),
        (
            [
                r["method"]
                if not ours(r["method"])
                else f"{r['method']}, base of {r['bits']} bits",
                "exact" if r["exact"] == "1" else r["state"],
                f"{float(r['percent']):.2f}",
                _percent(r["score"]),
                _spread(r),
            ]
            for r in chosen
        ),
    )


def claims(rows: Rows) -> str:
    """Each claim, for how many it was checked and for how many it holds, and where it does not."""
    found: dict[str, list[dict[str, str]]] = {}
    for r in rows:
        found.setdefault(r["claim"], []).append(r)
    lines = []
    for claim, checks in found.items():
        bad = [r for r in checks if r["holds"] != "1"]
        where = "; ".join(
            f"{r['model']}, {r['method']}: {r['ours']} against {r['against']}" for r in bad
        )
        state = "holds" if not bad else "does not hold"
        if bad and len(bad) < len(checks):
            state = "holds with limits"
        lines.append([claim, state, f"{len(checks) - len(bad)} of {len(checks)}", where])
    return _table(("claim", "status", "holds for", "not for (ours against limit)"), lines)


def equal(rows: Rows) -> str:
    """P2U's base at 3 and 4 bits compared with the best that rivals have in as many bytes."""
    best: dict[tuple[str, ...], dict[str, str]] = {}
    for r in rows:
        if r["state"] == "base" and r["method"] == "p2u" and r["bits"] in ("3", "4"):
            key = (r["model"], r["task"], r["bits"])
            if key not in best or float(r["rival_score"]) > float(best[key]["rival_score"]):
                best[key] = r
    return _table(
        ("model", "task", "bits", "bytes", "P2U, %", "best rival in as many bytes",
         "its bytes", "its score, %", "P2U - rival [95 %], points"),
        (
            [r["model"], r["task"], r["bits"], f"{int(r['bytes']):,}", _percent(r["score"]),
             f"{r['rival']} {r['rival_state']}", f"{int(r['rival_bytes']):,}",
             _percent(r["rival_score"]), _spread(r)]
            for r in best.values()
        ),
    )  # fmt: skip


def network(rows: Rows) -> str:
    """Seconds to each state, measured and by arithmetic."""
    return _table(
        (*("model", "line", "method", "state", "bytes"), "seconds", "by arithmetic", "Mbit/s"),
        (
            [r["model"], r["link"], r["method"], r["state"], f"{int(r['bytes']):,}",
             f"{float(r['arrived']) - float(r['asked']):.2f}", f"{float(r['analytic']):.2f}",
             f"{float(r['goodput']):.2f}"]
            for r in rows
        ),
    )  # fmt: skip


def syncs(rows: Rows) -> str:
    """Of what ``examples/rl_sync.py`` writes: median and worst; what a replica left out not."""

    def cell(name: str, unit: str, factor: float = 1) -> str:
        values = [float(row[name]) * factor for row in rows if row[name]]
        return f"{median(values):.3g} ({max(values):.3g}) {unit}"

    head = (f"{len(rows)} syncs", "to fetch", "of the model", "trainer waits", "made in",
            "in use after", "pause")  # fmt: skip
    same = [cell("bytes", "kB", 1e-3), cell("part", "%", 100), cell("snapshot_ms", "ms"),
            cell("encode_s", "s")]  # fmt: skip
    return _table(
        head,
        (
            [words, *same, cell(f"{role}_total_s", "s"), cell(f"{role}_pause_ms", "ms")]
            for role, words in (("live", "live, in place"), ("folder", "folder, loaded again"))
        ),
    )


def plain(rows: Rows) -> str:
    """The CSV itself. Columns whose names differ in spaces at their end only are shown alike."""
    head = list(rows[0]) if rows else []
    return _table([name.strip() for name in head], ([row[name] for name in head] for row in rows))


TABLES: dict[str, Callable[[Rows], str]] = {
    "points": points,
    "claims": claims,
    "equal": equal,
    "network": network,
    "syncs": syncs,
    "csv": plain,
}


def filled(text: str, folder: Path) -> str:
    """A document with its tables made anew.

    Args:
        text: The document.
        folder: The one that the document's paths begin at.

    Raises:
        FormatError: A table or a CSV that it names does not exist.
    """

    def made(block: re.Match[str]) -> str:
        begin, kind, path, end = block.groups()
        try:
            with (folder / path).open(encoding="utf-8", newline="") as stream:
                rows = list(csv.DictReader(stream))
        except OSError as e:
            raise FormatError(e.strerror or str(e), file=path) from e
        if kind not in TABLES:
            raise FormatError(f"there is no table {kind!r}", hint=f"There are {', '.join(TABLES)}")
        return f"{begin}\n{TABLES[kind](rows)}\n{end}"

    return BLOCK.sub(made, text)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        document = Path(name)
        document.write_text(
            filled(document.read_text(encoding="utf-8"), document.parent), encoding="utf-8"
        )
