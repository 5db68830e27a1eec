"""``--log-format json``: every event is one JSON object on a line of stderr."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import documents
import pytest
from command_line import Said, p2u
from kit import Made

from p2u.cli import interrupts, logs
from p2u.cli.watch import _logged
from p2u.client.folder.watch import Watched


def lines(said: Said) -> list[dict]:
    return [json.loads(line) for line in said.err.splitlines()]


def test_states_are_events(made: Made, tmp_path: Path) -> None:
    words = ("pull", made.package, tmp_path / "m", "--no-straight")
    said = p2u("--log-format", "json", *words, columns=80)  # a terminal: no bar is drawn
    assert said.status == 0
    states = [line["state"] for line in lines(said) if line.get("event") == "state"]
    assert states[0] == "base" and states[-1] == "exact"
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines(said))
    assert not logs.is_json(), "the next command begins anew"
    assert p2u("pull", made.package, tmp_path / "m").err == ""


def test_a_publication_is_an_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2U_LOG_FORMAT", "json")
    model = documents.tiny(tmp_path / "tiny")
    said = p2u("publish", model, tmp_path / "tiny.p2u", "--quiet")
    (event,) = lines(said)
    assert (event["event"], event["version"]) == ("published", "v1")
    assert p2u("publish", model, tmp_path / "tiny.p2u", "--quiet").err == ""  # nothing new


@pytest.mark.parametrize(
    ("words", "kind", "status"),
    [
        (("pull", "nowhere\x1b[2J\nx", "m"), "NotFoundError", 1),
        (("pull", "--until", "best"), "MissingParameter", 2),
        (("no-command",), None, 2),
    ],
)
def test_an_error_is_an_event(words, kind, status, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = p2u("--log-format", "json", *words)
    assert said.status == status
    event = lines(said)[-1]
    assert (event["event"], event["level"]) == ("error", "error")
    assert event["error"].keys() == {"kind", "message", "file", "tensor", "hint"}
    assert kind is None or event["error"]["kind"] == kind
    assert "\x1b" not in said.err


def test_a_traceback_stays_within_its_line(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("P2U_DEBUG", "1")
    (event,) = lines(p2u("--log-format", "json", "pull", tmp_path / "x", tmp_path / "m"))
    assert event["traceback"].startswith("Traceback")


def test_events_of_a_watch_and_signals(capsys: pytest.CaptureFixture[str]) -> None:
    logs.start()
    try:
        _logged(Watched("commit", "v1@exact"), Path("m"))  # the pull has logged it
        _logged(Watched("hook", "v1@exact", status=3), Path("m"))
        _logged(Watched("error", None, message="gone", error="StoreError"), Path("m"))
        logging.getLogger("p2u.retry").warning("again", extra={"p2u": {"event": "retry"}})
        interrupts.say()
    finally:
        logs.end()
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [event["event"] for event in events] == ["hook", "error", "retry", "interrupted"]
    assert [event["level"] for event in events] == ["warning", "error", "warning", "info"]
