"""One table of exit statuses, docs/errors.md, that commands and the exception tree keep to."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import documents
import pytest
from command_line import p2u

from p2u import errors, pack, pull
from p2u.cli import failures, interrupts
from p2u.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
TABLE = {
    int(status): (when, set(re.findall(r"`(\w+)`", kinds)))
    for status, when, kinds in re.findall(
        r"^\| (\d+) \| (.*?) \| (.*?) ?\|$", (ROOT / "docs/errors.md").read_text(), re.MULTILINE
    )
}
KINDS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.P2UError)
}


def test_the_table_has_every_kind_of_error_once() -> None:
    named = [name for _, kinds in TABLE.values() for name in kinds]
    assert sorted(named) == sorted(KINDS)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_kind_of_error_has_the_status_of_the_table(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = failures.report(KINDS[name]("something", file="file"))
    assert name in TABLE[status][1]
    assert capsys.readouterr().err == "p2u: file: something\n"


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (KeyError("x\n"), 70, "internal error: KeyError"),
        (RecursionError(), 70, "internal error"),
        (OSError(28, "No space left on device"), 1, "cannot write the output: No space left"),
        (MemoryError(), 1, "memory"),
    ],
)
def test_no_exception_is_shown_as_a_traceback(
    error: Exception, status: int, words: str, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.delenv("P2U_DEBUG", raising=False)
    assert failures.report(error) == status
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert status in TABLE
    monkeypatch.setenv("P2U_DEBUG", "1")
    failures.report(error)
    assert capsys.readouterr().err.count("\n") > 1


def test_signals_are_in_the_table() -> None:
    for number in (1, 2, 15):
        assert interrupts.Interrupted(number).status in TABLE


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model, its package, a folder pulled from it, an empty folder, a file, and nothing."""
    root = tmp_path_factory.mktemp("statuses")
    model = documents.tiny(root / "model")
    pack(model, root / "package")
    pull(root / "package", root / "pulled")
    (root / "empty").mkdir()
    (root / "text").write_text("text")
    names = ("model", "package", "pulled", "empty", "text", "nothing", "new")
    return {name: root / name for name in names}


#: Commands with an input that is not what is expected.
INPUTS = [
    *("inspect {}", "verify {}", "pull {} {new}", "gc {}", "pack {} {new}", "publish {} {new}"),
    *("pack {model} {new} --parent {}", "pack {model} {new} --adopt {}"),
    *("pack {model} {new} --calibration {}", "pack {model} {new} --sensitivity {}"),
]


@pytest.mark.parametrize("command", INPUTS)
@pytest.mark.parametrize("given", ["nothing", "empty", "text"])
def test_an_input_that_is_missing_or_something_else(
    made: dict[str, Path], command: str, given: str
) -> None:
    words = [word.format(made[given], **made) for word in command.split()]
    said = p2u(*words)
    assert said.status == 1, said.err
    assert str(made[given]) in said.err
    assert said.out == ""
    assert not made["new"].exists()


def test_serving_what_is_not_there(made: dict[str, Path]) -> None:
    for given in ("nothing", "text"):
        assert p2u("serve", made[given], "--port", "0").status == 1


@pytest.mark.parametrize("command", ["inspect {}", "verify {}", "pull {} {new}", "gc {}"])
def test_a_plain_model_is_called_no_package(made: dict[str, Path], command: str) -> None:
    """It is not incomplete: it is another thing, and the message says what makes a package."""
    said = p2u(*[word.format(made["model"], **made) for word in command.split()])
    assert said.status == 1
    assert "package" in said.err and "p2u.json" in said.err
    assert re.search("`p2u (pack|publish)` makes", said.err)
    assert "incomplete" not in said.err


@pytest.mark.parametrize(
    "command",
    [
        *(
            "",
            "nonsense",
            "pack",
            "pack {model}",
            "pack {model} {new} {new}",
            "pull --nonsense x y",
        ),
        *("gc {package} --keep 0", "gc {package} --keep x", "gc {package} --grace x"),
        *("pull {package} {new} --until v9", "pull {package} {new} --deadline x"),
        *("pull {package} {new} --limit-rate x", "pull {package} {new} --jobs 0"),
        *("pack {model} {new} --levels x", "pack {model} {new} --bits 99"),
        *("pack {model} {new} --keep x", "pack {model} {new} --tensor-bits x"),
        *("pack {model} {new} --parent {package}@v9", "pack {model} {package}"),
        *("pack {model} {text}", "pack {model} {model}", "gc {package} --anchors x"),
        *("watch {package} {new} --every x", "serve {package} --port 99999999"),
        *("publish {model} {package} --fold 7", "publish {model} {package} --version /"),
    ],
)
def test_a_command_that_has_to_be_written_differently(made: dict[str, Path], command: str) -> None:
    said = p2u(*[word.format(**made) for word in command.split()])
    assert said.status == 2, said.err
    assert said.err
    assert not made["new"].exists()


def test_nothing_to_do_is_no_failure(made: dict[str, Path]) -> None:
    for command in (
        "pull {package} {pulled}",
        "gc {package}",
        "publish {model} {package}",
        "--help",
    ):
        assert p2u(*[word.format(**made) for word in command.split()]).status == 0


def test_failures_are_json_too(made: dict[str, Path]) -> None:
    for command in ("pull {nothing} {new} --json", "gc {package} --json --keep x", "verify --json"):
        said = p2u(*[word.format(**made) for word in command.split()])
        error = json.loads(said.out)["error"]
        assert error.keys() == {"kind", "message", "file", "tensor", "hint"}
        assert said.status in (1, 2) and said.err.startswith("p2u: ")


@pytest.mark.parametrize(
    "command", ["pull {package}", "nonsense", "pull {package} x --bogus", "pack"]
)
def test_wrong_words_are_json_with_a_message(made: dict[str, Path], command: str) -> None:
    said = p2u(*[word.format(**made) for word in command.split()], "--json")
    assert said.status == 2
    found = json.loads(said.out)["error"]
    assert found["kind"] and found["message"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
@pytest.mark.parametrize("command", ["inspect {package} --json", "inspect {model} --json"])
def test_a_full_device_is_no_internal_error(made: dict[str, Path], command: str) -> None:
    words = shlex.join([sys.executable, "-m", "p2u", *(w.format(**made) for w in command.split())])
    for stream in ("", "2"):
        done = subprocess.run(
            f"{words} {stream}>/dev/full", shell=True, capture_output=True, text=True, check=False
        )
        assert "Traceback" not in done.stderr + done.stdout
        assert done.returncode in (0, 1)


def test_the_help_of_the_command_names_the_table() -> None:
    assert "docs/errors.md" in str(app.info.epilog)
