"""Straight: all levels of the same rows at once, where nobody waits for the states between."""

from __future__ import annotations

import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import kit
import pytest
from killing import start
from kit import QUICK, STATES, CountingApp, Made, tree
from pulling import SMALL, flip, interrupted, leftovers, pull_with
from store_kit import CountingStore
from waiting import until

import p2u
from p2u.client.folder.journal import read_journal
from p2u.client.folder.pull import pull
from p2u.client.folder.target import journal_header
from p2u.client.folder.work_folder import WorkFolder
from p2u.client.routes import stretches
from p2u.client.routes.stretches import Stretch
from p2u.client.transfer.package_reader import PackageReader
from p2u.client.transfer.requests import RequestSizes
from p2u.errors import IntegrityError
from p2u.stores import LocalStore


@pytest.fixture
def served(made: Made) -> Iterator[tuple[str, CountingApp]]:
    server, app = kit.counting_server(made.package)
    with server:
        yield server.url, app


def states_of(source, dst: Path, **options) -> list[str]:
    """The states that a pull makes when nobody says that they wait for them."""
    seen: list[str] = []
    pull_with(source, dst, on_state=seen.append, sizes=RequestSizes(), **options)
    return seen


def taken(store: CountingStore, label: str) -> int:
    """Bytes of an update's blobs that were taken from a store."""
    return sum(n for key, _, _, n in store.ranges if key.startswith(label))


# --- the choice


def test_a_package_at_hand_goes_straight(made, tmp_path):
    store = CountingStore(LocalStore(made.package))
    assert states_of(store, tmp_path / "dst") == ["exact"]
    assert tree(tmp_path / "dst") == tree(made.model)
    assert [taken(store, label) for label in STATES] == [made.update(s).bytes for s in STATES]
    assert leftovers(tmp_path) == []


def test_the_choice_can_be_overridden(made, tmp_path):
    for number, (straight, seen) in enumerate([(True, ["exact"]), (False, list(STATES))]):
        dst = tmp_path / f"dst{number}"
        assert states_of(made.package, dst, straight=straight) == seen
        assert tree(dst) == tree(made.model)
    # Somebody waits for each state, unless straight is asked for.
    seen = []
    pull(made.package, tmp_path / "a", on_state=seen.append)
    pull(made.package, tmp_path / "b", on_state=seen.append, straight=True)
    assert seen == [*STATES, "exact"]


def test_only_the_states_before_the_one_wanted_are_left_out(made, tmp_path):
    dst = tmp_path / "dst"
    assert states_of(made.package, dst, until="8bit") == ["8bit"]
    assert made.label(dst) == "8bit"
    assert states_of(made.package, dst) == ["exact"]
    assert tree(dst) == tree(made.model)


@pytest.mark.parametrize("in_place", [False, True])
def test_it_may_begin_at_a_state_that_is_there(made, tmp_path, in_place):
    dst = tmp_path / "dst"
    pull(made.package, dst, until="base")
    assert states_of(made.package, dst, in_place=in_place) == ["exact"]
    assert tree(dst) == tree(made.model)


def test_a_deadline_needs_the_states_between(made, tmp_path):
    assert states_of(made.package, tmp_path / "dst", deadline=60) == list(STATES)


def test_a_fast_line_goes_straight(made, tmp_path, served):
    url, app = served
    seen: list[str] = []
    dst = tmp_path / "dst"
    marks = []

    def progress(p):
        marks.append((p.done, p.marks))

    pull_with(url, dst, on_state=seen.append, progress=progress, sizes=RequestSizes())
    assert seen == ["exact"]
    assert tree(dst) == tree(made.model)
    # Nothing twice: not the bytes with which the line was measured, either.
    sizes = [path.stat().st_size for path in made.package.iterdir()]
    assert app.sent == sum(sizes)
    last = made.manifest.states[-1].bytes
    assert marks[-1] == (last, (("exact", last),))


@pytest.mark.parametrize("busy", [0.5, 1.0])
def test_where_the_processor_is_the_limit_no_state_is_made_in_vain(
    made, tmp_path, served, monkeypatch, busy
):
    """A line that looks slow because the processor is, before anything is decoded."""
    url, _ = served
    monkeypatch.setattr("p2u.client.folder.straight.SOON", 0.0)
    monkeypatch.setattr("p2u.client.folder.straight.WRITE_RATE", 1e30)
    monkeypatch.setattr("p2u.client.routes.line.MEASURED", ((1 << 10, 1.0),))
    monkeypatch.setattr("p2u.client.routes.line.time.process_time", lambda: busy * time.monotonic())
    seen: list[str] = []
    pull_with(url, tmp_path / "dst", on_state=seen.append)
    assert seen == (["exact"] if busy == 1.0 else list(STATES))
    assert tree(tmp_path / "dst") == tree(made.model)


def test_a_slow_line_makes_each_state(made, tmp_path, served):
    url, app = served
    total = made.manifest.states[-1].bytes
    dst = tmp_path / "dst"
    seen: list[str] = []
    # It takes about three seconds.
    pull_with(url, dst, until="8bit", on_state=seen.append, limit_rate=total / 8)
    assert seen == ["base", "8bit"]
    assert made.label(dst) == "8bit"
    unwanted = [made.package / key for key in ("exact-000.bin", "exact.index")]
    sizes = [p.stat().st_size for p in made.package.iterdir() if p not in unwanted]
    assert app.sent == sum(sizes)


def test_a_full_disk_has_room_for_the_last_state_only(made, tmp_path):
    size = sum(f.size for f in made.manifest.latest.files)
    room = {"free_bytes": lambda path: int(1.5 * size) + (2 << 20)}
    # Step by step, two states are there for a moment.
    with pytest.raises(p2u.DiskError, match="free space"):
        pull_with(made.package, tmp_path / "a", straight=False, **room)
    assert states_of(made.package, tmp_path / "b", limit_rate=100_000, **room) == ["exact"]
    assert tree(tmp_path / "b") == tree(made.model)


def test_a_server_without_ranges_goes_step_by_step(made, tmp_path):
    class Whole(LocalStore):
        remote, supports_ranges = True, False

    assert states_of(Whole(made.package), tmp_path / "a") == list(STATES)
    assert states_of(Whole(made.package), tmp_path / "b", straight=True) == ["exact"]
    assert tree(tmp_path / "b") == tree(made.model)


@pytest.mark.parametrize("straight", [None, True])
def test_updates_that_cut_the_model_differently_go_step_by_step(
    made, tmp_path, monkeypatch, straight
):
    monkeypatch.setattr(stretches, "common_bundles", lambda levels: None)
    assert states_of(made.package, tmp_path / "dst", straight=straight) == list(STATES)
    assert tree(tmp_path / "dst") == tree(made.model)


def test_versions_are_stretches_of_their_own(versions, tmp_path):
    dst = tmp_path / "dst"
    seen = states_of(versions.package, dst)
    assert seen[-1] == "exact" and not any(label.endswith("base") for label in seen)
    assert tree(dst) == tree(versions.models["v3"])


# --- faults


def test_a_damaged_chunk_in_the_middle_is_fetched_once_more(made, tmp_path):
    class Once(LocalStore):
        left = 1

        def stream(self, key, start, length):
            for piece in super().stream(key, start, length):
                if key == "8bit-000.bin" and self.left and start <= 20_000 < start + len(piece):
                    Once.left -= 1
                    piece = bytearray(piece)
                    piece[20_000 - start] ^= 1
                    piece = bytes(piece)
                start += len(piece)
                yield piece

    store = CountingStore(Once(made.package))
    assert states_of(store, tmp_path / "dst", straight=True) == ["exact"]
    assert tree(tmp_path / "dst") == tree(made.model)
    assert Once.left == 0


@pytest.mark.parametrize("straight", [None, True])
@pytest.mark.parametrize(("broken", "best"), [("8bit", "base"), ("exact", "8bit")])
def test_before_a_chunk_that_stays_damaged_the_best_state_is_made(
    made, package, tmp_path, straight, broken, best
):
    dst, blob = tmp_path / "dst", package / f"{broken}-000.bin"
    flip(blob, blob.stat().st_size // 2)
    for _ in range(2):
        with pytest.raises(IntegrityError, match=rf"{broken}-000\.bin.*chunk \d+"):
            pull(package, dst, retry=QUICK, straight=straight)
        assert made.label(dst) == best
    flip(blob, blob.stat().st_size // 2)
    pull(package, dst)
    assert tree(dst) == tree(made.model)
    assert leftovers(tmp_path) == []


def test_an_index_that_is_damaged_costs_only_its_own_state(made, package, tmp_path):
    flip(package / "exact.index", 30)
    with pytest.raises(IntegrityError, match=r"exact\.index"):
        pull(package, tmp_path / "dst")
    assert made.label(tmp_path / "dst") == "8bit"


def test_the_previous_state_stays_until_the_end(made, package, tmp_path):
    """Whatever happens on the way, the folder is the state that it was."""
    dst = tmp_path / "dst"
    pull(package, dst, until="base")
    for requests in (3, 9, 30):
        interrupted(made, dst, requests, straight=True)
        assert made.label(dst) == "base"
    assert states_of(made.package, dst) == ["exact"]


# --- going on


def test_an_interrupted_transfer_goes_on_straight(made, tmp_path, served):
    url, app = served
    dst = tmp_path / "dst"
    interrupted(made, dst, 60, straight=True)
    work = WorkFolder(dst.resolve())
    found = read_journal(work.journal)
    assert found is not None and found.done
    whole = Stretch(made.manifest.updates)
    assert found.header == journal_header(made.manifest, whole, in_place=False)
    plan = pull_with(made.package, dst, dry_run=True).plan
    assert [0 < step.missing < step.bytes for step in plan.steps] == [True] * 3
    seen: list[str] = []
    # Not even a callback, for which each state would be made, changes what was begun.
    result = pull_with(url, dst, on_state=seen.append, each_state=True)
    assert seen == ["exact"]
    assert tree(dst) == tree(made.model)
    manifest = (made.package / "p2u.json").stat().st_size
    indices = sum(step.bytes for step in plan.steps) - sum(u.bytes for u in whole.updates)
    payloads = sum(step.missing for step in plan.steps) - indices
    # Layout and indices were cached.
    assert result.fetched == app.sent == payloads + manifest


def test_what_was_begun_step_by_step_goes_on_so(made, tmp_path):
    dst = tmp_path / "dst"
    interrupted(made, dst, 12)
    store = CountingStore(LocalStore(made.package))
    assert states_of(store, dst) == ["base", "exact"]
    assert 0 < taken(store, "base") < made.update("base").bytes


@pytest.mark.parametrize("first", [False, True])
def test_the_override_counts_more_than_what_was_begun(made, tmp_path, first):
    dst = tmp_path / "dst"
    interrupted(made, dst, 12, straight=first)
    seen = states_of(made.package, dst, straight=not first)
    assert seen == (list(STATES) if first else ["exact"])
    assert tree(dst) == tree(made.model)


def test_what_begins_in_place_goes_on_in_place(made, tmp_path):
    """Half-refined files are no state: the stretch that was begun has to end."""
    dst = tmp_path / "dst"
    pull(made.package, dst, until="base")
    interrupted(made, dst, 30, straight=True, in_place=True)
    assert made.label(dst) is None
    store = CountingStore(LocalStore(made.package))
    assert states_of(store, dst, straight=False) == ["exact"]
    assert tree(dst) == tree(made.model)
    assert taken(store, "base") == 0
    assert taken(store, "exact") < made.update("exact").bytes


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize(("source", "in_place"), [(None, False), ("base", False), ("base", True)])
def test_kill_9_at_ten_random_moments(made, tmp_path, served, source, in_place):
    rng = random.Random(f"{source} {in_place}")
    url, app = served
    updates = made.manifest.updates[0 if source is None else 1 :]
    total = sum(update.bytes for update in updates)
    unfinished = resumed = 0
    for number in range(10):
        dst = tmp_path / f"dst{number}"
        if source is not None:
            shutil.copytree(made.states[source], dst)
        app.reset()
        app.hold_back(after=int(total * (number + rng.random()) / 10))
        process = start(url, dst, in_place, straight=True)
        until(lambda: app.silent.is_set() or process.poll() is not None)  # noqa: B023
        time.sleep(0.03 * rng.random())
        process.kill()
        process.wait()
        state = made.label(dst)
        if not in_place:
            assert state in (source, "exact"), "the previous state, or the one wanted"
        unfinished += state != "exact"
        found = read_journal(WorkFolder(dst.resolve()).journal)
        done = found.done if found is not None and state != "exact" else {}
        with PackageReader(made.package) as package:
            held = stretches.bundles(package, Stretch(updates))
        here = sum(bundle.length for bundle in held if bundle.number in done)
        resumed += bool(here)
        app.reset()
        result = pull_with(url, dst, in_place=in_place, sizes=RequestSizes(gap=0))
        assert tree(dst) == tree(made.model)
        assert leftovers(tmp_path) == []
        objects = sum(p.stat().st_size for p in made.package.glob("*.[ijz]*"))
        assert result.fetched <= total - here + objects
    assert unfinished >= 5 and resumed >= 3, "the moments were not spread over the transfer"


def test_ctrl_c_keeps_what_is_there(made, tmp_path):
    dst = tmp_path / "dst"
    total = made.manifest.states[-1].bytes

    def progress(p):
        if p.done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull_with(
            made.package,
            dst,
            progress=progress,
            straight=True,
            limit_rate=float(total),
            sizes=SMALL,
        )
    assert not dst.exists()
    assert not [t for t in threading.enumerate() if t.name.startswith("p2u-")]
    result = pull(made.package, dst)
    assert tree(dst) == tree(made.model)
    assert result.fetched < 0.8 * total


def test_memory_stays_small(tmp_path):
    """Peak memory of a pull of 32 MiB over HTTP: far below the model's size."""
    model = tmp_path / "model.safetensors"
    kit.write_safetensors(
        model,
        [(f"w{i}", "F32", (1024, 1024), kit.floats(1 << 14, "F32", i) * 64) for i in range(8)],
    )
    p2u.pack(model, tmp_path / "pkg")
    server, _ = kit.counting_server(tmp_path / "pkg")
    code = "import sys, p2u; p2u.pull(*sys.argv[1:], jobs=4, straight=True)"
    code += "; assert 'numpy' not in sys.modules"
    with server:
        peak = int(kit.run_python(code + kit.PRINT_PEAK, server.url, tmp_path / "dst"))
    assert peak < (4 << 20) + (64 << 20)
    assert (tmp_path / "dst" / "model.safetensors").read_bytes() == model.read_bytes()
