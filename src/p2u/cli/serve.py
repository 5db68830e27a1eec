"""``p2u serve``: serve a package over HTTP, for development."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from p2u.cli.options import Json, LimitRate, Metrics, Quiet

#: Shown below the options of ``--help``.
EXAMPLES = (
    "Example:\n\n  p2u serve model.p2u --port 8000 --limit-rate 20Mbit/s\n\n"
    "For development; in production any static file host serves a package."
)


def serve(
    package: Annotated[Path, typer.Argument(help="A package, or a folder of packages.")],
    port: Annotated[int, typer.Option(help="Port; 0 selects a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    limit_rate: LimitRate = None,
    metrics: Metrics = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Serve a package over HTTP with ranges and CORS, for development."""
    from p2u.cli import interrupts, show, terminal
    from p2u.cli.metrics import exported
    from p2u.serve import make_server
    from p2u.stores.throttle import parse_rate

    rate = parse_rate(limit_rate) if limit_rate else None
    server = make_server(package, host=host, port=port, limit_rate=rate, quiet=quiet)
    try:
        with exported(metrics) as exporter:
            exporter.metrics.answers = server.answers
            if as_json:
                show.as_json(package=str(package), url=server.url)
            elif not quiet:
                terminal.say(f"serving {package} at {server.url}  (Ctrl-C ends)")
                terminal.flush()
            server.serve_forever()
    except interrupts.Interrupted:  # which is no failure
        interrupts.say()
    finally:
        server.shutdown()
