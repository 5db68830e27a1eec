"""Commands of other distributions, and what is said without them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

#: A distribution with a command group ``eval``.
TOY = """
import typer

app = typer.Typer(help="A toy.", no_args_is_help=True)


@app.command()
def say(word: str, loud: bool = False) -> None:
    if word == "wrong":
        from p2u.errors import UsageError

        raise UsageError("a wrong word")
    print(word.upper() if loud else word)


@app.command()
def other() -> None:
    pass
"""


def p2u(*words: str, before: str = "", path: str | Path = "") -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, after some code."""
    code = f"import sys\n{before}\nfrom p2u.cli import main\nsys.argv[0] = 'p2u'\nmain()"
    places = [place for place in (str(path), os.environ.get("PYTHONPATH", "")) if place]
    environment = {"PYTHONPATH": os.pathsep.join(places), "COLUMNS": "120", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the toy is installed."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "toy_lab.py").write_text(TOY)
    about = folder / "toy_lab-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-lab\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[p2u.commands]\neval = toy_lab:app\n")
    return folder


def test_a_command_of_another_distribution_gets_all_words(toy: Path) -> None:
    done = p2u("eval", "say", "hello", "--loud", path=toy)
    assert (done.returncode, done.stdout) == (0, "HELLO\n"), done.stderr
    said = p2u("eval", "--help", path=toy).stdout
    assert "p2u eval [OPTIONS] COMMAND" in said
    assert "A toy." in said
    assert "p2u eval say [OPTIONS]" in p2u("eval", "say", "-h", path=toy).stdout


def test_its_mistakes_look_like_ours(toy: Path) -> None:
    done = p2u("eval", "say", "wrong", path=toy)
    assert (done.returncode, done.stderr) == (2, "p2u: a wrong word\n")
    done = p2u("eval", "say", "--quiet", path=toy)
    assert done.returncode == 2
    assert "No such option" in done.stderr and "Traceback" not in done.stderr
    assert "A toy." in "".join((p2u("eval", path=toy).stdout, p2u("eval", path=toy).stderr))


@pytest.mark.parametrize("words", [(), ("run", "smoke"), ("--help",), ("--data-dir", "x", "list")])
def test_what_is_not_installed_says_how_to_get_it(words: tuple[str, ...]) -> None:
    nothing = "import importlib.metadata as m; m.entry_points = lambda **_: ()"
    done = p2u("eval", *words, before=nothing)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "p2u: `p2u eval` belongs to p2u-lab, which is not installed. "
        "Install it: `pip install p2u-lab`, in a clone `pip install ./lab`\n"
    )


def test_help_lists_it_without_looking_for_it() -> None:
    done = p2u("--help", before="import importlib.metadata as m; del m.entry_points")
    assert done.returncode == 0, done.stderr
    assert "eval" in done.stdout and "p2u-lab" in done.stdout
