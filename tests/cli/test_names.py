"""The command line and the Python API call one thing by one name."""

from __future__ import annotations

import inspect

import pytest
import typer

import p2u
from p2u.cli.app import app
from p2u.serve import make_server

#: Of the command line only: what is shown and exported, and in which form.
SHOWN = {"help", "quiet", "as_json", "metrics"}

API = {
    "clean": p2u.clean,
    "gc": p2u.gc,
    "mirror": p2u.mirror,
    "pack": p2u.pack,
    "plan": p2u.plan,
    "publish": p2u.publish,
    "pull": p2u.pull,
    "push": p2u.push,
    "serve": make_server,
    "torrent": p2u.torrent,
    "verify": p2u.verify,
    "watch": p2u.watch,
}

COMMANDS = typer.main.get_command(app).commands


def test_every_command_is_a_function_of_the_api():
    shows, manages = "inspect", "cache"  # of this machine only
    others = "eval"  # belongs to another distribution
    assert COMMANDS.keys() - {shows, manages, others} == API.keys()


@pytest.mark.parametrize("name", sorted(API))
def test_an_option_is_called_as_the_keyword_argument_that_it_sets(name):
    keywords = inspect.signature(API[name]).parameters
    options = [p for p in COMMANDS[name].params if p.param_type_name == "option"]
    assert options
    for option in options:
        if option.name not in SHOWN:
            assert option.name in keywords
            assert "--" + option.name.replace("_", "-") in option.opts


def all_commands():
    """Each command and each command of a group, by what is typed."""
    for name, command in COMMANDS.items():
        for sub, found in getattr(command, "commands", {"": command}).items():
            yield f"{name} {sub}".strip(), found


@pytest.mark.parametrize(
    "command", [pytest.param(c, id=name) for name, c in all_commands() if name != "eval"]
)
def test_every_command_has_json_for_scripts(command):
    assert any("--json" in param.opts for param in command.params)
