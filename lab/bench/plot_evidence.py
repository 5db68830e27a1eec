"""The README's plot: task accuracy against bytes, from the kept results of `p2u eval`.

    python lab/bench/plot_evidence.py [docs/evidence.svg]

Reads ``docs/data/*/points.csv``; nothing is measured here.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

DATA = Path(__file__).resolve().parents[2] / "docs" / "data"
#: Title, folders of results, and what is scored.
PANELS = (
    ("MiniLM, retrieval, recall@1", ("minilm",)),
    ("PP-OCR v4, characters right", ("ppocr",)),
    ("EfficientNet-lite0, ImageNet probe", ("lite0", "lite0-calibration")),
    ("ResNet-20, CIFAR-10", ("resnet20-rivals", "resnet20")),
)
#: Method to label, colour and marker; of ours the base and the 8bit state are one line.
STYLES = {
    "p2u": ("P2U: base, 8bit, exact", "#1f5fbf", "o"),
    "p2u+calibration": ("P2U, base calibrated", "#0a2f6b", "D"),
    "minmax-tensor": ("min/max per tensor", "#c44e52", "v"),
    "group128": ("groups of 128", "#dd8452", "s"),
    "hqq": ("HQQ", "#8c6bb1", "P"),
    "nncodec": ("NNCodec", "#55a868", "X"),
    "bf16": ("bf16 cast", "#777777", "*"),
}


def points(folders: tuple[str, ...], method: str) -> list[tuple[float, float]]:
    """Share of the original's bytes and score, both in percent, by size."""
    found = set()
    for folder in folders:
        with (DATA / folder / "points.csv").open(encoding="utf-8", newline="") as stream:
            rows = [r for r in csv.DictReader(stream) if r["method"] == method]
        if method.startswith("p2u"):  # one package: the way of a client through its states
            bits = {r["bits"] for r in rows}
            rows = [r for r in rows if r["bits"] == ("4" if "4" in bits else min(bits))]
        found |= {(float(r["percent"]), 100 * float(r["score"])) for r in rows}
    return sorted(found)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", nargs="?", default=str(DATA.parent / "evidence.svg"))
    out = parser.parse_args().out
    plt.rcParams.update({"svg.hashsalt": "p2u", "font.size": 9})
    figure, axes = plt.subplots(2, 2, figsize=(8.6, 5.6), layout="constrained")
    for axis, (title, folders) in zip(axes.flat, PANELS, strict=True):
        for method, (label, colour, marker) in STYLES.items():
            if not (line := points(folders, method)):
                continue
            ours = method.startswith("p2u")
            axis.plot(
                *zip(*line, strict=True), label=label, color=colour, marker=marker,
                markersize=6 if ours else 5, linewidth=2 if ours else 1, zorder=3 if ours else 2,
            )  # fmt: skip
        axis.set_title(title, fontsize=9)
        axis.set_xscale("log")
        axis.set_xlim(6, 110)
        axis.set_xticks([10, 20, 50, 100], ["10", "20", "50", "100"])
        axis.minorticks_off()
        axis.set_xlabel("bytes received, % of the original")
        axis.set_ylabel("%")
        axis.grid(alpha=0.25)
    handles: dict[str, object] = {}
    for axis in axes.flat:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False
    )
    figure.savefig(out, metadata={"Date": None})
    print(out)


if __name__ == "__main__":
    main()
