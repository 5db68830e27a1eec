"""The plots: accuracy against bytes and against time, bytes against method.

PNG, and SVG that is the same bytes for the same figures: no dates, ids from a fixed salt. Colours
are Okabe and Ito's, which people with any colour vision can tell apart; markers and line styles
say the same once more.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2u.errors import UnsupportedError
from p2u_lab.cells import write_whole
from p2u_lab.compare import ours
from p2u_lab.run import ORIGINAL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from p2u_lab.results import Results, Row

#: Text, axes and frames: replaced by the page's own colour in the report.
INK = "#1f2328"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D1F", "#777777")
MARKERS = "osD^vPX*<>hp"
#: Methods that lines are drawn of, most telling first; others are points only.
SHOWN = (
    *("p2u", "p2u+sensitivity+calibration", "minmax-tensor", "minmax-tensor+entropy"),
    *("absmax-channel+entropy", "minmax-channel+entropy", "group32+entropy", "group128+entropy"),
    *("group128", "nncodec+dq", "nncodec", "hqq", "nf4", "bf16", "fp16", "bf16+entropy"),
    *("plain", "zipnn", "lmz"),
)


def _pyplot() -> Any:
    try:
        import matplotlib as mpl
    except ImportError:
        raise UnsupportedError("plots need matplotlib", hint="pip install matplotlib") from None
    mpl.use("Agg", force=False)
    import matplotlib.pyplot as plt

    return plt


@contextmanager
def _style() -> Iterator[Any]:
    plt = _pyplot()
    look = {
        "svg.hashsalt": "p2u", "svg.fonttype": "none", "font.family": "sans-serif",
        "font.size": 10, "axes.grid": True, "grid.alpha": 0.25, "axes.spines.top": False,
        "axes.spines.right": False, "axes.titlesize": 11, "legend.frameon": False,
        "legend.fontsize": 8.5, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK,
        "xtick.color": INK, "ytick.color": INK, "figure.constrained_layout.use": True,
    }  # fmt: skip
    with plt.rc_context(look):
        yield plt


def looks(methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A colour, a marker and a line for each method, the same in all plots of a run."""
    rank = {name: at for at, name in enumerate(SHOWN)}
    order = sorted(dict.fromkeys(methods), key=lambda m: (rank.get(m, len(rank)), m))
    found = {}
    for at, name in enumerate(order):
        found[name] = {
            "color": COLOURS[at % len(COLOURS)],
            "marker": MARKERS[at % len(MARKERS)],
            "linestyle": ("-", "--", ":", "-.")[at // len(COLOURS) % 4],
            "linewidth": 2.4 if ours(name) else 1.2,
            "markersize": 6.5 if ours(name) else 5,
        }
    return found


def _lines(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Points of methods to draw, by line; a state of P2U has a line of its own."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.method in SHOWN:
            name = row.method
            if ours(name) and row.state != "base":
                name = f"{name} {row.state}"
            found.setdefault(name, []).append(row)
    return {name: sorted(line, key=lambda r: r.bytes) for name, line in found.items()}


def accuracy_bytes(plt: Any, results: Results, model: str, task: str) -> Any:
    """Score against bytes received, a line per method; P2U's states are joined by bits."""
    rows = results.of(model, task)
    original, look = rows[0], looks([r.method for r in results.rows])
    figure, axes = plt.subplots(figsize=(7.6, 4.6))
    axes.axhline(100 * original.score, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.axhspan(100 * original.low, 100 * original.high, color=INK, alpha=0.06, linewidth=0)
    for name, line in _lines(rows).items():
        method = line[0].method
        style = dict(look[method])
        if name != method:  # 8bit, exact: hollow, no line
            style |= {"linestyle": "none", "markerfacecolor": "none"}
        x = [r.bytes / 1e6 for r in line]
        y = [100 * r.score for r in line]
        axes.plot(x, y, label=name if ours(method) else method, zorder=4 if ours(method) else 2,
                  **style)  # fmt: skip
        if ours(method):
            spread = [
                [100 * (r.score - r.low) for r in line],
                [100 * (r.high - r.score) for r in line],
            ]
            axes.errorbar(x, y, yerr=spread, fmt="none", ecolor=style["color"], elinewidth=0.8,
                          alpha=0.5)  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("MB received")
    axes.set_ylabel(f"{original.metric}, %")
    axes.set_title(f"{model} on {task}, {original.items} items (dashed: the original, 95 %)")
    _ticks(axes, original.bytes / 1e6, [r.bytes / 1e6 for r in rows])
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _ticks(axes: Any, original: float, found: Sequence[float]) -> None:
    low = min(found)
    marks = [original / 2**k for k in range(8) if original / 2**k >= low / 1.5]
    axes.set_xticks(marks, [f"{m:.3g}" for m in marks])
    axes.minorticks_off()


def _curve(states: Sequence[tuple[float, float]], until: float) -> tuple[list[float], list[float]]:
    """Steps: nothing before the first state, then each state's score until the next."""
    x: list[float] = []
    y: list[float] = []
    for at, score in states:
        if y:
            x.append(at)
            y.append(y[-1])
        x.append(at)
        y.append(score)
    return [*x, max(until, x[-1])], [*y, y[-1]]


def timed(rows: Sequence[Row], bits: float) -> dict[str, list[Row]]:
    """What a receiver comes by, per way to send: P2U's states, or one model."""
    ways: dict[str, list[Row]] = {}
    for r in rows:
        if r.method in ("p2u", "p2u+sensitivity+calibration") and r.bits in (None, bits):
            ways.setdefault(f"{r.method}, {bits:g} bit", []).append(r)
        elif r.method in ("minmax-tensor", "group128+entropy") and r.bits == bits:
            ways[f"{r.method}, {bits:g} bit"] = [r]
        elif r.method in ("bf16", "zipnn", "lmz", "plain"):
            ways.setdefault(r.method, []).append(r)
    if "plain" not in ways:
        ways["plain"] = [r for r in rows if r.method == ORIGINAL]
    return {name: sorted(line, key=lambda r: r.bytes) for name, line in ways.items()}


def accuracy_time(plt: Any, results: Results, model: str, task: str) -> Any:
    """Score against seconds, a panel per line; None if no line was asked for.

    Curves are arithmetic (`p2u_lab.network`); crosses are real transfers, where there are some.
    """
    from p2u_lab.network.spec import LinkSpec, analytic_seconds

    request = results.about["request"]
    rates, rtt = request.get("bandwidth") or [], (request.get("rtt") or [20.0])[0]
    rows = results.of(model, task)
    bits = [r.bits for r in rows if r.method == "p2u" and r.bits is not None]
    if not rates or not bits:
        return None
    middle = min(bits, key=lambda b: abs(b - 4))
    ways, metric = timed(rows, middle), rows[0].metric
    count = len(rates)
    figure, grid = plt.subplots(
        (count + 1) // 2, min(count, 2), figsize=(9.6, 3.2 * ((count + 1) // 2) + 0.5),
        squeeze=False, sharey=True,
    )  # fmt: skip
    for at, rate in enumerate(rates):
        axes = grid.flat[at]
        spec = LinkSpec(rate, rtt)
        until = 1.1 * analytic_seconds(rows[0].bytes, spec)
        for number, (name, line) in enumerate(ways.items()):
            steps = [(analytic_seconds(r.bytes, spec), 100 * r.score) for r in line]
            style = {"color": COLOURS[number % len(COLOURS)], "label": name}
            method = name.split(",")[0]
            width = 2.4 if ours(method) else 1.3
            axes.plot(*_curve(steps, until), linewidth=width, **style)
            axes.plot(*steps[0], marker=MARKERS[number], color=style["color"])
            for t, score in _crosses(results.network, method, line, rate, rtt):
                axes.plot(t, score, marker="x", markersize=8, color=style["color"])
        axes.set_title(f"{rate:g} Mbit/s, round trip {rtt:g} ms")
        axes.set_xlim(left=0)
        axes.set_xlabel("seconds")
    for axes in grid[:, 0]:
        axes.set_ylabel(f"{metric}, %")
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    figure.suptitle(f"{model} on {task}: curves by arithmetic, crosses measured")
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _crosses(
    network: Sequence[Mapping[str, Any]], method: str, line: Sequence[Row], rate: float, rtt: float
) -> Iterator[tuple[float, float]]:
    """Measured seconds of a way's states, with their scores."""
    for row in line:
        for n in network:
            same = (n["model"], n["mbit"], n["rtt_ms"]) == (row.model, rate, rtt)
            state = n["state"] == row.state or (row.exact and n["state"] == "exact")
            bits = n["bits"] is None or n["bits"] == row.bits
            if same and state and bits and n["method"] == method and n["lte_seed"] is None:
                yield n["arrived"] - n["asked"], 100 * row.score


def bytes_method(plt: Any, results: Results, model: str, task: str) -> Any:
    """Bytes of each method at its default, with what the receiver then has."""
    rows = results.of(model, task)
    bits = sorted({r.bits for r in rows if r.bits is not None and r.bits <= 8})
    middle = min(bits, key=lambda b: abs(b - 4)) if bits else None
    chosen = [r for r in rows if r.bits in (None, middle) or r.bits == 16]
    chosen.sort(key=lambda r: (-r.bytes, r.method))
    look = looks([r.method for r in results.rows])
    figure, axes = plt.subplots(figsize=(8.4, 0.24 * len(chosen) + 1.2))
    for at, row in enumerate(chosen):
        hatch = None if row.exact else "///"
        colour, alpha = look[row.method]["color"], 0.85 if row.exact else 0.45
        axes.barh(at, row.percent, color=colour, alpha=alpha, hatch=hatch, edgecolor=colour)
        text = "exact" if row.exact else f"{100 * row.score:.1f} %"
        axes.annotate(f" {row.percent:.1f} % · {text}", (row.percent, at), va="center", fontsize=8)
    names = [r.method if r.state in (r.method, "") else f"{r.method} {r.state}" for r in chosen]
    axes.set_yticks(range(len(chosen)), names, fontsize=8)
    axes.set_xlabel("bytes, % of the original (hatched: lossy)")
    axes.set_xlim(0, 125)
    axes.grid(visible=False, axis="y")
    axes.set_title(f"{model} on {task}: bytes, and the {rows[0].metric} then")
    return figure


PLOTS: dict[str, Callable[[Any, Results, str, str], Any]] = {
    "bytes": accuracy_bytes,
    "time": accuracy_time,
    "methods": bytes_method,
}


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all plots as ``NAME.svg`` and ``NAME.png``; the names are ``MODEL-TASK-KIND``.

    Returns:
        The SVG of each plot.

    Raises:
        UnsupportedError: matplotlib is missing.
        DiskError: A file cannot be written.
    """
    made = {}
    with _style() as plt:
        for model, task in results.pairs():
            for kind, make in PLOTS.items():
                figure = make(plt, results, model, task)
                if figure is None:
                    continue
                name = f"{model}-{task}-{kind}"
                stream = io.BytesIO()
                figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": "p2u"})
                svg = re.sub(r"[ \t]+$", "", stream.getvalue().decode(), flags=re.MULTILINE)
                write_whole(folder / f"{name}.svg", svg.encode())
                stream = io.BytesIO()
                figure.savefig(stream, format="png", dpi=150, metadata={"Software": "p2u"})
                write_whole(folder / f"{name}.png", stream.getvalue())
                plt.close(figure)
                made[name] = svg
    return made
