"""The live model in memory."""

from __future__ import annotations

import logging
import shutil
import struct
import sys
import threading
import time
import zipfile
from pathlib import Path

import kit
import numpy as np
import pytest
from following import files
from kit import QUICK, STATES
from live_kit import flips_a_bit, open_with
from store_kit import CountingStore, FlakyStore, GatedStore

import p2u
from p2u.client.live.opening import load, open_replica
from p2u.client.live.phase import LiveStatus
from p2u.codec.chunk import apply_chunks
from p2u.errors import Cancelled, IntegrityError, NotFoundError, StoreError, UsageError
from p2u.stores import LocalStore
from p2u.stores.backoff import Retry
from p2u.stores.forwarding import Forwarding


def raw(folder: Path) -> dict[str, bytes]:
    """Tensor name to bytes, from the safetensors and zip files of a folder."""
    found = {}
    for path in folder.glob("*.npz"):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                found[name.removesuffix(".npy")] = archive.read(name)[128:]
    for path in folder.glob("*.safetensors"):
        data = path.read_bytes()
        (length,) = struct.unpack_from("<Q", data)
        header = kit.json.loads(data[8 : 8 + length])
        header.pop("__metadata__")
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            found[name] = data[8 + length + begin : 8 + length + end]
    return found


def content(tensors) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in tensors.items()}


def test_states_one_after_the_other(made):
    store = GatedStore(LocalStore(made.package))
    with open_replica(store) as replica:
        assert replica.state is None
        with pytest.raises(UsageError, match="wait"):
            _ = replica.tensors
        with pytest.raises(UsageError, match="wait"):
            _ = replica.files
        with pytest.raises(TimeoutError, match="'base'"):
            replica.wait("base", timeout=0.05)
        tensors = None
        for label in STATES:
            store.open(label)
            replica.wait(label, timeout=20)
            assert replica.state == label
            # The same arrays, sharpened in place.
            assert tensors is None or tensors is replica.tensors
            tensors = replica.tensors
            assert content(tensors) == raw(made.states[label])
            assert files(replica) == kit.tree(made.states[label])
        replica.wait()
        assert replica.progress.done == replica.progress.total == made.manifest.states[-1].bytes


def test_arrays_are_views_in_the_original_dtype(made):
    import ml_dtypes

    with p2u.open(made.package) as replica:
        replica.wait("exact")
        tensors = replica.tensors
    assert tensors["layers.0.w"].dtype == np.float32
    assert tensors["layers.1.w"].dtype == np.float16
    assert tensors["layers.1.b"].dtype == ml_dtypes.bfloat16
    assert tensors["layers.0.ids"].tolist() == [list(range(16))]
    assert tensors["head.empty"].shape == (0, 4)
    assert not any(array.flags.writeable for array in tensors.values())
    assert not any(array.flags.owndata for array in tensors.values() if array.size)
    with pytest.raises((TypeError, ValueError)):
        tensors["layers.0.w"][0, 0] = 1
    with pytest.raises(TypeError):
        tensors["x"] = 1


def test_all_dtypes(tmp_path):
    import ml_dtypes

    dtypes = {
        "F64": ("d", np.float64),
        "F8_E4M3": ("B", ml_dtypes.float8_e4m3fn),
        "F8_E5M2": ("B", ml_dtypes.float8_e5m2),
        "F8_E8M0": ("B", ml_dtypes.float8_e8m0fnu),
        "I8": ("b", np.int8),
        "U16": ("H", np.uint16),
        "U32": ("I", np.uint32),
        "U64": ("Q", np.uint64),
        "I16": ("h", np.int16),
        "I32": ("i", np.int32),
        "BOOL": ("?", np.bool_),
    }
    tensors = [
        (name, name, (2, 3), struct.pack(f"<6{code}", 1, 0, 1, 1, 0, 1))
        for name, (code, _) in dtypes.items()
    ]
    kit.write_safetensors(tmp_path / "m.safetensors", tensors)
    p2u.pack(tmp_path / "m.safetensors", tmp_path / "pkg")
    loaded = load(tmp_path / "pkg", "exact")
    for name, _, shape, data in tensors:
        assert loaded[name].dtype == dtypes[name][1]
        assert loaded[name].shape == shape
        assert loaded[name].tobytes() == data


def test_names_in_several_files(tmp_path):
    model = tmp_path / "model"
    for number, part in enumerate(("unet", "vae")):
        (model / part).mkdir(parents=True)
        data = kit.floats(64, "F32", number)
        names = [("w", "F32", (8, 8), data), (part, "F32", (8, 8), data)]
        kit.write_safetensors(model / part / "model.safetensors", names)
    p2u.pack(model, tmp_path / "pkg")
    loaded = load(tmp_path / "pkg", "exact")
    assert sorted(loaded) == ["unet", "unet/model.safetensors:w", "vae", "vae/model.safetensors:w"]
    assert (loaded["unet"] == loaded["unet/model.safetensors:w"]).all()


@pytest.mark.parametrize("label", STATES)
def test_load(made, label):
    loaded = load(made.package, label)
    assert content(loaded) == raw(made.states[label])
    loaded["layers.0.w"][0, 0] = 7  # nobody else's memory


def test_load_is_exact_by_default_and_takes_no_more_bytes_than_it_needs(made):
    assert content(load(made.package)) == raw(made.states["exact"])
    store = CountingStore(LocalStore(made.package))
    assert content(load(store, "base")) == raw(made.states["base"])
    assert {key for key, *_ in store.ranges} == {"base-000.bin"}


def test_load_tries_again_as_often_as_it_is_told(made):
    for attempts in (1, 2):
        store = FlakyStore(LocalStore(made.package), lambda key, start, n: n == 0)
        retry = Retry(attempts=attempts, base=0.001, cap=0.002)
        if attempts == 1:
            with pytest.raises(StoreError):
                load(store, retry=retry)
        else:
            assert load(store, retry=retry)


def test_callbacks_come_for_each_state_also_late_ones(made, caplog):
    store = GatedStore(LocalStore(made.package))
    early, late = [], []

    def broken(label):
        raise RuntimeError("mine")

    with open_replica(store) as replica:
        replica.on_state(broken)
        replica.on_state(early.append)
        store.open("base")
        replica.wait("base")
        while early != ["base"]:
            time.sleep(0.001)
        replica.on_state(late.append)
        assert late == ["base"]
        store.open("8bit", "exact")
        with caplog.at_level(logging.ERROR, "p2u"):
            replica.wait()
    assert early == late == list(STATES)
    assert "callback" in caplog.text


def test_until_and_unknown_states(made):
    with open_replica(made.package, until="8bit") as replica:
        replica.wait("v1@8bit")
        replica.wait()
        assert replica.state == "8bit"
        with pytest.raises(UsageError, match="base, 8bit"):
            replica.wait("exact")
    with open_replica(made.package, until="4bit") as replica, pytest.raises(UsageError):
        replica.wait("base")


def test_errors_surface_where_one_waits(made, tmp_path):
    package = Path(shutil.copytree(made.package, tmp_path / "pkg"))
    blob = package / "8bit-000.bin"
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    with open_replica(package) as replica:
        replica.wait("base")
        for _ in range(2):
            with pytest.raises(IntegrityError, match=r"8bit-000\.bin"):
                replica.wait("8bit")
        replica.wait("base")
        assert replica.state == "base"


def test_a_package_that_is_not_there(tmp_path):
    with pytest.raises(NotFoundError):
        open_replica(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with open_replica(tmp_path / "empty") as replica, pytest.raises(NotFoundError):
        replica.wait("base")
    with pytest.raises(UsageError):
        open_replica(tmp_path / "empty", jobs=0)
    with pytest.raises(UsageError):
        open_replica(tmp_path / "empty", limit_rate="fast")


def test_broken_connections(made):
    flaky = FlakyStore(LocalStore(made.package), lambda key, start, n: n % 3 == 0)
    with open_replica(flaky, retry=QUICK) as replica:
        replica.wait()
        assert content(replica.tensors) == raw(made.states["exact"])
    dead = FlakyStore(LocalStore(made.package), lambda key, start, n: True)
    with open_replica(dead, retry=QUICK) as replica, pytest.raises(StoreError, match="on purpose"):
        replica.wait()


def test_cancel_is_quick_and_leaves_no_threads(made):
    replica = open_replica(made.package, limit_rate=20_000.0)
    time.sleep(0.2)
    begin = time.monotonic()
    replica.cancel()
    replica.cancel()
    assert time.monotonic() - begin < 1
    with pytest.raises(Cancelled):
        replica.wait("exact")
    assert not [t for t in threading.enumerate() if t.name.startswith("p2u-")]


def test_a_file_that_is_not_as_stated(made):
    """The check of whole files, which chunks' hashes do not replace: a decoder's fault."""
    faulty = flips_a_bit()
    with (
        open_with(made.package, decode=faulty, check="all") as replica,
        pytest.raises(IntegrityError, match="SHA-256"),
    ):
        replica.wait("base")
    # Further than this it may not get: a refinement of other bytes than it is for can be refused.
    with open_with(made.package, decode=faulty, check="none") as replica:
        replica.wait("base")


def test_a_file_is_checked_when_it_is_exact(made):
    """By default, wrong rows of a state between are not looked for; those of the exact one are."""

    def faulty(chunks, layout, spans, buffers):
        for c in chunks:
            apply_chunks([c], layout, spans, buffers)
            if c.key.startswith(label) and bool(c.chunk.pieces) == pieces:
                buffers[0][0] ^= 1

    label, pieces = "base", False
    with open_with(made.package, decode=faulty) as replica:
        replica.wait("base")
    label = "exact"
    with open_with(made.package, decode=faulty, staging="copy") as replica:
        with pytest.raises(IntegrityError, match=r"SHA-256.*v1@exact"):
            replica.wait("exact")
        assert replica.state == "8bit"
    # A file without levels is exact with the base.
    label, pieces = "base", True
    with open_with(made.package, decode=faulty) as replica, pytest.raises(IntegrityError):
        replica.wait("base")


def test_straight_makes_the_last_state_only(made):
    """Each row is decoded through all levels before the next one."""
    order, seen = [], []

    def noting(chunks, layout, spans, buffers):
        order.extend((c.chunk.segments, c.key.partition("-")[0]) for c in chunks)
        apply_chunks(chunks, layout, spans, buffers)

    with open_with(made.package, decode=noting, straight=True, jobs=1) as replica:
        replica.on_state(seen.append)
        replica.wait()
        assert content(replica.tensors) == raw(made.states["exact"])
        last = made.manifest.states[-1].bytes
        assert replica.progress.done == last
        assert replica.progress.marks == (("exact", last),)
        replica.wait("base")  # or a better one
        assert replica.state == "exact"
    assert seen == ["exact"] and replica.commits == ()
    places = [number for number, (_, label) in enumerate(order) if label == "exact"]
    assert len(places) > 12
    for number in places:
        rows = order[number][0]
        assert order[number - 2 : number] == [(rows, "base"), (rows, "8bit")]


@pytest.mark.parametrize(
    ("options", "states"),
    [
        ({}, ["exact"]),  # loopback is fast
        ({"straight": False}, list(STATES)),
        ({"deadline": 60.0}, list(STATES)),
        ({"limit_rate": 150_000.0, "until": "8bit"}, ["base", "8bit"]),
        ({"limit_rate": 150_000.0, "until": "8bit", "straight": True}, ["8bit"]),
    ],
)
def test_on_a_fast_line_the_last_state_comes_at_once(made, options, states):
    server, app = kit.counting_server(made.package)
    seen = []
    with server, open_replica(server.url, **options) as replica:
        replica.on_state(seen.append)
        replica.wait("base", timeout=20)
        replica.wait(timeout=20)
        assert files(replica) == kit.tree(made.states[states[-1]])
        done = replica.progress.done
        assert done == replica.progress.total == replica.progress.marks[-1][1]
    assert seen == states
    # Nothing twice: not the bytes with which the line was measured, either.
    assert app.sent == done + (made.package / "p2u.json").stat().st_size


@pytest.mark.parametrize("label", STATES)
def test_load_makes_no_other_state(made, monkeypatch, label):
    seen, real = [], LiveStatus.replace

    def replace(self, state):
        seen.append(state.label)
        real(self, state)

    monkeypatch.setattr(LiveStatus, "replace", replace)
    assert content(load(made.package, label)) == raw(made.states[label])
    assert seen == [label]


def test_over_http(made):
    server, app = kit.counting_server(made.package)
    with server, p2u.open(server.url, jobs=3) as replica:
        replica.wait()
        assert content(replica.tensors) == raw(made.states["exact"])
        assert replica.progress.total <= app.sent


@pytest.mark.slow
def test_memory_of_open(tmp_path):
    """Peak memory beyond the model: less than 68 MiB, and with staging what that takes.

    Half of it is the interpreter with NumPy, and a good part of the rest the payloads of chunks.
    """
    model = tmp_path / "model.safetensors"
    size, largest = 24 << 20, 4 << 20
    kit.write_safetensors(
        model,
        [(f"w{i}", "F32", (1024, 1024), kit.floats(1 << 14, "F32", i) * 64) for i in range(6)],
    )
    p2u.pack(model, tmp_path / "pkg", levels=("base", "exact"))
    code = (
        "import sys, p2u\n"
        "r = p2u.open(sys.argv[1], jobs=4, mode=sys.argv[2], staging=sys.argv[3])\n"
        "r.wait()\n"
        "assert r.tensors['w0'].nbytes == 4 << 20\n"
    )
    for mode, staging, more in (
        ("eager", "auto", 0),
        ("atomic", "chunks", largest),
        ("atomic", "copy", size),
    ):
        peak = int(kit.run_python(code + kit.PRINT_PEAK, tmp_path / "pkg", mode, staging))
        assert peak < size + more + (68 << 20), (mode, staging)


def test_public_names_are_what_they_say():
    """Importing the modules behind them does not replace the functions."""
    code = (
        "import p2u\n"
        "from p2u.packing.api import pack\n"
        "import p2u.client.folder.pull, p2u.client.folder.verify, p2u.client.live.replica\n"
        "assert p2u.pack is pack and callable(p2u.pull) and callable(p2u.verify)\n"
        "from p2u import open, load, Replica, P2UError\n"
        "assert set(p2u.__all__) <= set(dir(p2u))\n"
        "assert all(getattr(p2u, name) is not None for name in p2u.__all__)\n"
        "print(open.__name__)"
    )
    assert kit.run_python(code) == "open_replica\n"
    with pytest.raises(AttributeError, match="nothing"):
        _ = p2u.nothing  # type: ignore[attr-defined]
    assert "p2u" in sys.modules


def test_a_wait_that_is_too_long_says_what_went_wrong(made):
    """The time limit of a wait must not hide that the server does not answer."""

    class Refusing(Forwarding):
        down = True

        def read(self, key: str, *, limit: int) -> bytes:
            if self.down:
                raise StoreError("the host refused the connection", file=key, retryable=True)
            return super().read(key, limit=limit)

    store = Refusing(LocalStore(made.package))
    patient = Retry(attempts=1000, base=0.01, cap=0.01)
    with open_replica(store, retry=patient) as replica:
        with pytest.raises(TimeoutError, match=r"'base' not reached.*refused") as caught:
            replica.wait("base", timeout=0.3)
        assert isinstance(caught.value.__cause__, StoreError)
        store.down = False
        replica.wait("exact", timeout=60)
