"""The command line: ``p2u pack | publish | gc | inspect | verify | pull | watch ...``.

Each command has a file of its own, with its options and one call of the Python API, whose keyword
arguments have the same names. Errors of ours are shown as one message without a traceback, with
exit status 1; Ctrl-C ends with 130.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer

from p2u.cli import extensions, gc, inspect, pack, publish, pull, serve, verify, watch
from p2u.errors import Cancelled, P2UError, UsageError

app = typer.Typer(
    name="p2u",
    help="Progressive precision updates for model files: usable first, bit-exact at the end.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"p2u {version('p2u-models')}")
        except PackageNotFoundError:
            print("p2u (not installed)")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


app.command(epilog=pack.EXAMPLES)(pack.pack)
app.command(epilog=inspect.EXAMPLES)(inspect.inspect)
app.command(epilog=verify.EXAMPLES)(verify.verify)
app.command(epilog=pull.EXAMPLES)(pull.pull)
app.command(epilog=serve.EXAMPLES)(serve.serve)
app.command(epilog=watch.EXAMPLES)(watch.watch)
app.command(epilog=publish.EXAMPLES)(publish.publish)
app.command(epilog=gc.EXAMPLES)(gc.gc)
app.command("eval", context_settings=extensions.PASS_ON, add_help_option=False)(extensions.evaluate)


def _fail(message: str, status: int) -> int:
    print(f"p2u: {message}", file=sys.stderr)
    return status


def main() -> None:
    """Entry point of the ``p2u`` command."""
    logging.getLogger("p2u").addHandler(logging.NullHandler())  # results have all warnings
    try:
        app(standalone_mode=True)
    except KeyboardInterrupt:
        status = _fail("interrupted; run the same command again to resume", 130)
    except Cancelled as e:
        status = _fail(str(e), 130)
    except UsageError as e:
        status = _fail(str(e), 2)
    except P2UError as e:
        status = _fail(str(e), 1)
    except BrokenPipeError:
        # The reader of our output went away (`p2u inspect PKG | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = 1
    else:
        return
    raise SystemExit(status)
