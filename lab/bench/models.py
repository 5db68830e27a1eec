"""Fetch the real models that the benchmarks run on, in three dtypes each: see `p2u_lab.weights`.

python lab/bench/models.py minilm mpnet     # or: all
P2U_MODELS=/some/folder python lab/bench/models.py all
"""

from __future__ import annotations

import argparse
import sys

from p2u.errors import P2UError
from p2u_lab.tensorfiles import FLOATS, WEIGHTS, Array, read_safetensors, write_safetensors
from p2u_lab.weights import MODELS, cache_dir, ensure

__all__ = ["FLOATS", "WEIGHTS", "Array", "cache_dir", "read_safetensors", "write_safetensors"]


def main() -> int:
    """Command line: fetch the models named; with ``all``, those that can be had."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+", choices=[*MODELS, "all"], metavar="MODEL")
    named: list[str] = parser.parse_args().models
    status = 0
    for name in MODELS if "all" in named else named:
        try:
            folders = ensure(name)
        except P2UError as error:
            print(error, file=sys.stderr)
            status = 1
            continue
        for folder in folders.values():
            print(f"{folder}  {(folder / WEIGHTS).stat().st_size:,} bytes of weights", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
