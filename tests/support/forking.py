"""Runs code in a forked child of this process."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import traceback
from collections.abc import Callable

#: Seconds after which a child that hangs is ended.
PATIENCE = 60


def in_child(action: Callable[[], object]) -> str:
    """What an action returns in a forked child, as text; fails if it hangs or raises an error."""
    read, write = os.pipe()
    stderr = os.dup(2)
    pid = os.fork()
    if pid == 0:
        # Rubbish of earlier tests is not freed here: native objects hang without their threads.
        gc.freeze()
        # A handler in Python, as pytest-timeout has one, never runs where a lock is waited for.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        faulthandler.dump_traceback_later(PATIENCE - 5, file=stderr)
        signal.alarm(PATIENCE)
        status = 1
        try:
            text = str(action())
            status = 0
        except BaseException:
            text = traceback.format_exc()
        os.write(write, text.encode()[:60000])
        os._exit(status)
    os.close(write)
    os.close(stderr)
    with open(read, "rb") as pipe:
        text = pipe.read().decode()
    status = os.waitpid(pid, 0)[1]
    assert status == 0, f"the child ended with {status}: {text}"
    return text


def raised(action: Callable[[], object]) -> str:
    """The error that an action raises, as text."""
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"
