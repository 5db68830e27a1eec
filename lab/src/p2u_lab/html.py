"""One HTML file with everything: plots, tables, versions, what was left out and why.

No network, no scripts: inline SVG, a little CSS, light or dark as the reader's system is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from p2u_lab.compare import Verdict, ours, status, verdicts
from p2u_lab.plots import INK

if TYPE_CHECKING:
    from p2u_lab.results import Results, Row

STYLE = """
:root{color-scheme:light dark;--ink:#1f2328;--paper:#fff;--soft:#656d76;--line:#d0d7de;
--good:#116329;--bad:#a40e26;--stripe:#f6f8fa}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--paper:#0d1117;--soft:#9198a1;
--line:#3d444d;--good:#57d68a;--bad:#ff8f88;--stripe:#151b23}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:2rem auto;
max-width:72rem;padding:0 1rem}
h1{font-size:1.6rem}h2{margin-top:2.5rem;border-bottom:1px solid var(--line)}
svg{max-width:100%;height:auto;color:var(--ink)}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.86rem;
font-variant-numeric:tabular-nums;margin:1rem 0}
th,td{padding:.2rem .6rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
td.text,th.text{text-align:left;white-space:normal}tr.ours{background:var(--stripe);font-weight:600}
.good{color:var(--good)}.bad{color:var(--bad)}.soft{color:var(--soft)}
summary{cursor:pointer;margin:.6rem 0}nav a{margin-right:1rem}
"""


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    text: Sequence[int] = (0,),
    marked: Sequence[bool] = (),
) -> str:
    """An HTML table of plain texts.

    Args:
        head: Columns.
        rows: Cells.
        text: Columns of words, which are aligned to the left.
        marked: Whether each row is one of ours.
    """
    kind = [' class="text"' if at in text else "" for at in range(len(head))]
    out = ['<div class="wide"><table><thead><tr>']
    out += [f"<th{k}>{escape(h)}</th>" for k, h in zip(kind, head, strict=True)]
    out.append("</tr></thead><tbody>")
    for number, row in enumerate(rows):
        mark = ' class="ours"' if number < len(marked) and marked[number] else ""
        cells = "".join(f"<td{k}>{escape(c)}</td>" for k, c in zip(kind, row, strict=True))
        out.append(f"<tr{mark}>{cells}</tr>")
    return "".join([*out, "</tbody></table></div>"])


def inline(svg: str, prefix: str) -> str:
    """An SVG as part of a page: without its head, ids of its own, ink of the page's colour.

    Args:
        svg: As matplotlib writes it.
        prefix: Makes its ids differ from those of the page's other plots.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", body)
    body = re.sub(r'((?:xlink:)?href)="#([^"]+)"', rf'\1="#{prefix}-\2"', body)
    # The paper is the page's; ink follows it.
    body = body.replace("fill: #ffffff", "fill: none")
    return re.sub(INK, "currentColor", body, flags=re.IGNORECASE)


def percent(value: float) -> str:
    """A part of 1 as ``81.03``."""
    return f"{100 * value:.2f}"


def point_cells(row: Row) -> list[str]:
    """A row as cells under `POINT_HEAD`."""
    chance = "" if row.p is None else ("<0.001" if row.p < 0.001 else f"{row.p:.3f}")
    flips = "" if row.lost is None else f"-{row.lost} +{row.gained}"
    return [
        row.method, row.state, "" if row.bits is None else f"{row.bits:g}", f"{row.bytes:,}",
        f"{row.percent:.2f}", percent(row.score),
        f"{percent(row.diff)} [{percent(row.diff_low)}, {percent(row.diff_high)}]",
        flips, chance, "exact" if row.exact else "",
    ]  # fmt: skip


POINT_HEAD = (
    *("method", "state", "bits", "bytes", "% of original", "score, %"),
    *("difference to the original [95 %], points", "items lost, gained", "McNemar p", ""),
)


def claim_rows(found: Sequence[Verdict]) -> list[list[str]]:
    """Each claim once: claim, status, for how many."""
    claims: dict[str, list[Verdict]] = {}
    for v in found:
        claims.setdefault(v.claim, []).append(v)
    return [[claim, status(vs), str(len(vs))] for claim, vs in claims.items()]


def _claims(found: Sequence[Verdict]) -> str:
    if not found:
        return "<p>This run has no points that a claim speaks of.</p>"
    head = ("claim", "model", "task", "method", "ours", "against", "")
    rows = [
        [v.claim, v.model, v.task, v.method, v.ours, v.against, "holds" if v.holds else "does not"]
        for v in found
    ]
    each = table(head, rows, text=(0, 1, 2, 3, 6))
    return (
        table(("claim", "status", "checked on"), claim_rows(found), text=(0, 1))
        + f"<details><summary>one by one</summary>{each}</details>"
    )


def _pair(
    results: Results, model: str, task: str, plots: Mapping[str, str], number: int,
    equal: Sequence[Mapping[str, Any]],
) -> str:  # fmt: skip
    rows = results.of(model, task)
    out = [f'<h2 id="pair{number}">{escape(model)} on {escape(task)}</h2>']
    first = rows[0]
    extra = "".join(f"; {k} {v:.4g}" for k, v in first.extra.items())
    out.append(
        f"<p>The original: {first.bytes:,} bytes, {escape(first.metric)} {percent(first.score)} % "
        f"[{percent(first.low)}, {percent(first.high)}] on {first.items:,} items{escape(extra)}. "
        f"Weights: {escape(results.sources.get(model, ''))}.</p>"
    )
    for name, svg in plots.items():
        if name.rsplit("-", 1)[0] == f"{model}-{task}":
            out.append(f"<figure>{inline(svg, name)}</figure>")
    cells = table(
        POINT_HEAD, map(point_cells, rows), text=(0, 1, 9), marked=[ours(r.method) for r in rows]
    )
    out.append(f"<details><summary>all {len(rows)} points</summary>{cells}</details>")
    mine = [e for e in equal if (e["model"], e["task"]) == (model, task)]
    if mine:
        head = ("P2U", "state", "bits", "bytes", "score, %", "best rival point in as many bytes",
                "its bytes", "its score, %", "ours - its [95 %], points")  # fmt: skip
        lines = [
            [
                e["method"], e["state"], "" if e["bits"] is None else f"{e['bits']:g}",
                f"{e['bytes']:,}", percent(e["score"]), f"{e['rival']} {e['rival_state']}",
                f"{e['rival_bytes']:,}", percent(e["rival_score"]),
                f"{percent(e['diff'])} [{percent(e['diff_low'])}, {percent(e['diff_high'])}]",
            ]
            for e in mine
        ]  # fmt: skip
        out.append(
            "<details><summary>at equal bytes</summary>"
            f"{table(head, lines, text=(0, 1, 5))}</details>"
        )
    return "\n".join(out)


def _network(network: Sequence[Mapping[str, Any]]) -> str:
    if not network:
        return "<p>No transfers were measured in this run: times in the plots are arithmetic.</p>"
    head = (
        *("model", "line", "method", "state", "bytes", "seconds, measured", "by arithmetic"),
        *("first answer, s from process start", "goodput Mbit/s", "congestion control"),
    )
    rows = [
        [
            n["model"], n["link"], n["method"], n["state"], f"{n['bytes']:,}",
            f"{n['arrived'] - n['asked']:.3f}", f"{n['analytic']:.3f}", f"{n['usable']:.3f}",
            f"{n['goodput']:.2f}", n["congestion"],
        ]
        for n in network
    ]  # fmt: skip
    return table(head, rows, text=(0, 1, 2, 3, 9), marked=[ours(n["method"]) for n in network])


def _about(results: Results) -> str:
    about = dict(results.about)
    libraries = about.pop("libraries", {})
    request = about.pop("request", {})
    rows = [[k, str(v)] for k, v in about.items()]
    rows += [[f"library {k}", v] for k, v in libraries.items()]
    rows += [[f"asked: {k}", str(v)] for k, v in request.items()]
    rows += [[f"weights of {k}", v] for k, v in results.sources.items()]
    return table(("", ""), rows, text=(0, 1))


def _skipped(skipped: Sequence[Mapping[str, Any]]) -> str:
    if not skipped:
        return "<p>Nothing that was asked for.</p>"
    head = ("model", "task", "method", "bits", "what", "why")
    rows = [
        [
            s["model"], s["task"], s["method"], " ".join(f"{b:g}" for b in s["bits"]),
            s["status"], s["reason"],
        ]
        for s in skipped
    ]  # fmt: skip
    return table(head, rows, text=(0, 1, 2, 3, 4, 5))


def page(results: Results, plots: Mapping[str, str]) -> str:
    """The report.

    Args:
        results: A run.
        plots: SVG by name, see `p2u_lab.plots.draw`.
    """
    pairs = results.pairs()
    found = verdicts([results.of(*pair) for pair in pairs])
    links = "".join(
        f'<a href="#pair{n}">{escape(m)} · {escape(t)}</a>' for n, (m, t) in enumerate(pairs)
    )
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>P2U evaluation</title><style>{STYLE}</style></head><body>",
        "<h1>P2U evaluation</h1>",
        "<p>Bytes are all that is transmitted from nothing to a point. Differences are to the "
        "original on the same items, with 95 % bootstrap intervals (10,000 resamples, "
        f"seed {results.about.get('seed', 0)}); McNemar's test is exact and two-sided. No "
        "correction for many comparisons is made.</p>",
        f'<nav>{links}<a href="#network">network</a><a href="#skipped">left out</a>'
        '<a href="#about">about this run</a></nav>',
        f"<h2>Claims</h2>{_claims(found)}",
        *(_pair(results, m, t, plots, n, results.equal) for n, (m, t) in enumerate(pairs)),
        f'<h2 id="network">Transfers over shaped links</h2>{_network(results.network)}',
        f'<h2 id="skipped">What was left out, and why</h2>{_skipped(results.skipped)}',
        f'<h2 id="about">About this run</h2>{_about(results)}</body></html>',
    ]
    return "\n".join(parts) + "\n"
