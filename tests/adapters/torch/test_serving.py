"""A model that answers while it sharpens: one state per answer, whatever happens meanwhile."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import kit
import pytest
from kit import QUICK, STATES
from store_kit import GatedStore

torch = pytest.importorskip("torch")

import nets  # noqa: E402

import p2u  # noqa: E402
from p2u.errors import Cancelled, StoreError  # noqa: E402
from p2u.serve import Server  # noqa: E402
from p2u.stores import LocalStore  # noqa: E402

pytestmark = pytest.mark.usefixtures("few_threads")


def answers(net: nets.Packed, inputs) -> dict[str, list]:
    """What each state answers."""
    with torch.no_grad():
        return {
            label: [model(x) for x in inputs]
            for label in STATES
            for model in [net.plain(nets.Net, label)]
        }


def which(answer, expected: dict[str, list], number: int) -> str:
    """The one state that gives this answer."""
    found = [label for label in STATES if torch.equal(answer, expected[label][number])]
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize("staging", ["copy", "chunks"])
def test_a_thousand_requests_while_it_refines(net: nets.Packed, staging: str) -> None:
    """Four threads over a slow link: every answer is bitwise that of exactly one state."""
    inputs = nets.requests(25)
    expected = answers(net, inputs)
    server, _ = kit.counting_server(net.package)
    size = sum(p.stat().st_size for p in net.package.iterdir())
    seen: list[tuple[str, str]] = []
    with server:
        model = p2u.torch.load(
            server.url, nets.Net, staging=staging, limit_rate=size / 1.5, jobs=4
        ).eval()
        number = iter(range(1_000_000))
        ended = threading.Event()

        def serve(_: int) -> None:
            while not ended.is_set():
                at = next(number)
                if at >= 1000 and model.p2u.state == "exact":
                    ended.set()
                x = inputs[at % len(inputs)]
                with torch.no_grad():
                    if at % 7:
                        answer, said = model(x), None
                    else:
                        with model.p2u.pinned() as said:
                            answer = model(x)
                            assert torch.equal(answer, model(x))
                label = which(answer, expected, at % len(inputs))
                assert said in (None, label)
                seen.append((label, threading.current_thread().name))

        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(serve, n) for n in range(4)]:
                done.result(timeout=60)
    assert len(seen) >= 1000
    assert {label for label, _ in seen} == set(STATES)
    assert len({thread for _, thread in seen}) == 4
    assert [c.state for c in model.p2u.commits] == ["8bit", "exact"]
    assert all(c.waited < 5 for c in model.p2u.commits)


def test_the_server_dies_and_comes_back(net: nets.Packed) -> None:
    inputs = nets.requests(3)
    expected = answers(net, inputs)
    server, app = kit.counting_server(net.package)
    with server:
        url = server.url
        model = p2u.torch.load(url, nets.Net, retry=QUICK, limit_rate=100_000.0).eval()
        with torch.no_grad():
            assert which(model(inputs[0]), expected, 0) == "base"
    replica = p2u.torch.replica(model)
    with pytest.raises(StoreError):
        replica.wait("exact", timeout=30)
    state = replica.state
    with torch.no_grad():
        for number, x in enumerate(inputs):
            assert which(model(x), expected, number) == state
    with pytest.raises(StoreError), replica.pinned(require="exact"):
        pass
    sent, app.sent = app.sent, 0
    with Server(app, "127.0.0.1", int(url.rpartition(":")[2].strip("/")), quiet=True):
        replica.resume()
        replica.wait("exact", timeout=30)
    assert sent and app.sent < replica.progress.total
    with torch.no_grad():
        for number, x in enumerate(inputs):
            assert which(model(x), expected, number) == "exact"


def test_a_call_holds_its_state_and_the_next_one_has_the_new(net: nets.Packed) -> None:
    """Also if it is long, calls itself, or fails."""
    store = GatedStore(LocalStore(net.package), "base")
    inside, go_on = threading.Event(), threading.Event()

    class Slow(nets.Net):
        def forward(self, ids, depth: int = 0):
            first = super().forward(ids)
            if depth == 3:
                raise KeyError("in the middle")
            if depth == 2:
                assert torch.equal(self(ids), first)
            if depth == 1:
                inside.set()
                assert go_on.wait(20)
                assert torch.equal(super().forward(ids), first)
            return first

    model = p2u.torch.load(store, Slow).eval()
    (x,) = nets.requests(1)
    pins = model.p2u._parts.pins
    with torch.no_grad():
        for _ in range(2):
            with pytest.raises(KeyError):
                model(x, 3)
            assert not pins.held()
        model(x, 2)
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(model, x, 1)
            assert inside.wait(20)
            store.open("8bit")
            time.sleep(0.2)
            assert model.p2u.state == "base"
            go_on.set()
            base = slow.result(20)
        model.p2u.wait("8bit", timeout=20)
        assert not torch.equal(model(x), base)
        store.open("exact")
        with model.p2u.pinned(require="exact", timeout=20):
            assert which(model(x), answers(net, [x]), 0) == "exact"


def test_an_interrupted_call_does_not_block_commits(net: nets.Packed) -> None:
    store = GatedStore(LocalStore(net.package), "base")

    class Interrupted(nets.Net):
        def forward(self, ids, stop: bool = False):
            if stop:
                raise KeyboardInterrupt
            return super().forward(ids)

    model = p2u.torch.load(store, Interrupted).eval()
    (x,) = nets.requests(1)
    with pytest.raises(KeyboardInterrupt):
        model(x, True)
    store.open("8bit", "exact")
    model.p2u.wait("8bit", timeout=20)
    with pytest.raises(KeyboardInterrupt):
        model(x, True)
    with torch.no_grad():
        model(x)
    assert not model.p2u._parts.pins.held()
    model.p2u.wait(timeout=20)


def test_states_progress_and_cancel(net: nets.Packed) -> None:
    store = GatedStore(LocalStore(net.package), "base", "8bit")
    model = p2u.torch.load(store, nets.Net, "v1@8bit").eval()
    replica = model.p2u
    assert replica is p2u.torch.replica(model)
    assert replica.state == "8bit" and replica.states == STATES
    told: list[str] = []
    replica.on_state(told.append)
    assert told == ["base", "8bit"]
    assert 0 < replica.progress.done < replica.progress.total
    threading.Timer(0.05, store.gates["exact"].set).start()
    replica.cancel()
    with pytest.raises(Cancelled):
        replica.wait("exact")
    (x,) = nets.requests(1)
    with torch.no_grad():
        assert which(model(x), answers(net, [x]), 0) == "8bit"


def test_eager_ends_exact_and_holds_nobody_up(net: nets.Packed) -> None:
    model = p2u.torch.load(net.package, nets.Net, mode="eager").eval()
    assert not model._forward_pre_hooks
    model.p2u.wait(timeout=20)
    (x,) = nets.requests(1)
    with torch.no_grad():
        assert which(model(x), answers(net, [x]), 0) == "exact"


def test_generate_is_of_one_state(net: nets.Packed) -> None:
    """A method that calls the model many times, with an update waiting all the time."""
    store = GatedStore(LocalStore(net.package), "base")

    class Generator(nets.Net):
        def generate(self, ids, steps: int):
            """Greedy."""
            for step in range(steps):
                ids = torch.cat([ids, self(ids).argmax(-1, keepdim=True)], 1)
                if step == 2:
                    store.open("8bit", "exact")
                    time.sleep(0.2)
                assert self.p2u.state == "base" or step == 0
            return ids

    model = p2u.torch.load(store, Generator).eval()
    assert model.generate.__doc__ == "Greedy."
    (x,) = nets.requests(1)
    with torch.no_grad():
        out = model.generate(x, 6)
        plain = net.plain(nets.Net, "base")
        ids = x
        for _ in range(6):
            ids = torch.cat([ids, plain(ids).argmax(-1, keepdim=True)], 1)
    assert torch.equal(out, ids)
    model.p2u.wait(timeout=20)
