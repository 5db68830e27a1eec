"""The commands of `p2u watch` for inference servers, against stand-ins that note the calls."""

from __future__ import annotations

import json
import shlex
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import documents
import pytest
from loopback import LoopbackServers

from p2u.client.folder.watch import Watched, watch
from p2u.packing.api import publish

EXAMPLES = documents.ROOT / "examples"


class StandIn(BaseHTTPRequestHandler):
    """Notes path and body of each request; answers as the server's attribute ``answers`` says."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.calls.append((self.path, json.loads(body) if body else None))
        status, answer = self.server.answers.get(self.path.partition("?")[0], (200, {}))
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def run(tmp_path: Path, script: str, answers: dict[str, tuple[int, Any]]) -> tuple[list, list[int]]:
    """Watch two versions with an example as the command; its calls and its statuses."""
    model = documents.tiny(tmp_path / "model")
    publish(model, tmp_path / "pkg.p2u")
    documents.tuned(model, tmp_path / "model2", 2)
    publish(tmp_path / "model2", tmp_path / "pkg.p2u")
    calls: list[tuple[str, Any]] = []
    statuses: list[int] = []
    stop = threading.Event()

    def event(found: Watched) -> None:
        if found.kind == "hook":
            statuses.append(found.status or 0)
            if found.state == "v2@exact":
                stop.set()

    with LoopbackServers() as servers:
        url = servers.serve(StandIn, calls=calls, answers=answers)
        command = shlex.join([sys.executable, str(EXAMPLES / script), url])
        watch(tmp_path / "pkg.p2u", tmp_path / "live", every=0.1, execute=command, stop=stop,
              on_event=event)  # fmt: skip
    return calls, statuses


def test_vllm_stands_still_reloads_forgets_and_goes_on(tmp_path: Path) -> None:
    calls, statuses = run(tmp_path, "watch_vllm.py", {})
    assert set(statuses) == {0}
    options = {"weights_path": str(tmp_path / "live")}
    assert calls[-5:] == [
        ("/pause?mode=keep", None),
        ("/collective_rpc", {"method": "reload_weights", "kwargs": options}),
        ("/update_weight_version", {"new_version": "v2"}),
        ("/reset_prefix_cache?reset_running_requests=true", None),
        ("/resume", None),
    ]


def test_vllm_goes_on_where_it_could_not_reload(tmp_path: Path) -> None:
    calls, statuses = run(tmp_path, "watch_vllm.py", {"/collective_rpc": (500, {})})
    assert 0 not in statuses
    assert [path for path, _ in calls[-3:]] == ["/pause?mode=keep", "/collective_rpc", "/resume"]


@pytest.mark.parametrize("success", [True, False])
def test_sglang_reloads_from_the_directory(tmp_path: Path, success: bool) -> None:
    answer = {"success": success, "message": "on purpose"}
    calls, statuses = run(tmp_path, "watch_sglang.py", {"/update_weights_from_disk": (200, answer)})
    assert (set(statuses) == {0}) is success
    assert calls[-1] == (
        "/update_weights_from_disk",
        {
            "model_path": str(tmp_path / "live"), "weight_version": "v2",
            "flush_cache": True, "abort_all_requests": False,
        },
    )  # fmt: skip
