"""Base codes of convolutions: sums of errors stay small, and nothing else changes."""

from __future__ import annotations

import math
from pathlib import Path

import kit
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import p2u
from p2u.packing.allocation.shares import FINEST, Shares, finest
from p2u.packing.rounding.balance import SHORT, balanced
from p2u.packing.rounding.feedback import LAST, own_bins


@given(
    st.integers(0, 2**32),
    st.sampled_from([(9, 9), (9, 27), (1, 96), (25, 25), (9, 576), (1, 1)]),
    st.integers(1, 6),
    st.floats(0.1, 200),
)
# Weights of the last bins count for the sum, though they may not all be moved.
@example(87, (1, 96), 2, 104.375)
def test_errors_do_not_add_up(seed: int, shape: tuple[int, int], count: int, size: float) -> None:
    window, channel = shape
    x = np.random.default_rng(seed).normal(0, size, (count, channel))
    x[np.abs(x) < size / 50] = 0
    codes = balanced(x.reshape(-1), window, channel).reshape(x.shape)
    own = own_bins(x)
    moved = codes - own
    assert np.abs(moved).max() <= 2
    assert np.abs(codes).max() <= LAST
    assert not moved[(x == 0) | (np.abs(x) >= LAST + 0.5)].any()
    free = (x != 0) & (np.abs(x) < LAST - 1)
    before = np.abs(np.where(free, x - own, 0).sum(1))
    after = np.abs(np.where(free, x - codes, 0).sum(1))
    counted = (x != 0) & (np.abs(x) < LAST + 0.5)
    total = np.abs(np.where(counted, x - own, 0).sum(1))
    whole = free.all(1)
    allowed = max(0.5, math.sqrt(channel / 48)) + 1e-3
    if channel > SHORT:  # enough weights lie near an edge
        assert (after[whole] <= np.maximum(allowed, before[whole])).all()
        assert not moved[total <= allowed - 2e-3].any()
    elif whole.any():  # windows first, then all of the channel
        assert (after[whole] <= 1.5).all()


def test_what_is_nearest_to_an_edge_moves() -> None:
    x = np.array([1.45, 2.40, 3.30, -1.30, 0.2, 0.1, 0.0, 5.0, 1.0])
    codes = balanced(x, 9, 9)
    # The errors are 0.45 + 0.4 + 0.3 + (-0.3) + 0.2 + 0.1 = 1.15: one goes up.
    assert codes.tolist() == [2, 2, 3, -1, 0, 0, 0, 5, 1]
    assert (balanced(-x, 9, 9) == -codes).all()


def test_short_rows_can_be_finer() -> None:
    assert finest(9) < finest(27) < finest(64) < finest(1000) == finest(1 << 18) == FINEST
    for cols in (8, 9, 27, 100):
        # The largest that a row can have, in steps: within the bins.
        assert math.sqrt(cols) / 2 ** (finest(cols) / 64) <= LAST + 0.5
    assert Shares.equal([9, 1000]).offsets(-1000 * 64) == [finest(9), FINEST]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("net")
    shapes = {"dw": (512, 1, 3, 3), "pw": (256, 512, 1, 1), "fc": (64, 512)}
    tensors = [
        (name, "F32", shape, kit.floats(math.prod(shape), "F32", n))
        for n, (name, shape) in enumerate(shapes.items())
    ]
    kit.write_safetensors(folder / "model.safetensors", tensors)
    return folder


def test_the_base_keeps_the_sums_of_filters(net: Path, tmp_path: Path) -> None:
    report = p2u.pack(net, tmp_path / "p", bits=3, jobs=1)
    base = p2u.load(tmp_path / "p", "base")
    exact = p2u.load(tmp_path / "p", "exact")
    for name, cols in (("dw", 9), ("pw", 512)):
        tree = (np.asarray(base[name]) - np.asarray(exact[name])).reshape(-1, cols)
        error = tree.astype(np.float64)
        sums, alone = np.square(error.sum(1)).mean(), cols * np.square(error).mean()
        assert sums < alone / 2, name
    error = (np.asarray(base["fc"]) - np.asarray(exact["fc"])).astype(np.float64)
    assert np.square(error.sum(1)).mean() > 512 * np.square(error).mean() / 2
    p2u.pack(net, tmp_path / "q", bits=3, jobs=2)
    for path in sorted((tmp_path / "p").rglob("*")):
        if path.is_file():
            assert (
                path.read_bytes()
                == (tmp_path / "q" / path.relative_to(tmp_path / "p")).read_bytes()
            )
    assert p2u.verify(tmp_path / "p", decode=True)
    assert report.states[-1].snr_db is None
