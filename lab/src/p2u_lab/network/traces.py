"""Rates that change, for `link.py`: a model of a mobile line, and its text form.

python -m p2u_lab.network.traces 20 300 1 > lte.txt      # mean Mbit/s, seconds, seed
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Sequence
from typing import TypeAlias

#: (seconds, Mbit/s of 1e6 bits) of each step.
Trace: TypeAlias = Sequence[tuple[float, float]]

#: Length of a step in seconds.
STEP = 0.2
#: Standard deviation of the logarithm of the rate.
SIGMA = 0.6
#: Seconds after which the logarithms of two rates are correlated by 1/e.
MEMORY = 2.0
#: Mean seconds from one fade to the next, their lengths, and what is left of the rate in them.
FADE_EVERY, FADE_LENGTH, FADE_DEPTH = 15.0, (0.4, 2.0), (0.05, 0.2)


def lte_trace(mean_mbit: float, seconds: float, seed: int) -> list[tuple[float, float]]:
    """A made-up mobile line: a trace like LTE's, not a recording of one.

    The rate is constant for steps of 0.2 s. Its logarithm is a first-order autoregressive process
    with a standard deviation of 0.6 and a memory of 2 s, which is slow fading by obstacles. Fades
    begin at random, on average every 15 s, last 0.4 to 2 s and leave 5 to 20 per cent of the rate:
    handovers and dead spots. Then all rates are scaled to the wanted mean and rounded to kbit/s.

    The same arguments give the same trace everywhere: normal numbers are sums of twelve uniform
    ones, and the rounding hides the last bit of the exponential function.

    Raises:
        ValueError: A mean or length that is not positive.
    """
    if not (mean_mbit > 0 and seconds > 0):
        raise ValueError(f"a trace needs a positive mean and length: {mean_mbit}, {seconds}")
    chance = random.Random(seed)

    def normal() -> float:
        return sum(chance.random() for _ in range(12)) - 6

    keep = math.exp(-STEP / MEMORY)
    state, left, depth, rates = normal(), 0.0, 1.0, []
    for _ in range(max(1, round(seconds / STEP))):
        if left <= 0 and chance.random() < STEP / FADE_EVERY:
            left, depth = chance.uniform(*FADE_LENGTH), chance.uniform(*FADE_DEPTH)
        rates.append(math.exp(SIGMA * state) * (depth if left > 0 else 1.0))
        left -= STEP
        state = keep * state + math.sqrt(1 - keep * keep) * normal()
    scale = mean_mbit * len(rates) / sum(rates)
    return [(STEP, round(rate * scale, 3)) for rate in rates]


def mean_mbit(trace: Trace) -> float:
    """The mean rate: what a trace carries if something always waits."""
    return sum(s * mbit for s, mbit in trace) / sum(s for s, _ in trace)


def format_trace(trace: Trace) -> str:
    """Lines of seconds and Mbit/s, as the relay reads them."""
    return "".join(f"{s:.6f} {mbit:.6f}\n" for s, mbit in trace)


def read_trace(text: str) -> list[tuple[float, float]]:
    """The steps of such lines.

    Raises:
        ValueError: A line that is not two numbers.
    """
    rows = [tuple(float(word) for word in line.split()) for line in text.splitlines()]
    if not rows or any(len(row) != 2 for row in rows):
        raise ValueError("each line of a trace is 'seconds mbit'")
    return [(row[0], row[1]) for row in rows]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("mean_mbit", type=float)
    parser.add_argument("seconds", type=float)
    parser.add_argument("seed", type=int)
    args = parser.parse_args()
    print(format_trace(lte_trace(args.mean_mbit, args.seconds, args.seed)), end="")


if __name__ == "__main__":
    main()
