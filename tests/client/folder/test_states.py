"""Pulling to disk: one state after the other, each of them whole at any time."""

from __future__ import annotations

import hashlib
import os
import sys
import threading

import kit
import pytest
from kit import STATES, tree
from pulling import change_unseen, leftovers
from store_kit import CountingStore

import p2u
from p2u.client.folder.pull import pull
from p2u.stores import LocalStore


@pytest.mark.parametrize("in_place", [False, True])
def test_all_states_come_one_after_the_other(made, tmp_path, in_place):
    dst = tmp_path / "deep" / "dst"
    seen = []

    def on_state(label):
        seen.append((label, made.label(dst)))

    result = pull(made.package, dst, in_place=in_place, on_state=on_state)
    assert seen == [(label, label) for label in STATES]
    assert result.state == "exact"
    assert tree(dst) == tree(made.model)
    assert leftovers(dst.parent) == []


@pytest.mark.parametrize("in_place", [False, True])
def test_one_state_at_a_time(made, tmp_path, in_place):
    dst = tmp_path / "dst"
    for label in STATES:
        store = CountingStore(LocalStore(made.package))
        pull(store, dst, until=label, in_place=in_place)
        assert made.label(dst) == label
        size = made.update(label).bytes
        assert sum(taken for *_, taken in store.ranges) == size


def test_base_directory_loads_as_it_is(made, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    loaded = safetensors.load_file(made.states["base"] / "model-00001-of-00002.safetensors")
    exact = safetensors.load_file(made.model / "model-00001-of-00002.safetensors")
    w, e = loaded["layers.0.w"], exact["layers.0.w"]
    assert (w != e).any()
    assert ((w - e) ** 2).sum() < 0.05 * (e**2).sum()
    assert (loaded["layers.0.norm"] == exact["layers.0.norm"]).all()


@pytest.mark.skipif(sys.platform != "linux", reason="needs an exchange of folders")
def test_readers_see_whole_states_at_any_time(made, tmp_path):
    """By path there is never a moment without a state, nor a file that is missing.

    Who keeps the folder open while it changes meets files of either state, as the state file's
    change says.
    """
    dst = tmp_path / "dst"
    pull(made.package, dst, until="base")
    digests = {
        tuple(f.digest(n) for f in made.manifest.latest.files): state.label
        for n, state in enumerate(made.manifest.states)
    }
    ended = threading.Event()
    seen: list[str | None] = []

    def content(folder, name):
        with open(os.open(name, os.O_RDONLY, dir_fd=folder), "rb") as opened:
            return opened.read()

    def read():
        while not ended.is_set():
            folder = os.open(dst, os.O_RDONLY)
            try:
                before = content(folder, ".p2u-state.json")
                found = [
                    hashlib.sha256(content(folder, file.path)).hexdigest()
                    for file in made.manifest.latest.files
                ]
                here = os.path.samestat(dst.stat(), os.fstat(folder))
                same = here and content(folder, ".p2u-state.json") == before
                seen.append(digests.get(tuple(found), "no state") if same else None)
            except FileNotFoundError:
                # The folder of a moment: what a path leads to now is whole.
                seen.append(None)
            finally:
                os.close(folder)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        size = sum(made.update(label).bytes for label in ("8bit", "exact"))
        pull(made.package, dst, limit_rate=1.5 * size, straight=False)
    finally:
        ended.set()
        reader.join()
    assert set(seen) - {None} == {"base", "8bit"} | (set(seen) & {"exact"})
    assert seen.count(None) <= 4  # at two changes


def test_again_does_nothing(made, tmp_path):
    dst = tmp_path / "dst"
    pull(made.package, dst, until="8bit")
    before = {path: path.stat().st_mtime_ns for path in dst.rglob("*")}
    for until in ("8bit", "base"):
        store = CountingStore(LocalStore(made.package))
        seen: list[str] = []
        assert pull(store, dst, until=until, on_state=seen.append).state == "8bit"
        assert (store.reads, store.ranges, seen) == (["p2u.json"], [], ["8bit"])
    assert before == {path: path.stat().st_mtime_ns for path in dst.rglob("*")}


def test_again_does_not_hash(made, tmp_path):
    dst = tmp_path / "dst"
    pull(made.package, dst)
    for path in dst.rglob("*"):
        if path.is_file() and path.name != ".p2u-state.json" and path.stat().st_size:
            change_unseen(path)
    assert pull(made.package, dst).state == "exact"
    assert made.label(dst) is None


def test_touched_files_are_hashed_once(made, tmp_path):
    dst = tmp_path / "dst"
    pull(made.package, dst)
    os.utime(dst / "config.json", (1, 1))
    pull(made.package, dst)
    change_unseen(dst / "config.json")
    assert pull(made.package, dst).state == "exact"
    assert made.label(dst) is None


@pytest.mark.parametrize("jobs", [1, 3])
def test_over_http(made, tmp_path, jobs):
    server, app = kit.counting_server(made.package)
    with server:
        result = pull(server.url, tmp_path / "dst", jobs=jobs)
        assert made.label(tmp_path / "dst") == "exact"
        assert result.fetched == app.sent
        app.reset()
        pull(server.url, tmp_path / "dst")
        assert app.paths == ["/p2u.json"]


def test_memory_stays_small(tmp_path):
    """Peak memory of a pull of 32 MiB: far below the model's size, no matter how many threads."""
    model = tmp_path / "model.safetensors"
    kit.write_safetensors(
        model,
        [(f"w{i}", "F32", (1024, 1024), kit.floats(1 << 14, "F32", i) * 64) for i in range(8)],
    )
    p2u.pack(model, tmp_path / "pkg", levels=("base", "exact"))
    code = "import sys, p2u; p2u.pull(sys.argv[1], sys.argv[2], jobs=8)"
    code += "; assert 'numpy' not in sys.modules"
    peak = int(kit.run_python(code + kit.PRINT_PEAK, tmp_path / "pkg", tmp_path / "dst"))
    assert peak < (4 << 20) + (64 << 20)
    assert (tmp_path / "dst" / "model.safetensors").read_bytes() == model.read_bytes()
