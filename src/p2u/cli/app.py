"""All commands in one application, and what becomes of their errors."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from p2u.cli import (
    cache,
    clean,
    extensions,
    failures,
    gc,
    inspect,
    logs,
    mirror,
    pack,
    plan,
    publish,
    pull,
    serve,
    terminal,
    torrent,
    verify,
    watch,
)

app = typer.Typer(
    name="p2u",
    help="Progressive precision updates for model files: usable first, bit-exact at the end.",
    epilog="Exit statuses: 0 done, 1 something stands in the way, 2 the command is wrong, 130 "
    "interrupted; docs/errors.md has all of them.",
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


def _log_format(wanted: logs.LogFormat) -> None:
    if wanted is logs.LogFormat.JSON:
        logs.start()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    log_format: Annotated[
        logs.LogFormat,
        typer.Option(
            callback=_log_format,
            is_eager=True,  # before a wrong command is an error
            envvar="P2U_LOG_FORMAT",
            help="Report events and errors as text, or as lines of JSON on stderr.",
        ),
    ] = logs.LogFormat.TEXT,
) -> None:
    pass


app.command(epilog=pack.EXAMPLES)(pack.pack)
app.command(epilog=inspect.EXAMPLES)(inspect.inspect)
app.command(epilog=verify.EXAMPLES)(verify.verify)
app.command(epilog=mirror.PUSH_EXAMPLES)(mirror.push)
app.command(epilog=mirror.EXAMPLES)(mirror.mirror)
app.command(epilog=torrent.EXAMPLES)(torrent.torrent)
app.command(epilog=plan.EXAMPLES)(plan.plan)
app.command(epilog=pull.EXAMPLES)(pull.pull)
app.command(epilog=serve.EXAMPLES)(serve.serve)
app.command(epilog=watch.EXAMPLES)(watch.watch)
app.command(epilog=publish.EXAMPLES)(publish.publish)
app.command(epilog=gc.EXAMPLES)(gc.gc)
app.command(epilog=clean.EXAMPLES)(clean.clean)
app.add_typer(cache.app, name="cache")
app.command("eval", context_settings=extensions.PASS_ON, add_help_option=False)(extensions.evaluate)


def run() -> int:
    """Run the command that the process was started with; returns its exit status."""
    logging.getLogger("p2u").addHandler(logging.NullHandler())  # results have all warnings
    terminal.prepare()
    logs.end()
    try:
        status = app(standalone_mode=False)
        terminal.flush()
    except Exception as error:  # noqa: BLE001 - nobody above could do anything with it
        status = failures.report(error)
    logs.end()  # not after a signal, which is yet to be reported
    return status if isinstance(status, int) else 0
