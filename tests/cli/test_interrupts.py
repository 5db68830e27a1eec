"""Ctrl-C and its like, at every moment of every command: one message, and nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import documents
import pytest

from p2u import pack

MESSAGE = "p2u: interrupted; run the same command again to go on\n"

#: Sends a signal to its own process when a module is first looked for.
AT_IMPORT = """
import os, sys
number, moment = int(sys.argv[1]), sys.argv[2]

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == moment:
            os.kill(os.getpid(), number)

sys.meta_path.insert(0, Finder())
sys.argv[:3] = ["p2u"]
from p2u.cli import main
main()
"""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


def interrupted(number: int, moment: str, *args: object) -> subprocess.CompletedProcess[str]:
    """Run a command that gets a signal when it imports a module."""
    return subprocess.run(
        [sys.executable, "-c", AT_IMPORT, str(int(number)), moment, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interrupts")
    pack(documents.tiny(folder / "tiny"), folder / "tiny.p2u")
    return folder / "tiny.p2u"


@pytest.mark.parametrize("moment", ["p2u.cli.app", "typer", "p2u.cli.show", "rich.console"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_before_there_is_any_work(package: Path, moment: str, number: signal.Signals) -> None:
    done = interrupted(number, moment, "inspect", package)
    assert (done.returncode, done.stderr) == (128 + number, MESSAGE)


@pytest.mark.parametrize(
    ("command", "moment"),
    [
        (("pack", "{model}", "{out}"), "p2u.packing.packer"),
        (("publish", "{model}", "{out}"), "p2u.packing.versions.add_version"),
        (("gc", "{package}"), "p2u.packing.publish"),
        (("inspect", "{package}"), "p2u.client.transfer.package_reader"),
        (("verify", "{package}", "--json"), "p2u.client.folder.verify"),
        (("pull", "{package}", "{out}"), "p2u.client.folder.pull"),
        (("pull", "{package}", "{out}", "--quiet"), "p2u.codec.core"),
    ],
)
def test_in_every_command(
    package: Path, tmp_path: Path, command: tuple[str, ...], moment: str
) -> None:
    words = {"model": package.with_name("tiny"), "package": package, "out": tmp_path / "out"}
    done = interrupted(signal.SIGINT, moment, *(word.format(**words) for word in command))
    assert (done.returncode, done.stderr) == (130, MESSAGE)
    assert [p.name for p in tmp_path.iterdir()] in ([], [".out.p2u"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "command", [("watch", "{package}", "{out}"), ("serve", "{package}", "--port", "0")]
)
def test_commands_that_only_a_signal_ends(
    package: Path, tmp_path: Path, command: tuple[str, ...], number: signal.Signals
) -> None:
    words = [word.format(package=package, out=tmp_path / "out") for word in command]
    process = subprocess.Popen(
        [sys.executable, "-m", "p2u", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline()  # it is at work
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert said.endswith(MESSAGE)


def test_a_signal_that_is_ignored_stays_ignored(package: Path) -> None:
    """By nohup, or by a shell that runs the command in the background."""
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + AT_IMPORT
    done = subprocess.run(
        [sys.executable, "-c", code, str(int(signal.SIGHUP)), "typer", "inspect", str(package)],
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0


#: A signal comes within a finaliser, where Python prints exceptions and goes on.
IN_FINALISER = """
import os, signal, time
from p2u.cli import interrupts

class Finalised:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(100):
            pass

interrupts.install()
try:
    Finalised()
    time.sleep(30)
except interrupts.Interrupted as found:
    print("ended", found.status)
"""


def test_a_signal_within_a_finaliser_is_not_lost() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_FINALISER], capture_output=True, text=True, timeout=20
    )
    assert (done.stdout, done.stderr) == ("ended 143\n", "")
