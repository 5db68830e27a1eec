"""Versions whose files differ while their tensors are the same, and versions of other tensors."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import kit
import numpy as np
import pytest
from following import files
from safetensors.numpy import load_file, save_file

import p2u
from p2u.client.live.opening import open_replica
from p2u.client.live.replica import Replica
from p2u.errors import UnsupportedError

NAMES = "abcdef"


def tensors(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    found = {n: rng.normal(0, 0.02, (64, 48)).astype(np.float32) for n in NAMES}
    found["h"] = rng.normal(0, 0.02, (32, 96)).astype(np.float16)
    found["small"] = rng.normal(0, 0.02, (5,)).astype(np.float32)
    found["ids"] = np.arange(7, dtype=np.int64) + seed
    return found


def drifted(weights: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Weights after a step of training: a part of them, by little."""
    rng = np.random.default_rng(seed)
    return {
        name: (w + (rng.random(w.shape) < 0.3) * w.dtype.type(3e-4)).astype(w.dtype)
        for name, w in weights.items()
    }


def whole(folder: Path, weights: dict[str, np.ndarray], meta: str = "1") -> None:
    save_file(weights, folder / "model.safetensors", metadata={"step": meta})


def sharded(folder: Path, weights: dict[str, np.ndarray], count: int) -> None:
    index = {}
    for number in range(count):
        name = f"model-{number + 1:05}-of-{count:05}.safetensors"
        part = dict(list(weights.items())[number::count])
        save_file(part, folder / name)
        index |= dict.fromkeys(part, name)
    text = json.dumps({"metadata": {}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text)


def rest(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("words " * 500)


def write(folder: Path, weights: dict[str, np.ndarray], form: str) -> None:
    """A model directory of one of several forms."""
    folder.mkdir()
    rest(folder)
    if form == "removed":
        (folder / "config.json").unlink()
    if form == "longer":
        (folder / "config.json").write_text('{"transformers_version": "5"}')
        (folder / "tokenizer.json").write_text("words " * 300)
    if form == "readme":
        (folder / "README.md").write_text("new")
        (folder / "a.bin").write_bytes(bytes(range(256)) * 40)
    if form.startswith("shards"):
        sharded(folder, weights, int(form[-1]))
    elif form == "renamed":
        whole(folder, weights)
        (folder / "model.safetensors").rename(folder / "weights.safetensors")
    elif form == "folder":
        (folder / "inner").mkdir()
        whole(folder / "inner", weights)
    elif form == "npz":
        np.savez(folder / "model.npz", **weights)
    elif form == "swapped":
        # Equal bytes under another name: the update takes them from there.
        whole(folder, {**weights, "a": weights["b"], "b": weights["a"], "c": weights["d"]})
    else:
        whole(folder, weights, "10000000000" if form == "header" else "1")


FORMS = (
    *("plain", "readme", "longer", "removed", "header", "shards3", "shards2", "renamed"),
    *("folder", "npz", "swapped"),
)


class Series:
    """A package that grows, and what its versions hold."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.package = folder, folder / "pkg"
        self.weights = tensors(1)
        self.trees: list[dict[str, bytes]] = []

    def publish(self, form: str, change: Callable[[dict], dict] | None = None, **options) -> None:
        number = len(self.trees)
        if number:
            self.weights = drifted(self.weights, number)
        if change is not None:
            self.weights = change(self.weights)
        write(self.folder / f"m{number}", self.weights, form)
        self.trees.append(kit.tree(self.folder / f"m{number}"))
        p2u.publish(self.folder / f"m{number}", self.package, **options)


@pytest.fixture
def series(tmp_path: Path) -> Series:
    return Series(tmp_path)


def places(replica: Replica) -> dict[str, int]:
    return {name: a.__array_interface__["data"][0] for name, a in replica.tensors.items()}


def go_on(replica: Replica) -> None:
    replica.refresh()
    replica.wait(timeout=20)


def values(replica: Replica) -> dict[str, bytes]:
    return {name: a.tobytes() for name, a in replica.tensors.items()}


def stored(tree: dict[str, bytes], folder: Path) -> dict[str, bytes]:
    """Name to bytes of the tensors of a model directory."""
    found = {}
    for path in tree:
        if path.endswith(".safetensors"):
            found |= {name: a.tobytes() for name, a in load_file(folder / path).items()}
        elif path.endswith(".npz"):
            with np.load(folder / path) as archive:
                found |= {name: archive[name].tobytes() for name in archive.files}
    return found


def check(replica: Replica, series: Series, number: int = -1) -> None:
    number %= len(series.trees)
    assert files(replica) == series.trees[number]
    assert values(replica) == stored(series.trees[number], series.folder / f"m{number}")


@pytest.mark.parametrize("form", FORMS[1:])
@pytest.mark.parametrize("follows", ["each", "chain"])
def test_every_form_is_followed_in_place(series: Series, form: str, follows: str) -> None:
    """There, back again, and across both in one commit; tensors stay where they are."""
    series.publish("plain")
    with open_replica(series.package) as replica:
        replica.wait(timeout=20)
        at = places(replica)
        for forms in ((form,), (form,), ("plain", form), ("header", "plain")):
            for one in forms:
                series.publish(one)
                if follows == "each":
                    go_on(replica)
                    check(replica, series)
            go_on(replica)
            check(replica, series)
            assert replica.version == f"v{len(series.trees)}"
        assert places(replica) == at and replica.error is None
        memory = replica.memory
        holders = {tensor.file for tensor in memory.first.tensors}
        assert set(memory.regions) == memory.here.places.regions | holders
    for options in ({}, {"mode": "eager"}, {"staging": "chunks"}, {"staging": "copy"}):
        with open_replica(series.package, **options) as replica:
            replica.wait(timeout=20)
            check(replica, series)
    assert {k: v.tobytes() for k, v in p2u.load(series.package).items()} == stored(
        series.trees[-1], series.folder / f"m{len(series.trees) - 1}"
    )


def test_a_long_chain_of_all_forms_takes_one_commit(series: Series) -> None:
    series.publish("plain")
    with open_replica(series.package) as replica:
        replica.wait(timeout=20)
        before = len(replica.commits)
        for form in (*FORMS, "swapped", "swapped", *reversed(FORMS)):
            series.publish(form)
        go_on(replica)
        check(replica, series)
        assert len(replica.commits) == before + 1


def test_an_anchor_of_another_form_is_taken_in_place(series: Series) -> None:
    """Its route begins at nothing."""
    series.publish("plain")
    with open_replica(series.package) as replica:
        replica.wait(timeout=20)
        at = places(replica)
        series.publish("shards2", lambda _: tensors(9), anchor=True)
        go_on(replica)
        check(replica, series)
        series.publish("readme")
        go_on(replica)
        check(replica, series)
        assert places(replica) == at


def test_readers_see_one_version_of_all_files(series: Series) -> None:
    series.publish("plain")
    ended, seen = threading.Event(), set()
    with open_replica(series.package, follow=0.02) as replica:
        replica.wait("v1@exact", timeout=20)

        def read() -> None:
            while not ended.is_set():
                with replica.pinned(brief=True):
                    number = int(replica.version[1:])
                    check(replica, series, number - 1)
                    seen.add(number)

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        for form in ("readme", "shards2", "swapped"):
            series.publish(form)
            replica.wait(f"v{len(series.trees)}", timeout=30)
        ended.set()
        for thread in threads:
            thread.join(20)
    assert seen <= {1, 2, 3, 4}


def _more(weights: dict) -> dict:
    return {**weights, "new": np.full((16, 16), 0.5, np.float32)}


def _fewer(weights: dict) -> dict:
    return {name: w for name, w in weights.items() if name != "c"}


def _reshaped(weights: dict) -> dict:
    return {**weights, "c": weights["c"].reshape(48, 64)}


def _cast(weights: dict) -> dict:
    return {**weights, "c": weights["c"].astype(np.float16)}


@pytest.mark.parametrize(
    ("change", "name"), [(_more, "new"), (_fewer, "c"), (_reshaped, "c"), (_cast, "c")]
)
def test_other_tensors_are_loaded_but_not_followed(series: Series, change, name: str) -> None:
    series.publish("plain")
    with open_replica(series.package) as replica:
        replica.wait(timeout=20)
        series.publish("readme", change)
        replica.refresh()
        with pytest.raises(UnsupportedError, match=f"'{name}' was .* now .*anew"):
            replica.wait(timeout=20)
        check(replica, series, 0)
    for options in ({}, {"mode": "eager"}, {"staging": "chunks"}):
        with open_replica(series.package, **options) as replica:
            # States of other tensors are not for use; whoever waits for one gets a later one.
            replica.wait("base", timeout=20)
            assert replica.id == "v2@exact" and replica.states == ("exact",)
            replica.wait(timeout=20)
            check(replica, series)
    with open_replica(series.package) as replica:
        replica.wait(timeout=20)
        series.publish("plain")
        go_on(replica)
        check(replica, series)
        replica.wait("v3", timeout=20)
        replica.wait("v1@base", timeout=20)
    with open_replica(series.package, until="v1") as replica:
        replica.wait(timeout=20)
        check(replica, series, 0)
    assert (name in p2u.load(series.package)) == (change is not _fewer)


@pytest.mark.parametrize("change", [_more, _fewer, _reshaped, _cast])
@pytest.mark.parametrize("form", ["plain", "swapped", "shards2"])
def test_versions_of_other_tensors_are_passed_by(series: Series, change, form: str) -> None:
    """From v1 to v3 by way of a v2 whose tensors nobody has memory for."""
    series.publish("plain")
    mine = dict(series.weights)
    with open_replica(series.package) as replica:
        replica.wait(timeout=20)
        at = places(replica)
        series.publish(form, change)
        series.publish(form, lambda _: drifted(mine, 9))
        go_on(replica)
        check(replica, series)
        assert places(replica) == at


def test_only_the_tensors_in_use_count(series: Series) -> None:
    """All others come, go, change and come back."""
    series.publish("plain")
    with open_replica(series.package) as replica:
        replica.wait(timeout=20)
        at, memory = places(replica), replica.memory
        memory.use(tensor for name, tensor in memory.named().items() if name in "ab")
        for change in (_more, _reshaped, _cast, _fewer, lambda _: tensors(1)):
            series.publish("readme", change)
            go_on(replica)
            assert files(replica) == series.trees[-1]
            held = stored(series.trees[-1], series.folder / f"m{len(series.trees) - 1}")
            found = values(replica)
            assert found["a"] == held["a"] and found["b"] == held["b"]
            assert all(held[name] == value for name, value in found.items())
            assert {name: at[name] for name in found} == places(replica)
        series.publish("readme", lambda weights: {**weights, "a": weights["a"].reshape(48, 64)})
        replica.refresh()
        with pytest.raises(UnsupportedError, match=r"'a' was .* now .*anew"):
            replica.wait(timeout=20)


def test_tensors_of_the_same_name_in_several_files(series: Series) -> None:
    """The file says which is which, also where one of the files gets another name."""
    folder = series.folder

    def publish(number: int, second: str, extra: float) -> dict[str, bytes]:
        model = folder / f"d{number}"
        model.mkdir()
        save_file({"w": tensors(1)["a"] + np.float32(extra)}, model / "first.safetensors")
        save_file({"w": tensors(2)["a"] - np.float32(extra)}, model / second)
        p2u.publish(model, series.package)
        return kit.tree(model)

    publish(0, "second.safetensors", 0.0)
    with open_replica(series.package) as replica:
        replica.wait(timeout=20)
        for number, second in enumerate(("other.safetensors", "a.safetensors"), 1):
            tree = publish(number, second, number / 1024)
            go_on(replica)
            assert files(replica) == tree
            mine = replica.tensors["first.safetensors:w"].tobytes()
            assert mine == load_file(folder / f"d{number}" / "first.safetensors")["w"].tobytes()
