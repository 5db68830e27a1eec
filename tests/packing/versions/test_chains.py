"""Chains of versions, changed in any way: every way through them ends at the publisher's bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from manifests import manifest_of
from packing_kit import FLOATS, Tensors, check_pull, model

from p2u import gc, publish, pull
from p2u.package.index import parse_index
from p2u.package.layout import ReleaseLayout
from p2u.package.manifest import Manifest, Update
from p2u.packing.versions.materialise import read_layout, read_object
from p2u.types import ITEMSIZE

Tensor = tuple[str, tuple[int, ...], bytes]

CHANGES = ("same", "few", "most", "nans", "rename", "swap", "drop", "retype", "grow", "flat")


def any_tensor(draw: st.DrawFn, rng: np.random.Generator) -> Tensor:
    """Weights, or any bits: NaNs with any payload, infinities, subnormals, numbers."""
    dtype = draw(st.sampled_from(sorted(ITEMSIZE)))
    shape = tuple(draw(st.lists(st.integers(0, 40), max_size=3)))
    count = int(np.prod(shape, dtype=np.int64))
    if dtype == "BOOL":
        return dtype, shape, bytes(rng.integers(0, 2, count, np.uint8))
    if dtype in FLOATS and draw(st.booleans()):
        values = (rng.standard_normal(count) * 0.1).astype(FLOATS[dtype])
        return dtype, shape, values.tobytes()
    return dtype, shape, rng.bytes(count * ITEMSIZE[dtype])


def changed(draw: st.DrawFn, rng: np.random.Generator, tensor: Tensor, act: str) -> Tensor:
    """A tensor after a change."""
    dtype, shape, data = tensor
    if act in ("few", "most") and data:
        values = np.frombuffer(data, np.uint8).copy()
        count = 1 + len(values) // 50 if act == "few" else len(values)
        hit = rng.integers(0, len(values), count)
        values[hit] += rng.integers(1, 4, count, np.uint8)
        data = bytes(values & 1) if dtype == "BOOL" else bytes(values)
    if act == "nans" and dtype in FLOATS and data:
        size = ITEMSIZE[dtype]
        bits = np.frombuffer(data, f"<u{size}").copy()
        top = {"F32": 0x7F80_0000, "F16": 0x7C00, "BF16": 0x7F80}[dtype]
        hit = rng.integers(0, len(bits), 1 + len(bits) // 20)
        bits[hit] |= np.array(top, bits.dtype)
        data = bits.tobytes()
    if act == "retype" and dtype in FLOATS:
        other = draw(st.sampled_from(sorted(FLOATS)))
        with np.errstate(all="ignore"):
            values = np.frombuffer(data, FLOATS[dtype]).astype(np.float32)
            data = values.astype(FLOATS[other]).tobytes()
        dtype = other
    if act == "grow" and shape and shape[0]:
        extra = rng.bytes(len(data) // shape[0])
        extra = bytes(b & 1 for b in extra) if dtype == "BOOL" else extra
        shape, data = (shape[0] + 1, *shape[1:]), data + extra
    if act == "flat":
        shape = (int(np.prod(shape, dtype=np.int64)),)
    return dtype, shape, data


@st.composite
def chains(draw: st.DrawFn) -> list[Tensors]:
    """Some versions of a model, each made from the one before by any changes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    version = {f"t{n}": any_tensor(draw, rng) for n in range(draw(st.integers(1, 5)))}
    out = [version]
    for _ in range(draw(st.integers(1, 3))):
        new: Tensors = {}
        for name, tensor in version.items():
            act = draw(st.sampled_from(CHANGES))
            if act == "drop" and len(version) > 1:
                continue
            if act == "swap":
                tensor = version[draw(st.sampled_from(sorted(version)))]
            new[f"{name}r" if act == "rename" else name] = changed(draw, rng, tensor, act)
        if not new or draw(st.booleans()):
            new[f"n{len(out)}"] = any_tensor(draw, rng)
        out.append(new)
        version = new
    return out


def brought(package: Path, manifest: Manifest, update: Update) -> set[str]:
    """Tensors of which some chunk of an update between versions has a part."""
    assert update.source is not None
    old, new = (
        ReleaseLayout(release, read_layout(package, release))
        for release in map(manifest.release, (update.source, update.target))
    )
    index = parse_index(read_object(package, update.index), update, new, old)
    return {new.tensors[seg.tensor].name for chunk in index.chunks for seg in chunk.segments}


def check_unchanged_are_free(package: Path, versions: list[Tensors]) -> None:
    """What the parent has, under whatever name, is in no chunk."""
    manifest = manifest_of(package)
    by_version = {f"v{n + 1}": tensors for n, tensors in enumerate(versions)}
    for update in filter(manifest.crosses, manifest.updates):
        assert update.source is not None
        old = by_version[manifest.release(update.source).version]
        new = by_version[manifest.release(update.target).version]
        held = {(dtype, data) for dtype, _, data in old.values()}
        same = {name for name, (dtype, _, data) in new.items() if (dtype, data) in held}
        assert not brought(package, manifest, update) & same


@settings(
    max_examples=settings.default.max_examples // 4,  # type: ignore[union-attr]
    suppress_health_check=list(HealthCheck),
)
@given(chains(), st.sampled_from([None, 1.0]), st.integers(1, 4), st.integers(1, 2))
def test_every_way_ends_at_the_publishers_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    versions: list[Tensors],
    fold: float | None,
    every: int,
    keep: int,
) -> None:
    root = tmp_path_factory.mktemp("chain")
    package, here = root / "p", root / "here"
    folders = []
    for n, tensors in enumerate(versions):
        folders.append(model(root / f"{n}", tensors, config=f"{n}" * n))
        publish(
            folders[-1],
            package,
            fold=fold,
            anchor_every=every,
            jobs=1,
            levels=("base", "exact"),
            force=True,  # any models, also such that have nothing to do with each other
        )
        check_pull(package, folders[-1], here)
    check_unchanged_are_free(package, versions)
    check_all_ways(package, folders, root / "ways")
    report = gc(package, keep=keep, anchors=0)
    assert report.kept[-1] == f"v{len(versions)}"
    check_all_ways(package, folders, root / "after")
    shutil.rmtree(root)


def check_all_ways(package: Path, folders: list[Path], root: Path) -> None:
    """From nothing to every state, and from every state to every later exact one."""
    manifest = manifest_of(package)
    states = [state.id for state in manifest.states]
    for number, state in enumerate(states):
        begin = root / f"{number}"
        pull(package, begin, until=state)
        if state.endswith("@exact"):
            check_pull(package, folders[int(state[1:].partition("@")[0]) - 1], begin, until=state)
        for later in states[number + 1 :]:
            if later.endswith("@exact"):
                end = shutil.copytree(begin, root / f"{number} to {later}")
                src = folders[int(later[1:].partition("@")[0]) - 1]
                check_pull(package, src, end, until=later)


@pytest.mark.parametrize("dtype", ["I64", "I32", "I8", "U8", "F8_E4M3", "F8_E5M2", "F64"])
def test_changes_without_levels_are_small(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(5)
    item = ITEMSIZE[dtype]
    data = bytearray(rng.bytes(200_000))
    one = model(tmp_path / "1", {"w": (dtype, (200_000 // item,), bytes(data))})
    for at in rng.integers(0, len(data), 1000).tolist():
        data[at] ^= 1
    two = model(tmp_path / "2", {"w": (dtype, (200_000 // item,), bytes(data))})
    package = tmp_path / "p"
    publish(one, package)
    pull(package, tmp_path / "here")
    publish(two, package)
    manifest = manifest_of(package)
    (update,) = filter(manifest.crosses, manifest.updates)
    # 1000 of 200,000 random bytes; a table per byte of the element.
    assert update.bytes < 4000
    check_pull(package, two, tmp_path / "here")
