"""Let an SGLang server reload the directory that `p2u watch` keeps; the command of its --execute.

python -m sglang.launch_server --model-path ./policy
p2u watch URL ./policy --every 1s --execute 'python examples/watch_sglang.py http://127.0.0.1:30000'
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from pathlib import Path

#: Seconds: reading the files of a large model takes a while.
TIMEOUT = 600


def reload(server: str, folder: str, version: str) -> None:
    body = {
        "model_path": str(Path(folder).absolute()),
        "weight_version": version,
        "flush_cache": True,  # it was computed by the weights before
        "abort_all_requests": False,
    }
    request = urllib.request.Request(
        f"{server}/update_weights_from_disk",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        found = json.load(answer)
    if not found.get("success"):
        sys.exit(f"SGLang stays at its weights: {found.get('message')}")


if __name__ == "__main__":
    reload(sys.argv[1].rstrip("/"), os.environ["P2U_DIR"], os.environ["P2U_VERSION"])
