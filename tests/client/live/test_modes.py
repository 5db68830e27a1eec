"""The live replica's modes: eager and atomic, pins, and going on after failures."""

from __future__ import annotations

import threading
import time

import kit
import pytest
from following import files
from kit import STATES, Made
from live_kit import open_with
from store_kit import CountingStore, FlakyStore, GatedStore
from waiting import until

from p2u.client.live.opening import open_replica
from p2u.errors import Cancelled, StoreError, UsageError
from p2u.serve import Server
from p2u.stores import LocalStore
from p2u.stores.backoff import Retry

#: One retry only: what failures cost in bytes is counted here.
QUICK = Retry(attempts=2, base=0.001, cap=0.002)
STAGINGS = ("copy", "chunks")


@pytest.mark.parametrize("way", STAGINGS)
def test_atomic_every_state_is_whole(made: Made, way: str) -> None:
    """Whenever the state is pinned, all bytes of all files are of the state that the pin says."""
    want = {label: kit.tree(made.states[label]) for label in STATES}
    seen = []
    with open_with(made.package, staging=way, limit_rate=400_000.0, spool_memory=10_000) as replica:
        assert replica.mode == "atomic"
        while not seen or seen[-1] != "exact":
            with replica.pinned(timeout=20) as label:
                assert files(replica) == want[label]
                assert replica.state == label
            seen.append(label)
        replica.wait()
        assert replica.staging == way
        assert [commit.state for commit in replica.commits] == ["8bit", "exact"]
        assert all(0 <= c.pause < 5 and 0 <= c.waited < 5 for c in replica.commits)
    assert [label for label in STATES if label in seen] == list(STATES)
    assert seen == sorted(seen, key=STATES.index)


def test_a_pin_holds_the_state_and_others_go_on(made: Made) -> None:
    tap = GatedStore(LocalStore(made.package), *STATES)
    with open_replica(tap) as replica:
        with replica.pinned() as label:
            before = files(replica)
            for _ in range(3):
                with replica.pinned(brief=True) as again:
                    assert again == label
                other: list[str] = []

                def use() -> None:
                    with replica.pinned(timeout=5, brief=True) as label:
                        other.append(label)  # noqa: B023 - joined below

                thread = threading.Thread(target=use)
                thread.start()
                thread.join()
                assert other == [label]
            assert files(replica) == before == kit.tree(made.states[label])
            if label != "exact":
                with pytest.raises(UsageError, match="wait for ever"):
                    replica.wait("exact")
                with (
                    pytest.raises(UsageError, match="pinned"),
                    replica.pinned(require="exact"),
                ):
                    pass
        with replica.pinned(require="exact", timeout=20) as label:
            assert label == "exact"
            assert files(replica) == kit.tree(made.model)


def test_require_takes_what_is_better_and_waits_for_no_less(made: Made) -> None:
    tap = GatedStore(LocalStore(made.package), "base")
    with open_replica(tap) as replica:
        with replica.pinned(require="base") as label:
            assert label == "base"
        with pytest.raises(TimeoutError, match="8bit"), replica.pinned("v1@8bit", timeout=0.05):
            pass
        with pytest.raises(UsageError, match="4bit"), replica.pinned("4bit"):
            pass
        tap.open("8bit", "exact")
        replica.wait()
        with replica.pinned(require="8bit") as label:
            assert label == "exact"


def test_the_first_pin_waits_for_the_base(made: Made) -> None:
    tap = GatedStore(LocalStore(made.package))
    with open_replica(tap) as replica:
        threading.Timer(0.05, tap.gates["base"].set).start()
        with replica.pinned(timeout=10) as label:
            assert label == "base"


def test_eager_takes_effect_chunk_by_chunk(made: Made) -> None:
    tap = GatedStore(LocalStore(made.package), "base")
    with open_replica(tap, mode="eager", retry=QUICK) as replica:
        replica.wait("base")
        base = files(replica)
        tap.left = 9
        tap.open("8bit")
        with pytest.raises(StoreError):
            replica.wait("8bit")
        assert replica.state == "base"
        assert replica.staging == "direct"
        mixture = files(replica)
        assert mixture not in (base, kit.tree(made.states["8bit"]))
        tap.left, tap.dead = None, False
        tap.open("exact")
        replica.resume()
        with replica.pinned(require="8bit", timeout=20):  # holds nothing, but waits
            pass
        replica.wait()
        assert files(replica) == kit.tree(made.model)


def test_direct_leaves_the_pause_to_those_who_copy(made: Made) -> None:
    tap = GatedStore(LocalStore(made.package), "base")
    copies: dict[str, dict[str, bytes]] = {}
    with open_replica(tap, staging="direct") as replica:
        with replica.pinned():
            copies["base"] = files(replica)
            replica.on_commit(lambda label: copies.update({label: files(replica)}))
        with replica.pinned():
            tap.open("8bit", "exact")
            time.sleep(0.1)
            assert list(copies) == ["base"]
        replica.wait()
    assert copies == {label: kit.tree(made.states[label]) for label in STATES}


def test_an_action_of_a_commit_that_fails_ends_it(made: Made) -> None:
    tap = GatedStore(LocalStore(made.package), "base")
    with open_replica(tap) as replica:
        with replica.pinned():
            replica.on_commit(lambda label: 1 / 0)
        tap.open(*STATES)
        with pytest.raises(ZeroDivisionError):
            replica.wait("8bit")
        with pytest.raises(ZeroDivisionError), replica.pinned():
            pass
        with pytest.raises(ZeroDivisionError):
            replica.resume()


@pytest.mark.parametrize("mode", ["eager", "atomic"])
def test_network_dies_and_comes_back(made: Made, mode: str) -> None:
    """It stays at its state, and nothing that was verified is fetched again."""
    counting = CountingStore(LocalStore(made.package))
    tap = GatedStore(counting, *STATES)
    tap.left = 9
    # One thread: what another had half of would have to be fetched again.
    with open_replica(tap, mode=mode, retry=QUICK, jobs=1) as replica:
        replica.wait("base")
        with pytest.raises(StoreError, match="on purpose"):
            replica.wait()
        assert replica.state == "base" and isinstance(replica.error, StoreError)
        if mode == "atomic":
            with replica.pinned() as label:
                assert label == "base"
                assert files(replica) == kit.tree(made.states["base"])
        with pytest.raises(StoreError), replica.pinned(require="exact"):
            pass
        replica.resume()  # still dead
        with pytest.raises(StoreError):
            replica.wait()
        assert not tap.closed
        tap.left, tap.dead = None, False
        replica.resume()
        replica.resume()
        replica.wait(timeout=20)
        assert replica.error is None
        assert files(replica) == kit.tree(made.model)
        assert replica.progress.done == replica.progress.total
        replica.resume()
        assert tap.closed
    lost = counting.taken - replica.progress.total - (made.package / "p2u.json").stat().st_size
    # At most a piece per try that failed, of which there were a few.
    assert 0 <= lost < 300_000
    manifests = [key for key in counting.reads if key == "p2u.json"]
    assert len(manifests) == 1


def test_resume_over_http(made: Made) -> None:
    server, app = kit.counting_server(made.package)
    with server:
        url, port = server.url, int(server.url.rpartition(":")[2].strip("/"))
        replica = open_replica(url, retry=QUICK, limit_rate=150_000.0)
        replica.wait("base")
    with pytest.raises(StoreError):
        replica.wait(timeout=20)
    sent = app.sent
    server = Server(app, "127.0.0.1", port, quiet=True)
    with server, replica:
        replica.resume()
        replica.wait(timeout=20)
        assert files(replica) == kit.tree(made.model)
        assert replica.progress.done == replica.progress.total
    assert app.sent - sent < replica.progress.total


@pytest.mark.parametrize("way", STAGINGS)
def test_cancel_while_a_commit_waits(made: Made, way: str) -> None:
    replica = open_replica(made.package, staging=way)
    with replica.pinned() as label:
        until(lambda: replica._parts.pins.awaited or replica.state == "exact")
        replica.cancel()
        assert files(replica) == kit.tree(made.states[label])
    assert not [t for t in threading.enumerate() if t.name.startswith("p2u-")]
    with pytest.raises(Cancelled):
        replica.wait("exact")
    with pytest.raises(Cancelled):
        replica.resume()
    with replica.pinned() as again:
        assert again == label


def test_the_best_state_by_a_deadline(made: Made) -> None:
    with open_replica(made.package, deadline=60) as replica:
        replica.wait("best", timeout=20)
        assert replica.state == "exact"
    base, middle, last = (state.bytes for state in made.manifest.states)
    rate = min(float(middle), (last - middle) / 3)  # 8bit takes a second or less, exact three more
    with open_replica(made.package, limit_rate=rate, deadline=middle / rate + 0.5) as replica:
        with replica.pinned("best", timeout=20) as state:
            assert state == "8bit"
        assert replica.progress.seconds < middle / rate + 1
    # Nothing can be here by then: the first that is. So without a deadline.
    for deadline in (0.001, None):
        replica = open_replica(made.package, limit_rate=2.0 * base, deadline=deadline)
        with replica, replica.pinned("best", timeout=20) as state:
            assert state == "base"


def test_wrong_arguments(made: Made) -> None:
    with pytest.raises(UsageError, match="mode"):
        open_replica(made.package, mode="lazy")
    with pytest.raises(UsageError, match="staging"):
        open_replica(made.package, staging="both")


def test_flaky_connections(made: Made) -> None:
    flaky = FlakyStore(LocalStore(made.package), lambda key, start, n: n % 3 == 0)
    with open_replica(flaky, staging="chunks", retry=QUICK) as replica:
        replica.wait()
        assert files(replica) == kit.tree(made.model)
