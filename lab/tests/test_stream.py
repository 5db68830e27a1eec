"""Streams of requests, and serving while a model refines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_net

from p2u.errors import UnsupportedError, UsageError
from p2u.serve import FolderApp, Server
from p2u_lab.network.client import Job
from p2u_lab.network.link import check_support
from p2u_lab.network.load_test import serving
from p2u_lab.network.offer import prepare
from p2u_lab.network.spec import LinkSpec
from p2u_lab.network.streams import stream, stream_live

GOOD = np.array([1.0, 1.0, 1.0, 0.0])


def test_requests_are_answered_by_the_state_that_is_there() -> None:
    values = {"base": np.array([1.0, 0.0, 0.0, 0.0]), "exact": GOOD}
    found = stream("p2u", [("base", 3.0), ("exact", 7.0)], values, rate=2, seconds=10, patience=1)
    # Requests at 0, 0.5, ... 9.5 s: those before 2 s have gone; 2 to 6.5 s the base.
    assert (found.requests, found.answered) == (20, 16)
    assert found.states == {"base": 10, "exact": 6}
    assert found.every[1] == (4, 0, 0.0)
    assert found.every[2][1] == 2
    assert found.every[-1] == (20, 16, found.right)
    assert found.latency == (0.0, 1.0)
    assert not found.measured


def test_the_order_of_items_is_the_same_for_all_methods() -> None:
    one, two = (
        stream(method, [("exact", 0.0)], {"exact": np.arange(100.0)}, rate=1, seconds=20)
        for method in ("plain", "zipnn")
    )
    assert one.every == two.every
    other = stream(
        "plain", [("exact", 0.0)], {"exact": np.arange(100.0)}, rate=1, seconds=20, seed=1
    )
    assert other.every != one.every
    whole = stream("plain", [("exact", 0.0)], {"exact": GOOD}, rate=10, seconds=40)
    assert whole.right == 300, "each item as often as any other"


def test_who_is_too_late_answers_nothing() -> None:
    found = stream("plain", [("exact", 100.0)], {"exact": GOOD}, seconds=60)
    assert (found.requests, found.answered, found.right, found.latency) == (600, 0, 0, None)


def test_values_must_be_of_the_same_items() -> None:
    for values in ({"base": GOOD}, {"base": GOOD[:2], "exact": GOOD}, {"base": [], "exact": []}):
        with pytest.raises(UsageError, match="same items"):
            stream("p2u", [("base", 1.0), ("exact", 2.0)], values)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with a model, and options of its user."""
    pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    root = tmp_path_factory.mktemp("tiny")
    return root / "model", tiny_net.make(root / "model", root / "items.npz")


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes find `tiny_net`."""
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), before]))


@pytest.mark.slow
def test_a_client_answers_while_it_refines(
    tiny: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    model, options = tiny
    offer, _ = prepare(model, tmp_path, ("p2u", "plain"))
    asked = {"rate": 10, "seconds": 4, "patience": 60, "order": list(range(40))}
    with Server(FolderApp(tmp_path), "127.0.0.1", 0, quiet=True) as server:
        for method in ("p2u", "plain"):
            files = tuple(offer.files.get(method, ()))
            job = Job(method, server.url, files, user="torch", options=options, stream=asked)
            command = [sys.executable, "-m", "p2u_lab.network.client", json.dumps(asdict(job))]
            command.append(str(time.monotonic()))
            out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            log = json.loads(out)["requests"]
            assert [due for due, *_ in log] == [n / 10 for n in range(40)]
            assert all(0 <= when - due < 60 for due, when, *_ in log)
            states = {state for _, _, state, _ in log}
            assert states == {"exact"} if method == "plain" else states <= {"base", "8bit", "exact"}
            # The exact model's own answers are the labels.
            assert all(right == 1.0 for *_, state, right in log if state == "exact")


@pytest.mark.slow
def test_serving_at_rest_and_while_refining(
    tiny: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    if sys.platform != "linux":
        pytest.skip("memory is read from /proc")
    model, options = tiny
    offer, _ = prepare(model, tmp_path, ("p2u",))
    found = list(
        serving(
            model, tmp_path / "package", options=options, batches=(2,), states=("base",),
            seconds=0.2, refine_seconds=3,
        )
    )  # fmt: skip
    kinds = [(r.source, r.phase, r.state) for r in found]
    assert kinds[:2] == [("plain", "rest", "exact"), ("p2u", "rest", "base")]
    assert kinds[-1] == ("p2u", "rest", "exact")
    assert ("p2u", "refining", "8bit") in kinds[2:-1]
    for result in found:
        assert result.calls > 0
        assert 0 < result.p50 <= result.p99 <= result.worst
        assert result.throughput > 0
        assert result.peak_rss > 1 << 20
        json.dumps(asdict(result))
    with pytest.raises(UsageError, match="no_such_module"):
        next(serving(model, offer.root / "package", options=options, user="no_such_module:User"))


@pytest.mark.slow
def test_a_stream_over_a_shaped_line(tiny: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    try:
        check_support()
        with LinkSpec(20).link():
            pass
    except UnsupportedError as error:
        pytest.skip(str(error))
    model, options = tiny
    offer, _ = prepare(model, tmp_path, ("plain",))
    line = LinkSpec(20)
    ((result, requests),) = stream_live(offer, line, items=40, options=options, rate=5, seconds=5)
    assert requests.measured
    assert requests.requests == 25
    assert requests.answered == requests.right == requests.states.get("exact", 0)
    assert len(requests.every) == 5
    assert len(result.requests) == 25


def test_items_are_those_of_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    from p2u_lab.data.images import of_array
    from p2u_lab.network.items import image_items
    from p2u_lab.network.users import make_user
    from p2u_lab.vision import sets, store
    from p2u_lab.vision.classify import Classification
    from p2u_lab.vision.nets import NETS

    torch.manual_seed(3)
    config = store.Config("resnet20", 10, 32, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    module = NETS["resnet20"].build(10, 32).eval()
    store.save(module, config, tmp_path)
    pixels = np.random.default_rng(1).integers(0, 256, (12, 32, 32, 3), np.uint8)
    with torch.no_grad():
        best = module(store.inputs(pixels, config)).argmax(1).numpy()
    labels = np.where(np.arange(12) < 7, best, (best + 1) % 10)
    made = of_array(pixels, labels, tuple("abcdefghij"), tmp_path)
    monkeypatch.setitem(sets.SETS, "made", sets.Set(lambda split: made, 10, 1))

    options = image_items(tmp_path, "made", tmp_path / "items.npz", 12)
    grad, threads = torch.is_grad_enabled(), torch.get_num_threads()
    try:
        user = make_user("torch", options)
        user.prepare()
        user.build()
        user.load(tmp_path)
        found = [user.item(n) for n in range(12)]
    finally:
        torch.set_grad_enabled(grad)
        torch.set_num_threads(threads)
    assert found == Classification("made").scores(tmp_path).values.tolist()
    assert sum(found) == 7
