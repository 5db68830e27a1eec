"""Forks while threads of this process work for objects that are told of forks."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks with threads")

#: An object whose fork waits for a task that needs a pool, and which makes such an object.
WAITS = """
import os, threading, time
from p2u.one_process import OneProcess
from concurrent.futures import ThreadPoolExecutor
forking = threading.Event()

class Waits(OneProcess):
    def __init__(self):
        self.told = []
        self.done = threading.Event()
        self.register_forks()
    def before_fork(self):
        forking.set()
        self.told.append("before")
        assert self.done.wait(20), "the pool's task waits for the fork"
    def after_fork(self, *, child):
        self.told.append("child" if child else "parent")

class Inner(Waits):
    def before_fork(self):
        self.told.append("before")

one, made = Waits(), []
def work():
    forking.wait(20)
    with ThreadPoolExecutor(1) as pool:
        made.append(pool.submit(Inner).result())
    one.done.set()
thread = threading.Thread(target=work)
thread.start()
if os.fork() == 0:
    assert one.told == ["before", "child"] and made[0].told == ["child"]
    os._exit(0)
assert os.wait()[1] == 0
assert one.told == ["before", "parent"] and made[0].told == []
if os.fork() == 0:
    assert made[0].told == ["before", "child"]
    os._exit(0)
assert os.wait()[1] == 0
assert made[0].told == ["before", "parent"]
"""


def test_work_that_a_fork_waits_for_may_use_pools_and_make_such_objects() -> None:
    """The commit of a live model does both."""
    subprocess.run([sys.executable, "-c", WAITS], check=True, timeout=60)
