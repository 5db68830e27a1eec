"""Killed at any moment between two versions: the folder is the one or the other, and the next run
goes on."""

from __future__ import annotations

import random
import shutil
import signal
import time
from pathlib import Path

import kit
import pytest
from killing import lives, start
from versions import Versions
from waiting import until

from p2u.client.folder.pull import pull
from p2u.client.folder.verify import verify
from p2u.errors import UsageError

#: Source, target, whether in place.
WAYS = [
    ("v1@exact", "v2@exact", False),
    ("v1@exact", "v2@exact", True),
    ("v2@exact", "v3@exact", False),
]


def known(folder: Path) -> bool:
    """Whether the folder itself says, rightly, which state it holds."""
    try:
        return verify(folder).kind == "directory"
    except UsageError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize(("source", "target", "in_place"), WAYS)
def test_kill_9_at_ten_random_moments(versions: Versions, tmp_path, source, target, in_place):
    rng = random.Random(f"{source} {in_place}")
    update = versions.update(source, target)
    before = tmp_path / "before"
    pull(versions.package, before, until=source)
    unfinished = 0
    server, app = kit.counting_server(versions.package)
    with server:
        for number in range(10):
            dst = Path(shutil.copytree(before, tmp_path / f"dst{number}"))
            (dst / "mine.txt").write_text("mine")
            app.reset()
            app.hold_back(
                after=int(update.index.size + update.bytes * (number + rng.random()) / 10)
            )
            process = start(server.url, dst, in_place, target)
            until(lambda: app.silent.is_set() or process.poll() is not None)  # noqa: B023
            time.sleep(0.03 * rng.random())
            process.kill()
            process.wait()
            state = versions.state(dst)
            if not in_place:
                assert state in (source, target)
                assert known(dst)
            unfinished += state != target
            app.reset()
            result = pull(server.url, dst, until=target, in_place=in_place)
            assert versions.state(dst) == target
            assert result.state == versions.manifest.title(target)
            assert (dst / "mine.txt").read_text() == "mine"
            assert known(dst)
            assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".p2u")] == []
    assert unfinished >= 5, "the moments were not spread over the update"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "target", "in_place", "exchange", "torn"),
    [
        ("v1@exact", "v2@exact", False, True, True),
        ("v1@exact", "v2@exact", True, True, True),
        ("v2@exact", "v3@exact", False, True, True),
        ("v2@exact", "v3@exact", False, False, False),
    ],
)
@pytest.mark.parametrize("recorded", [True, False])
def test_dying_at_every_change(
    versions: Versions, tmp_path, source, target, in_place, exchange, torn, recorded
):
    dst, before = tmp_path / "dst", tmp_path / "before"
    options = {"until": target, "in_place": in_place, "jobs": 1}
    pull(versions.package, before, until=source)
    if not recorded:
        (before / ".p2u-state.json").unlink()

    def fresh() -> None:
        shutil.rmtree(dst, ignore_errors=True)
        shutil.rmtree(tmp_path / ".dst.p2u", ignore_errors=True)
        shutil.copytree(before, dst)
        (dst / "mine.txt").write_text("mine")

    fresh()
    count = 0
    run = lives(
        lambda life: pull(versions.package, dst, **options), stride=3, torn=torn, exchange=exchange
    )
    for at in run:
        count += 1
        if not in_place and (exchange or dst.exists()):
            found = versions.state(dst)
            assert found in (source, target), f"after change {at} the folder is no state"
        pull(versions.package, dst, **options)
        assert versions.state(dst) == target, f"after change {at}"
        assert (dst / "mine.txt").read_text() == "mine"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["before", "dst"]
        fresh()
    assert count > 8
