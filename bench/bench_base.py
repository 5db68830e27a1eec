"""How good the low-precision states are: embeddings of MiniLM at each state against the original.

    python bench/bench_base.py [minilm-bf16 ...] [--bits 3.5]

48 texts out of Python's own manual (`pydoc_data.topics`), cosine between the embedding that a state
gives and the one of the fp32 original, mean and minimum; bytes as a fraction of the original's.
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

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
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
    args = parser.parse_args()
    words = texts()
    reference = MiniLM(cache_dir() / "minilm-fp32").embed(words)
    for name in args.models:
        with tempfile.TemporaryDirectory() as tmp:
            package, out = Path(tmp, "package"), Path(tmp, "model")
            report = p2u.pack(cache_dir() / name, package, bits=args.bits)
            print(f"\n{name}, {len(words)} texts")
            for state in report.states:
                p2u.pull(package, out, until=state.label)
                cosine = (MiniLM(out).embed(words) * reference).sum(1)
                print(
                    f"  {state.label:6} {100 * state.fraction:6.2f} % {state.bits:7.3f} bits/weight"
                    f"  cosine mean {cosine.mean():.4f} min {cosine.min():.4f}"
                )


if __name__ == "__main__":
    main()
