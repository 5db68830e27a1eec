"""One client of `bench_start.py`, in a process of its own: fetch a model, answer, say when.

    python start_client.py METHOD MODEL URL BEGIN

METHOD is ``p2u``, ``plain``, ``zipnn`` or ``lmz``; BEGIN is the `time.monotonic` at which the
process was started. Everybody begins to fetch before the heavy imports, which go on meanwhile, and
runs the same NumPy model. Prints one line of JSON: seconds to the first answer, to the first answer
with the exact weights, and the SHA-256 of these.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent / "examples"))

WEIGHTS = "model.safetensors"
ASIDE = ("config.json", "tokenizer.json")
QUESTION = ["How do I get my money back?", "Refunds are paid to the card you used."]
CLASSES = {"minilm": ("minilm", "MiniLM"), "mpnet": ("mpnet", "MPNet")}


def encoder(model: str) -> Any:
    """The model's class."""
    module, name = CLASSES[model.partition("-")[0]]
    return getattr(importlib.import_module(module), name)


def answer(model: Any) -> float:
    """Use the model."""
    one, two = model.embed(QUESTION)
    return float(one @ two)


def fetch(url: str, folder: Path, *names: str) -> None:
    """Download files, one connection, as any downloader does."""
    import urllib3

    pool = urllib3.PoolManager()
    for name in names:
        with (
            pool.request("GET", f"{url}/{name}", preload_content=False) as response,
            (folder / name).open("wb") as out,
        ):
            if response.status != 200:
                raise SystemExit(f"{url}/{name}: {response.status}")
            for piece in response.stream(1 << 18):
                out.write(piece)


def download(name: str, unpack: Callable[[Path], None]) -> Callable[[str, str, float], Any]:
    """The client of a file that holds the whole model."""

    def client(model: str, url: str, begin: float) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as tmp:
            folder = Path(tmp)
            thread = threading.Thread(target=fetch, args=(url, folder, *ASIDE, name))
            thread.start()
            make = encoder(model).from_directory
            thread.join()
            unpack(folder)
            score = answer(make(folder))
            first = time.monotonic() - begin
            digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
            return {"first": first, "exact": first, "score": score, "sha256": digest}

    return client


def unpack_zipnn(folder: Path) -> None:
    """Decompress what `rivals.ZipNN` made."""
    codec = importlib.import_module("zipnn").ZipNN(threads=2, input_format="byte")
    (folder / WEIGHTS).write_bytes(codec.decompress((folder / "model.znn").read_bytes()))


def unpack_lmz(folder: Path) -> None:
    """Decompress what `rivals.Lmz` made."""
    decompress = importlib.import_module("lmz").decompress
    decompress(str(folder / "model.lmz"), str(folder / WEIGHTS), workers=2, overwrite=True)


def p2u_client(model: str, url: str, begin: float) -> dict[str, Any]:
    """Answer from the base, then from the exact weights."""
    import p2u

    with p2u.open(f"{url}/package") as replica:
        make = encoder(model)

        def use(state: str) -> tuple[float, float]:
            replica.wait(state)
            with replica.pinned():
                config, tokenizer = (bytes(replica.files[name]).decode() for name in ASIDE)
                score = answer(make(replica.tensors, config, tokenizer))
            return time.monotonic() - begin, score

        first, _ = use("base")
        exact, score = use("exact")
        digest = hashlib.sha256(replica.files[WEIGHTS]).hexdigest()
        return {"first": first, "exact": exact, "score": score, "sha256": digest}


CLIENTS = {
    "p2u": p2u_client,
    "plain": download(WEIGHTS, lambda folder: None),
    "zipnn": download("model.znn", unpack_zipnn),
    "lmz": download("model.lmz", unpack_lmz),
}


if __name__ == "__main__":
    method, model_name, root, started = sys.argv[1:]
    print(json.dumps(CLIENTS[method](model_name, root, float(started))))
