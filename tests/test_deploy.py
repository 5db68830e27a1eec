"""The examples of docs/deploy.md: they parse, and their commands run on a small package."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from kit import Made
from waiting import until

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "examples" / "deploy"
UNIT = DEPLOY / "p2u-watch.service"


def unit() -> configparser.ConfigParser:
    """The unit; a backslash continues a line."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(re.sub(r"\\\n\s*", "", UNIT.read_text()))
    return parser


def containers() -> list[tuple[list[str], dict[str, str]]]:
    """The words of each container that runs P2U, and its environment."""
    yaml = pytest.importorskip("yaml")
    found = []
    for path in sorted(DEPLOY.glob("*.yaml")):
        (tree,) = yaml.safe_load_all(path.read_text())
        spec = tree["spec"].get("template", tree)["spec"]
        volumes = {volume["name"] for volume in spec["volumes"]}
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            if container.get("command", [""])[0] == "p2u":
                environment = {entry["name"]: entry["value"] for entry in container.get("env", ())}
                found.append(([*container["command"], *container["args"]], environment))
    return found


def run(words: list[str], environment: dict[str, str], made: Made, tmp_path: Path) -> None:
    """Run a command with places of this machine, until the model is there."""
    places = {
        "https://models.example.org/minilm.p2u": str(made.package),
        "/models/minilm": str(tmp_path / "minilm"),
        "/srv/models/minilm": str(tmp_path / "minilm"),
        "/cache": str(tmp_path / "cache"),
    }
    placed = [places.get(word, word) for word in words]
    hook = tmp_path / "hook"
    for option, value in (
        ("--metrics", str(tmp_path / "p2u.prom")),
        ("--execute", f"touch {hook}"),
    ):
        if option in placed:
            placed[placed.index(option) + 1] = value
    assert placed[0] == "p2u"
    env = {**os.environ, **{name: places.get(v, v) for name, v in environment.items()}}
    with subprocess.Popen(
        [sys.executable, "-m", *placed], env=env, text=True, stderr=subprocess.PIPE
    ) as process:
        if "watch" in words:
            try:
                until(hook.exists, seconds=60)
            finally:
                process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert '"event": "state"' in said
    assert (tmp_path / "minilm" / ".p2u-state.json").is_file()
    if "--metrics" in words:
        assert "p2u_state_info" in (tmp_path / "p2u.prom").read_text()


@pytest.mark.parametrize("number", range(2), ids=["init-container", "sidecar"])
@pytest.mark.slow
def test_commands_of_containers_run(number: int, made: Made, tmp_path: Path) -> None:
    if number:
        pytest.importorskip("prometheus_client")
    words, environment = containers()[number]
    assert words[3] == ("pull", "watch")[number]
    run(words, environment, made, tmp_path)


@pytest.mark.slow
def test_the_command_of_the_unit_runs(made: Made, tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client")
    service = unit()["Service"]
    words = shlex.split(service["ExecStart"])
    assert words[0] == "/usr/bin/env"
    name, _, value = service["Environment"].partition("=")
    run(words[1:], {name: value}, made, tmp_path)


def test_the_unit_is_one() -> None:
    assert {"Unit", "Service", "Install"} == set(unit().sections())
    if shutil.which("systemd-analyze") is None:
        return
    done = subprocess.run(
        ["systemd-analyze", "verify", UNIT], capture_output=True, text=True, timeout=60
    )
    wrong = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert not wrong, done.stderr


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx checks its file")
def test_nginx_accepts_the_file(tmp_path: Path) -> None:
    conf = (DEPLOY / "nginx.conf").read_text()
    assert '"public, max-age=31536000, immutable"' in conf
    (tmp_path / "nginx.conf").write_text(
        f"pid {tmp_path}/pid; events {{}} http {{ access_log off; server {{ listen 127.0.0.1:8;\n"
        f"{conf} }} }}"
    )
    words = ["nginx", "-t", "-e", tmp_path / "log", "-c", tmp_path / "nginx.conf"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert "syntax is ok" in done.stderr, done.stderr


def test_the_page_states_the_headers_of_the_example() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text()
    for header in re.findall(r'Cache-Control "([^"]+)"', (DEPLOY / "nginx.conf").read_text()):
        assert f"`{header}`" in page
    for link in re.findall(r"\]\((\.\./examples[^)]*|\w+\.md)\)", page):
        assert (ROOT / "docs" / link).exists()
