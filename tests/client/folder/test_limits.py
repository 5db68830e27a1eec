"""Limits: of what packages ask for, of open files, and of what broken packages cost."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from kit import QUICK, floats, tree, write_safetensors
from manifests import manifest_of
from pulling import leftovers
from store_kit import CountingStore

import p2u
from p2u.client.folder.pull import pull
from p2u.client.folder.target import MOST_OPEN, Opened
from p2u.client.routes import stretches
from p2u.client.routes.routes import MOST_BROKEN
from p2u.disk.errors import disk_error
from p2u.errors import LimitError, NotFoundError, P2UError, UsageError
from p2u.package.manifest import FileEntry, Manifest, Object, Release, State, Update, with_costs
from p2u.package.manifest import state_digest as digest
from p2u.packing.api import pack
from p2u.stores import LocalStore

SHA = "1" * 64


def test_no_more_than_the_caller_allows(made, tmp_path):
    size = sum(file.size for file in made.manifest.latest.files)
    dst = tmp_path / "dst"
    store = CountingStore(LocalStore(made.package))
    with pytest.raises(LimitError, match=rf"{size} bytes, at most {size - 1}.*max-bytes"):
        pull(store, dst, max_bytes=size - 1)
    assert store.ranges == [] and not dst.exists() and leftovers(tmp_path) == []
    assert pull(made.package, dst, max_bytes=size).state == "exact"
    with pytest.raises(UsageError):
        pull(made.package, dst, max_bytes=-1)


def test_objects_that_describe_a_version_count_too(made, package, tmp_path):
    manifest = made.manifest
    size = sum(file.size for file in manifest.latest.files)
    layout = replace(manifest.latest.layout, size=size + 1)
    lie = with_costs(replace(manifest, releases=(replace(manifest.latest, layout=layout),)))
    (package / "p2u.json").write_bytes(lie.to_bytes())
    with pytest.raises(LimitError, match=r"layout\.json\.zst"):
        pull(package, tmp_path / "dst", max_bytes=size)


def test_few_files_are_open_at_a_time(tmp_path):
    paths = [tmp_path / str(n) for n in range(3 * MOST_OPEN)]
    for path in paths:
        path.write_bytes(path.name.encode())
    with Opened(lambda file: paths[file]) as opened:
        held = [opened[n] for n in range(len(paths))]
        assert sum(not file.closed for file in held) == MOST_OPEN
        assert [opened[n].read() for n in range(len(paths))] == [p.name.encode() for p in paths]
    assert all(file.closed for file in held)


@pytest.mark.skipif(os.name != "posix", reason="needs ulimit")
def test_more_shards_than_files_may_be_open(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for n in range(150):
        name = f"model-{n + 1:05d}-of-00150.safetensors"
        write_safetensors(model / name, [(f"w{n}", "F32", (8, 8), floats(64, "F32", n))])
    pack(str(model), str(tmp_path / "pkg"))
    code = (
        "import resource, sys, p2u\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "for label in ('base', 'exact'):\n"
        "    p2u.pull(sys.argv[1], sys.argv[2], until=label)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "pkg"), str(tmp_path / "dst")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(p2u.__file__).parent.parent)},
    )
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "dst") == tree(model)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
def test_the_hint_says_what_to_raise(code):
    assert "ulimit -n" in str(disk_error(OSError(code, os.strerror(code)), "x"))


# --- packages that are broken on purpose


def hollow(releases: int, back: int) -> Manifest:
    """Releases, and updates between them, of which nothing but the manifest is there."""
    state = digest([("f", 1, SHA)])
    made = tuple(
        Release(
            f"v{n}",
            (FileEntry("f", 1, (SHA,)),),
            Object("layout", 1, SHA),
            (State(f"v{n}", "exact", state, 1, None, 8.0),),
        )
        for n in range(releases)
    )
    updates = tuple(
        Update(source, f"v{n}@exact", Object(f"{n}-{source}", 1, SHA), (), 0, 0)
        for n in range(releases)
        for source in (None, *(f"v{m}@exact" for m in range(max(0, n - back), n)))
    )
    return with_costs(Manifest("hollow", made, updates))


@pytest.mark.parametrize("releases", [20, 200])
def test_a_hollow_package_costs_a_few_requests(tmp_path, releases):
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "p2u.json").write_bytes(hollow(releases, 3).to_bytes())
    store = CountingStore(LocalStore(tmp_path / "pkg"))
    with pytest.raises(NotFoundError):
        pull(store, tmp_path / "dst", retry=QUICK)
    # At the beginning, and once after an update has proved broken.
    assert store.reads.count("p2u.json") == 2
    assert len(store.reads) + len(store.ranges) < 3 * MOST_BROKEN


def test_the_stretches_of_a_hostile_release_are_not_all_tried(monkeypatch):
    """With an update for each pair of states there are 2 to the power of 40 stretches."""
    state = digest([("f", 1, SHA)])
    states = tuple(State("v1", f"s{n}", state, 1, None, 8.0) for n in range(40))
    release = Release("v1", (FileEntry("f", 1, (SHA,)),), Object("layout", 1, SHA), states)
    updates = tuple(
        Update(source, states[n].id, Object(f"{n}-{source}", 1, SHA), (), 0, 0)
        for n in range(40)
        for source in (None, *(s.id for s in states[:n]))
    )
    found = list(stretches.all_stretches(Manifest("m", (release,), updates)))
    assert len(found) == stretches.MOST_STRETCHES
    assert {len(stretch.updates) for stretch in found} >= {1, 2}


def test_every_stretch_of_a_real_package_is_tried(made):
    manifest = manifest_of(made.package)
    found = [tuple(u.target for u in s.updates) for s in stretches.all_stretches(manifest)]
    base, middle, exact = (state.id for state in manifest.states)
    assert sorted(found) == sorted(
        [(base,), (middle,), (exact,), (base, middle), (middle, exact), (base, middle, exact)]
    )


def test_errors_of_the_disk_are_ours_wherever_they_come_from(made, tmp_path, monkeypatch):
    """A journal that cannot be read; the target's folder, which may not be looked at."""
    dst = tmp_path / "dst"
    pull(made.package, dst, until="base")
    real = os.open

    def refuse(path, *rest, **options):
        if str(path).endswith("journal"):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return real(path, *rest, **options)

    (tmp_path / ".dst.p2u").mkdir()
    (tmp_path / ".dst.p2u" / "journal").write_bytes(b"")
    monkeypatch.setattr(os, "open", refuse)
    for dry_run in (False, True):
        with pytest.raises(P2UError, match=r"journal.*Input/output"):
            pull(made.package, dst, dry_run=dry_run)
