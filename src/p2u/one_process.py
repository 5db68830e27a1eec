"""Objects that belong to the process that made them: they have threads, locks or connections.

They cannot be pickled. After a fork the child has neither the threads that change them nor those
that hold their locks, so each of them is told, and makes of itself what the child can use.
"""

from __future__ import annotations

# The module's own hook holds a lock of all pools over a fork. Hooks are called in reverse order, so
# ours, which waits for work of pools, has to be registered after it.
import concurrent.futures.thread  # noqa: F401
import os
import threading
import weakref
from typing import Any, NoReturn

from p2u.errors import UsageError


class OneProcess:
    """Base class of such objects."""

    def register_forks(self) -> None:
        """Let `before_fork` and `after_fork` be called, for as long as the object is in use."""
        with _forks.lock:
            _forks.objects.add(self)

    def before_fork(self) -> None:
        """This process is about to fork, in this thread."""

    def after_fork(self, *, child: bool) -> None:
        """It has forked.

        Args:
            child: This is the child: of all threads, only this one is there.
        """

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        kind = type(self).__name__
        raise UsageError(
            f"a {kind} belongs to the process that made it: it cannot be pickled",
            hint=f"Give the other process the path or URL, to make a {kind} of its own",
        )


class _Forks:
    """All objects to tell of forks.

    The work that they wait for before a fork may make such objects, so the list is not locked
    meanwhile. An object made then is told nothing in the parent, whose threads go on with it.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.objects: weakref.WeakSet[OneProcess] = weakref.WeakSet()
        #: Held from before a fork until after it.
        self._forking = threading.RLock()
        self._told: list[OneProcess] = []

    def before(self) -> None:
        self._forking.acquire()
        with self.lock:
            self._told = list(self.objects)
        for found in self._told:
            found.before_fork()
        self.lock.acquire()

    def after(self, *, child: bool) -> None:
        told, self._told = self._told, []
        if child:
            known = {id(found) for found in told}
            told = [found for found in self.objects if id(found) not in known] + told
            self.lock, self._forking = threading.RLock(), threading.RLock()
        else:
            self.lock.release()
        for found in reversed(told):
            found.after_fork(child=child)
        if not child:
            self._forking.release()


_forks = _Forks()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_forks.before,
        after_in_parent=lambda: _forks.after(child=False),
        after_in_child=lambda: _forks.after(child=True),
    )
