"""Ctrl-C, SIGTERM and SIGHUP end a command alike, at any moment: by an exception of our own.

The command line framework would take KeyboardInterrupt and end without a word.
"""

from __future__ import annotations

import signal
import sys

#: What a command says when it is ended so.
MESSAGE = "interrupted; run the same command again to go on"

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class Interrupted(BaseException):
    """A signal asks the command to end; what it holds is released on the way out.

    Attributes:
        status: The exit status that shells use for it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number


def install() -> None:
    """Raise `Interrupted` in the main thread at each of the signals, unless it is ignored."""
    for number in _numbers():
        if signal.getsignal(number) is not signal.SIG_IGN:  # by nohup, or in the background
            signal.signal(number, _raise)
    sys.unraisablehook = _ignored


def uninstall() -> None:
    """The work is done: the signals end the process again."""
    for number in _numbers():
        if signal.getsignal(number) is _raise:
            signal.signal(number, signal.SIG_DFL)
    sys.unraisablehook = sys.__unraisablehook__


def say() -> None:
    """Print the message."""
    from p2u.cli import logs

    if logs.is_json():
        logs.log(20, MESSAGE, event="interrupted")  # logging.INFO
        return
    print(f"p2u: {MESSAGE}", file=sys.stderr, flush=True)


def _numbers() -> list[signal.Signals]:
    return [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]


def _ignored(found: sys.UnraisableHookArgs) -> None:
    """Send a signal again that came within a finaliser, where Python drops exceptions."""
    if not isinstance(found.exc_value, Interrupted):
        sys.__unraisablehook__(found)
        return
    import os
    import threading

    number = found.exc_value.status - 128
    again = threading.Timer(0.05, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()


def _raise(number: int, _: object) -> None:
    raise Interrupted(number)
