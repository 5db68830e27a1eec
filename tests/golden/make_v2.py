"""How the golden chunks between versions were made. They are frozen: this never overwrites them.

    python tests/golden/make_v2.py FILE

Chunks of the kinds 4 to 6 that the core of the day made, the bytes they begin at, and SHA-256 of
what they lead to.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from p2u.codec import core
from p2u.types import BLOCKS

TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<f4"}


def floats(dtype: str, values: np.ndarray) -> bytes:
    """Floats of a dtype; of bfloat16 the upper halves of binary32."""
    single = np.ascontiguousarray(values, TYPES[dtype])
    if dtype != "BF16":
        return single.tobytes()
    return single.view("<u2").reshape(-1, 2)[:, 1].tobytes()


def odd(rng: np.random.Generator, n: int) -> np.ndarray:
    """Weights with a few of everything."""
    w = rng.normal(0, 0.05, n)
    at = rng.choice(n, 7, replace=False)
    w[at] = [np.nan, np.inf, -np.inf, 0.0, -0.0, 3.0, 1e-39]
    return w.astype("<f4")


def made(dtype: str, item: int, new: bytes, old: bytes, payload: bytes) -> dict[str, object]:
    """An entry of the file, checked."""
    elems = len(new) // item
    for isa in (i for i in range(1, 5) if core.isa(i)):
        state = bytearray(len(new))
        segments = [core.Segment(state, elems, 9)]
        core.apply(payload, dtype, item, segments, isa, sources=[old])
        assert state == new
    return {
        "kind": payload[0], "dtype": dtype, "item": item, "elems": elems, "cols": 9,
        "source": base64.b64encode(old).decode(), "payload": base64.b64encode(payload).decode(),
        "sha256": hashlib.sha256(new).hexdigest(),
    }  # fmt: skip


def deltas(rng: np.random.Generator) -> list[dict[str, object]]:
    """Kind 4: changes of all sizes, from every dtype to every other."""
    out = []
    for dtype in TYPES:
        for source in TYPES:
            w = odd(rng, 700)
            old = floats(source, w)
            w[rng.choice(700, 300, replace=False)] *= np.float32(1.01)
            new = floats(dtype, w)
            segment = core.Segment(new, 700, 9)
            payload = core.encode_delta(dtype, [segment], [old], source)
            out.append(made(dtype, len(new) // 700, new, old, payload))
    return out


def opaque(rng: np.random.Generator) -> list[dict[str, object]]:
    """Kind 5: each way to code a plane."""
    out = []
    for stride, change in ((0, "same"), (0, "few"), (18, "nibbles"), (0, "noise")):
        old = np.clip(rng.normal(128, 9, 1800), 0, 255).astype(np.uint8)
        new = old.copy()
        if change == "few":
            new[rng.choice(1800, 90)] += 1
        elif change == "nibbles":
            new = (old & 0xF0) | (old + rng.integers(0, 2, 1800, np.uint8) & 0x0F)
        elif change == "noise":
            new = rng.integers(0, 256, 1800, np.uint8)
        segment = core.Segment(new.tobytes(), 900, 9)
        payload = core.encode_opaque_delta(2, [segment], [old.tobytes()], stride=stride)
        out.append(made("I16", 2, new.tobytes(), old.tobytes(), payload))
    return out


def adopted(rng: np.random.Generator) -> list[dict[str, object]]:
    """Kind 6: every type of blocks, near what they stand for and not."""
    out = []
    for i, (block, (elems, size)) in enumerate(BLOCKS.items()):
        dtype, n = list(TYPES)[i % 3], -(-600 // elems)
        data = rng.integers(0, 256, (n, size), np.uint8)
        halves = {"Q2_K": [80, 82], "Q3_K": [108], "Q6_K": [208]}.get(block, [0, 2])
        for at in halves if block[0] == "Q" else []:
            d = rng.lognormal(-5, 1, n).astype("<f2")
            data[:, at : at + 2] = d.view(np.uint8).reshape(-1, 2)
        old = data.tobytes()
        w = np.frombuffer(core.dequantise(block, old), "<f4").copy()
        w += rng.normal(0, 0.3 * np.nanmedian(np.abs(w)), w.size).astype("<f4")
        w[::50] = odd(rng, w.size)[::50]
        new = floats(dtype, w)
        segment = core.Segment(new, w.size, 9)
        payload = core.encode_adopt(dtype, [segment], [old], block)
        out.append(made(dtype, len(new) // w.size, new, old, payload))
    return out


def main() -> None:
    """Write the golden chunks to a new file."""
    path = Path(sys.argv[1])
    if path.exists():
        raise SystemExit(f"{path} exists: golden files are never made again")
    rng = np.random.default_rng(20261121)
    with np.errstate(all="ignore"):
        chunks = deltas(rng) + opaque(rng) + adopted(rng)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(chunks, indent=1) + "\n")


if __name__ == "__main__":
    main()
