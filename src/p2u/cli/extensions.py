"""Commands that other distributions bring: entry points of the group ``p2u.commands``."""

from __future__ import annotations

import typer

from p2u.errors import UsageError

GROUP = "p2u.commands"

#: Of a command whose words, options and help are all for somebody else.
PASS_ON = {
    "allow_extra_args": True,
    "allow_interspersed_args": False,
    "help_option_names": [],
    "ignore_unknown_options": True,
}


def evaluate(ctx: typer.Context) -> None:
    """Measure what a model can do after so many bytes and seconds; needs p2u-lab."""
    run(ctx, "p2u-lab", "./lab")


def run(ctx: typer.Context, distribution: str, folder: str) -> None:
    """Run the command of the same name that a distribution brings.

    Args:
        ctx: Of ours, whose arguments are passed on.
        distribution: Its name, for the message.
        folder: Where it is in a clone, for the message.

    Raises:
        UsageError: It is not installed.
    """
    from importlib.metadata import entry_points  # reads files of all that is installed

    for found in entry_points(group=GROUP, name=str(ctx.info_name)):
        command = typer.main.get_command(found.load())
        with command.make_context(ctx.info_name, list(ctx.args), parent=ctx.parent) as own:
            command.invoke(own)
        return
    raise UsageError(
        f"`p2u {ctx.info_name}` belongs to {distribution}, which is not installed",
        hint=f"Install it: `pip install {distribution}`, in a clone `pip install {folder}`",
    )
