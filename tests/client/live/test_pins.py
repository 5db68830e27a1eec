"""Pins and commits: who waits for whom."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from p2u.client.live.pins import Pins
from p2u.errors import Cancelled, UsageError


class Committer:
    """A commit in a thread of its own."""

    def __init__(self, pins: Pins, check: Callable[[], None] = lambda: None) -> None:
        self.done = threading.Event()
        self.error: BaseException | None = None
        self.waited = 0.0
        self._pins, self._check = pins, check
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            with self._pins.commit(self._check) as self.waited:
                pass
        except BaseException as error:
            self.error = error
        self.done.set()


def elsewhere(act: Callable[[], object], timeout: float = 0.0) -> bool:
    """Whether a call in another thread returns within some seconds."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(timeout or 5)
    return not thread.is_alive()


def use(pins: Pins, *, brief: bool = True) -> Callable[[], None]:
    def act() -> None:
        with pins.pin(brief=brief):
            pass

    return act


@contextmanager
def waiting(pins: Pins) -> Iterator[Committer]:
    """A commit that waits for somebody's pin."""
    committer = Committer(pins)
    while not pins.awaited:
        time.sleep(0.001)
    yield committer
    assert committer.done.wait(5)
    assert committer.error is None


def test_a_commit_waits_for_all_pins():
    pins = Pins(60)
    both = [pins.pin(brief=True), pins.pin(brief=False)]
    with waiting(pins) as commit:
        both[0].release()
        assert not commit.done.wait(0.05)
        both[0].release()  # again: no harm
        assert not commit.done.wait(0.05)
        both[1].release()
        assert commit.done.wait(5)
        assert 0.1 <= commit.waited < 5


def test_newcomers_wait_for_a_commit_that_waits_for_brief_pins():
    pins = Pins(60)
    with pins.pin(brief=True) as pin, waiting(pins) as commit:
        assert not elsewhere(use(pins), 0.1)
        assert not elsewhere(use(pins, brief=False), 0.1)
        # It has what it asks for again already.
        with pins.pin(brief=True), pins.pin(brief=False):
            pass
        assert not commit.done.is_set()
        pin.release()


def test_newcomers_pass_while_a_state_is_pinned_for_long():
    pins = Pins(0.3)
    pin = pins.pin(brief=False)
    with waiting(pins):
        assert elsewhere(use(pins))
        assert elsewhere(use(pins, brief=False))
        time.sleep(0.35)
        # No patience any more: nobody may begin another long pin, calls still pass.
        assert elsewhere(use(pins))
        assert not elsewhere(use(pins, brief=False), 0.1)
        pin.release()


def test_nobody_waits_for_ever_for_a_commit_that_waits():
    """Who holds a pin may itself wait for another thread that needs one."""
    pins = Pins(0.2)
    with pins.pin(brief=True) as pin, waiting(pins) as commit:
        assert elsewhere(use(pins))
        assert not commit.done.is_set()
        pin.release()


def test_no_pin_during_a_commit():
    pins = Pins(0)
    entered = threading.Event()
    with pins.commit(lambda: None):
        thread = threading.Thread(target=lambda: pins.pin(brief=True) and entered.set())
        thread.start()
        assert not entered.wait(0.15)
        with pytest.raises(TimeoutError):
            pins.pin(brief=True, timeout=0.01)
    assert entered.wait(5)
    thread.join()


def test_a_commit_can_be_cancelled_and_then_newcomers_pass():
    pins = Pins(60)
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise Cancelled("stop")

    pin = pins.pin(brief=True)
    commit = Committer(pins, check)
    while not pins.awaited:
        time.sleep(0.001)
    stop.set()
    pins.wake()
    assert commit.done.wait(5)
    assert isinstance(commit.error, Cancelled)
    assert elsewhere(use(pins))
    pin.release()


def test_a_thread_cannot_commit_over_its_own_pin():
    pins = Pins(60)
    with pins.pin(brief=False), pytest.raises(UsageError), pins.commit(lambda: None):
        pass
    assert not pins.held()


def test_a_pin_is_void_when_its_frame_has_ended():
    """Ctrl-C in the model's forward leaves no time for a release."""
    pins = Pins(60)

    def call() -> None:
        pins.pin(brief=True, frame=sys._getframe())
        commit = Committer(pins)
        assert not commit.done.wait(0.3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call()
    commit = Committer(pins)
    assert commit.done.wait(5)

    thread = threading.Thread(target=lambda: pins.pin(brief=True, frame=sys._getframe()))
    thread.start()
    thread.join()
    assert Committer(pins).done.wait(5)


def test_many_threads_never_meet_a_commit():
    pins = Pins(0.05)
    value = [0, 0]
    stop = threading.Event()
    wrong = []

    def read(brief: bool) -> None:
        while not stop.is_set():
            with pins.pin(brief=brief):
                first = value[0]
                time.sleep(0.0002)
                if first != value[1]:
                    wrong.append(first)

    threads = [threading.Thread(target=read, args=(n % 2 == 0,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for number in range(1, 60):
        with pins.commit(lambda: None):
            value[0] = number
            time.sleep(0.0002)
            value[1] = number
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
