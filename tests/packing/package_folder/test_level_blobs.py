"""The blobs are the same whatever order the chunks come in."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packing_kit import snapshot

from p2u.packing.chunking.cut import Job
from p2u.packing.chunking.treatment import Treatment
from p2u.packing.engines.coded import Coded
from p2u.packing.engines.local import LocalEngine
from p2u.packing.engines.places import FolderPlace
from p2u.packing.package_folder import level_blobs
from p2u.packing.package_folder.level_blobs import LevelBlobs

LABELS = ("base", "8bit", "exact")


def coded(number: int) -> tuple[Job, Coded]:
    """A chunk; every third one is exact from the base on."""
    levels = 1 if number % 3 == 0 else 3
    payloads = tuple(bytes([number, n]) * (5 * number + n + 1) for n in range(levels))
    digests = tuple(hashlib.sha256(payload).digest() for payload in payloads)
    errors = tuple(0.1 * (number + 1) / (n + 1) for n in range(levels))
    job = Job(Treatment.PROGRESSIVE, "F32", 4, (), 10 + number)
    return job, Coded(payloads, 1.0 + number, errors, digests)


def write(folder: Path, order: list[int]) -> tuple[dict[str, bytes], object]:
    folder.mkdir()
    blobs = LevelBlobs(LocalEngine(1), FolderPlace(folder), folder, LABELS, 300)
    for number in order:
        blobs.add(number, *coded(number))
    blobs.finish()
    blobs.close()
    places = [made.chunks for made in blobs.made]
    sums = [(blobs.sums.snr_db(n), blobs.sums.average(n)) for n in range(3)]
    return snapshot(folder), (places, sums)


@given(st.permutations(range(14)), st.sampled_from([0, 200, 1 << 20]))
def test_any_order(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], waiting: int
) -> None:
    root = tmp_path_factory.mktemp("blobs")
    expected = write(root / "in order", list(range(14)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(level_blobs, "WAITING", waiting)
        # Nothing but the blobs is left in the folder.
        assert write(root / "p", order) == expected
    for chunks in expected[1][0]:  # type: ignore[index]
        for label, chunk in zip(LABELS, chunks, strict=False):
            blob = expected[0][f"{label}-{chunk.blob:03d}.bin"]
            payload = blob[chunk.start : chunk.start + chunk.length]
            assert hashlib.sha256(payload).digest() == chunk.sha256
