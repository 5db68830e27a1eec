"""Layers for the tests of calibration: weights, inputs and their moments."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def inputs(columns: int, count: int = 2000, seed: int = 0) -> Array:
    """Correlated inputs, with a few columns far larger than the others."""
    rng = np.random.default_rng([seed, columns])
    mix = rng.standard_normal((columns // 3 + 1, columns))
    x = rng.standard_normal((count, len(mix))) @ mix + 0.3 * rng.standard_normal((count, columns))
    x[:, ::17] *= 6
    return x


def weights(shape: tuple[int, ...], seed: int = 1) -> Array:
    """Weights whose rows have sizes of their own."""
    rng = np.random.default_rng([seed, *shape])
    scale = np.exp(rng.standard_normal((shape[0], *[1] * (len(shape) - 1))) / 2)
    return (rng.standard_normal(shape) * 0.05 * scale).astype(np.float32)


def moments(xs: list[Array]) -> Array:
    """Second moments of each group's inputs."""
    return np.stack([x.T @ x for x in xs])
