"""The command line: ``p2u pack | publish | gc | inspect | verify | pull | watch ...``.

Each command has a file of its own, with its options and one call of the Python API, whose keyword
arguments have the same names. Errors of ours are shown as one message without a traceback;
docs/errors.md lists the exit statuses.
"""

from __future__ import annotations

from p2u.cli import interrupts


def main() -> None:
    """Entry point of the ``p2u`` command."""
    try:
        interrupts.install()  # before anything that takes time
        from p2u.cli.app import run

        status = run()
    except interrupts.Interrupted as interrupted:
        interrupts.say()
        status = interrupted.status
    interrupts.uninstall()
    if status:
        raise SystemExit(status)
