"""Transfers: the offer, a client over loopback, arithmetic; as root, over a shaped line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from p2u.errors import StoreError, UnsupportedError, UsageError
from p2u.serve import FolderApp, Server
from p2u_lab.base import MissingDataError
from p2u_lab.network.client import Job
from p2u_lab.network.link import check_support
from p2u_lab.network.offer import Offer, prepare, unpacker
from p2u_lab.network.spec import LinkSpec, analytic_seconds
from p2u_lab.network.transfers import transfer
from p2u_lab.tensorfiles import write_safetensors


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    rng = np.random.default_rng(0)
    tensors = {
        f"layer.{n}.weight": rng.normal(0, 0.05, (512, 256)).astype(ml_dtypes.bfloat16)
        for n in range(4)
    }
    write_safetensors(folder / "model.safetensors", tensors, {})
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def offer(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Offer:
    made, missing = prepare(model, tmp_path_factory.mktemp("root"), ("p2u", "plain"))
    assert not missing
    return made


def client(offer: Offer, method: str, **more: Any) -> dict[str, Any]:
    """One over loopback, in a process of its own."""
    with Server(FolderApp(offer.root), "127.0.0.1", 0, quiet=True) as server:
        files = tuple(offer.files.get(method, ()))
        job = Job(method, server.url, files, **more)
        command = [sys.executable, "-m", "p2u_lab.network.client", json.dumps(asdict(job))]
        done = subprocess.run(
            [*command, str(time.monotonic())], capture_output=True, text=True, check=True
        )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_an_offer_has_what_each_method_sends(offer: Offer, model: Path) -> None:
    assert offer.files == {
        "plain": [
            ("config.json", "plain/config.json"),
            ("model.safetensors", "plain/model.safetensors"),
        ]
    }
    whole = sum(path.stat().st_size for path in model.iterdir())
    assert offer.sizes["plain"] == offer.original == whole
    assert 0.5 * whole < offer.sizes["p2u"] < 0.8 * whole
    with pytest.raises(UsageError, match="no method"):
        prepare(model, offer.root, ("torrent",))


def test_a_rival_that_is_not_installed_is_left_out(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lmz", None)
    offer, missing = prepare(model, tmp_path, ("plain", "lmz"))
    assert "lmzip does not import" in missing["lmz"]
    assert list(offer.sizes) == ["plain"]
    with pytest.raises(MissingDataError):
        unpacker(".lmz")


def test_what_rivals_send_unpacks_to_the_same(model: Path, tmp_path: Path) -> None:
    offer, missing = prepare(model, tmp_path / "root", ("zipnn", "lmz"))
    if missing:
        pytest.skip(str(missing))
    for method, files in offer.files.items():
        (name, sent) = files[1]
        assert name == "model.safetensors"
        packed = offer.root / sent
        unpacker(packed.suffix)(packed, tmp_path / method)
        assert (tmp_path / method).read_bytes() == (model / name).read_bytes()


def test_clients_bring_the_same_files(offer: Offer) -> None:
    plain, ours = client(offer, "plain"), client(offer, "p2u")
    assert plain["sha256"] == ours["sha256"]
    assert [state["label"] for state in ours["states"]] == ["base", "8bit", "exact"]
    sizes = [state["bytes"] for state in ours["states"]]
    assert sizes == sorted(sizes)
    assert sizes[-1] == ours["received"] <= offer.sizes["p2u"]
    assert plain["received"] == offer.sizes["plain"]
    for state in plain["states"] + ours["states"]:
        assert 0 < state["arrived"] <= state["usable"] < 60
        assert state["answer"] == [4, 4 * 512 * 256 * 2]
    some = client(offer, "p2u", states=("base", "exact"))
    # On a fast line the base may be left out.
    assert [state["label"] for state in some["states"]] in (["base", "exact"], ["exact"])


def test_a_client_without_its_files_fails(model: Path, tmp_path: Path) -> None:
    made, _ = prepare(model, tmp_path, ("plain",))
    (tmp_path / "plain" / "model.safetensors").unlink()
    with pytest.raises(subprocess.CalledProcessError) as caught:
        client(made, "plain")
    assert "the server says 404" in caught.value.stderr


def test_arithmetic_of_a_transfer() -> None:
    # 1.448 MB are 1000 segments of 1500 bytes: 1.2 s at 10 Mbit/s; three round trips before.
    line = LinkSpec(10, 20)
    assert analytic_seconds(1_448_000, line) == pytest.approx(1.2 + 0.06 + (0.02 - 0.012))
    assert analytic_seconds(1_448_000, line, requests=1) == pytest.approx(1.248)
    slow_start = analytic_seconds(1_448_000, LinkSpec(100, 100)) - 0.12 - 0.3
    assert 0.3 < slow_start < 0.7, "ten segments, then twice as many in each round trip"
    # A changing line of the same mean carries as much in whole periods.
    changing = LinkSpec(10, 0, lte_seed=1)
    period = 300 * 10e6 / 8 * 1448 / 1500
    assert analytic_seconds(round(2 * period), changing) == pytest.approx(600, rel=1e-3)
    parts = analytic_seconds(10**6, changing), analytic_seconds(10**6, changing, start=100)
    assert parts[0] != parts[1], "the trace has one rate"


def test_a_line_has_a_name_and_limits() -> None:
    assert LinkSpec(20, 50).name == "20mbit-50ms"
    assert LinkSpec(5, 100, loss=0.01, lte_seed=3, congestion="cubic").name == (
        "5mbit-lte3-100ms-1%loss-cubic"
    )
    for wrong in ({"mbit": 0}, {"mbit": 1, "loss": 1}, {"mbit": 1, "rtt_ms": -1}):
        with pytest.raises(UsageError, match="not a line"):
            LinkSpec(**wrong)


def test_who_is_not_root_is_told(offer: Offer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "geteuid", lambda: 1000, raising=False)
    with pytest.raises(UnsupportedError, match=r"need root.*sudo"):
        next(transfer(offer, LinkSpec(20)))
    monkeypatch.setattr(os, "geteuid", lambda: 0, raising=False)
    monkeypatch.setattr(shutil, "which", lambda name, **_: None)
    monkeypatch.delenv("RUSTC", raising=False)
    with pytest.raises(UnsupportedError, match="ip, tc, nginx, rustc"):
        check_support()


@pytest.mark.slow
def test_the_real_thing_over_a_shaped_line(offer: Offer) -> None:
    try:
        check_support()
        with LinkSpec(20).link():
            pass
    except UnsupportedError as error:
        pytest.skip(str(error))
    line = LinkSpec(5, 20, congestion="reno")
    plain, ours = transfer(offer, line, ("plain", "p2u"))
    assert plain.congestion == ours.congestion == "reno"
    assert ours.first < plain.first, "5 Mbit/s: 0.5 s and 1.7 s, compared with the same start"
    assert 1.6 < plain.exact - plain.asked < 8
    assert 1 < plain.goodput < 4.9
    assert plain.relay["down"]["bytes"] > plain.received
    # What is measured has all that arithmetic leaves out.
    assert -0.9 < plain.states[0].error < 0.02
    assert json.loads(json.dumps(asdict(ours)))["states"][0]["label"] == "base"
    with pytest.raises(UsageError, match="not offered"):
        next(transfer(offer, line, ("zipnn",)))
    with pytest.raises(StoreError, match="no_such_module"):
        next(transfer(offer, line, ("plain",), user="no_such_module:User"))


def test_zipnn_gets_whole_elements_only(tmp_path: Path) -> None:
    pytest.importorskip("zipnn")
    source = tmp_path / "source"
    source.mkdir()
    model = source / "model.safetensors"
    text = b'{"w":{"dtype":"F32","shape":[999],"data_offsets":[0,3996]}}'
    model.write_bytes(len(text).to_bytes(8, "little") + text + bytes(range(222)) * 18)
    assert model.stat().st_size % 4 == 3
    offer, _ = prepare(source, tmp_path / "root", ("zipnn",))
    ((_, sent),) = offer.files["zipnn"]
    unpacker(".znn")(offer.root / sent, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == model.read_bytes()
