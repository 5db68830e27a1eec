"""Let a vLLM server reload the directory that `p2u watch` keeps; the command of its --execute.

    VLLM_SERVER_DEV_MODE=1 vllm serve ./policy
    p2u watch URL ./policy --every 1s --execute 'python examples/watch_vllm.py http://127.0.0.1:8000'

The engine stands still only while it reads the files: requests wait, and go on by the new weights.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from pathlib import Path

#: Seconds: reading the files of a large model takes a while.
TIMEOUT = 600


def post(url: str, body: dict[str, object] | None = None) -> bytes:
    """Send a request; an error status ends the script, and `p2u watch` reports it."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method="POST")
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        return bytes(answer.read())


def reload(server: str, folder: str, version: str) -> None:
    post(f"{server}/pause?mode=keep")
    try:
        # It always holds one whole version. A path that does not exist would end the engine.
        options = {"weights_path": str(Path(folder).absolute())}
        post(f"{server}/collective_rpc", {"method": "reload_weights", "kwargs": options})
        post(f"{server}/update_weight_version", {"new_version": version})
        # vLLM keeps what the weights before have computed, also for the requests that wait.
        post(f"{server}/reset_prefix_cache?reset_running_requests=true")
    finally:
        post(f"{server}/resume")


if __name__ == "__main__":
    reload(sys.argv[1].rstrip("/"), os.environ["P2U_DIR"], os.environ["P2U_VERSION"])
