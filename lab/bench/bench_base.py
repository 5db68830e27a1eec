"""How good the low-precision states are: embeddings of MiniLM at each state against the original.

    python lab/bench/bench_base.py [minilm-bf16 ...] [--bits 3.5]

48 texts out of Python's own manual (`pydoc_data.topics`), cosine between the embedding that a state
gives and the one of the fp32 original, mean and minimum; bytes as a fraction of the original's.
With ``--plot FILE.svg`` the last model's states as a picture.
"""

from __future__ import annotations

import argparse
import pydoc_data.topics
import re
import sys
import tempfile
from pathlib import Path

from bench_codec import MINILM
from models import cache_dir

import p2u

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
from minilm import MiniLM


def texts(count: int = 48) -> list[str]:
    """Paragraphs of prose, one of each topic."""
    out = []
    for _, topic in sorted(pydoc_data.topics.topics.items()):
        for paragraph in re.split(r"\n\s*\n", topic):
            words = paragraph.split()
            if 20 <= len(words) <= 80 and paragraph.strip().endswith("."):
                out.append(" ".join(words))
                break
    return out[:count]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="*", default=MINILM)
    parser.add_argument("--bits", type=float, default=3.5)
    parser.add_argument("--plot", type=Path, help="draw the last model's states to this file")
    args = parser.parse_args()
    words = texts()
    reference = MiniLM.from_directory(cache_dir() / "minilm-fp32").embed(words)
    for name in args.models:
        with tempfile.TemporaryDirectory() as tmp:
            package, out = Path(tmp, "package"), Path(tmp, "model")
            report = p2u.pack(cache_dir() / name, package, bits=args.bits)
            print(f"\n{name}, {len(words)} texts")
            points = []
            for state in report.states:
                p2u.pull(package, out, until=state.label)
                cosine = (MiniLM.from_directory(out).embed(words) * reference).sum(1)
                points.append((state.label, state.fraction, float(cosine.mean())))
                print(
                    f"  {state.label:6} {100 * state.fraction:6.2f} % {state.bits:7.3f} bits/weight"
                    f"  cosine mean {cosine.mean():.4f} min {cosine.min():.4f}"
                )
        if args.plot:
            plot(name, points, args.plot)


def plot(name: str, points: list[tuple[str, float, float]], path: Path) -> None:
    """Quality against bytes received: one step per state, compared with the plain download."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "p2u"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 2.8), layout="constrained")
    x = [0.0, *(100 * p[1] for p in points), 105.0]
    axes.step(x, [0.0, *(p[2] for p in points), 1.0], where="post", color="tab:green", lw=2)
    axes.step([0, 100, 105], [0, 1, 1], where="post", color="tab:gray", ls="--", lw=1.5)
    for label, fraction, cosine in points:
        axes.plot(100 * fraction, cosine, "o", color="tab:green")
        axes.annotate(
            f"{label}\n{100 * fraction:.1f} %", (100 * fraction, cosine), (4, -26),
            textcoords="offset points", fontsize=9,
        )  # fmt: skip
    axes.annotate("plain file", (100, 0.5), (-62, 0), textcoords="offset points", fontsize=9)
    axes.set(xlim=(0, 105), ylim=(0, 1.05), xlabel=f"bytes received, % of {name}")
    axes.set_ylabel("embedding cosine\nto the original")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
