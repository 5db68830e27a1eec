"""The plug points that CONTRIBUTING.md walks through: its own code is what is run here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import documents
import kit
import numpy as np
import pytest

import p2u
import p2u.formats
import p2u.stores
from p2u.adapters.sync.sidecar_files import read_folder
from p2u.errors import FormatError, UnsupportedError
from p2u.stores import open_store

GUIDE = (documents.ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
WEIGHTS = np.random.default_rng(7).normal(size=(96, 160)).astype("<f4")


def module(name: str) -> ModuleType:
    """A file of the guide, as a module that can be imported."""
    found = sys.modules[name] = ModuleType(name)
    exec(compile(documents.named_block(GUIDE, f"{name}.py"), f"{name}.py", "exec"), vars(found))
    return found


toy_store, toy_format, toy_adapter = map(module, ("toy_store", "toy_format", "toy_adapter"))


@pytest.fixture
def store_line() -> Iterator[None]:
    """The guide's line for the store is in force."""
    exec(documents.named_block(GUIDE, "register the store"))
    yield
    del p2u.stores.SCHEMES["toy"]


@pytest.fixture
def format_line() -> Iterator[None]:
    """The guide's line for the format is in force."""
    exec(documents.named_block(GUIDE, "register the format"))
    yield
    p2u.formats.FORMATS.remove(toy_format)


# The guide's test, here to be collected: the whole contract.
TestToyStore = pytest.mark.usefixtures("store_line")(module("test_toy_store").TestToyStore)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model in the toy format."""
    rows, columns = WEIGHTS.shape
    path = tmp_path / "model" / "weights.toy"
    path.parent.mkdir()
    path.write_bytes(f"toy {rows} {columns}\n".encode() + WEIGHTS.tobytes())
    (path.parent / "config.json").write_text("{}")
    return path.parent


def in_memory(folder: Path, name: str) -> str:
    """The URL of a package that was put into the toy store."""
    toy_store.PACKAGES[name] = kit.tree(folder)
    return f"toy://{name}"


@pytest.mark.usefixtures("store_line")
def test_a_store_is_one_file_and_one_line(made: kit.Made, tmp_path: Path) -> None:
    url = in_memory(made.package, "model")
    assert p2u.pull(url, tmp_path / "got").state == "exact"
    assert made.label(tmp_path / "got") == "exact"
    with p2u.open(url) as replica:
        replica.wait("exact")
        files = {path: bytes(data) for path, data in replica.files.items()}
    assert files == kit.tree(made.model)
    assert p2u.verify(url).kind == "package"


def test_a_scheme_without_a_store() -> None:
    with pytest.raises(UnsupportedError, match="no store for toy://"):
        open_store("toy://model")


@pytest.mark.usefixtures("format_line")
def test_a_format_is_one_file_and_one_line(model: Path, tmp_path: Path) -> None:
    p2u.pack(model, tmp_path / "package")
    assert p2u.pull(tmp_path / "package", tmp_path / "base", until="base").state == "base"
    p2u.pull(tmp_path / "package", tmp_path / "exact")
    for path in model.iterdir():
        assert (tmp_path / "exact" / path.name).read_bytes() == path.read_bytes()
    # The matrix was found: it comes coarse first.
    coarse = (tmp_path / "base" / "weights.toy").read_bytes()
    head = len(coarse) - WEIGHTS.nbytes
    found = np.frombuffer(coarse[head:], "<f4").reshape(WEIGHTS.shape)
    assert coarse[:head] == b"toy 96 160\n"
    assert 0 < np.abs(found - WEIGHTS).max() < np.abs(WEIGHTS).max()
    # Whoever publishes what lies next to the weights leaves them out.
    assert list(read_folder(model)) == ["config.json"]


@pytest.mark.usefixtures("format_line")
@pytest.mark.parametrize("content", [b"toy 1\n", b"toy 1 2\n1234", b"toy 999999999 999999999\n"])
def test_the_toy_format_refuses_lies(content: bytes, model: Path, tmp_path: Path) -> None:
    (model / "weights.toy").write_bytes(content)
    with pytest.raises(FormatError, match=r"weights\.toy"):
        p2u.pack(model, tmp_path / "package")


def test_a_format_that_nobody_knows_is_carried(model: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no model file"):
        p2u.pack(model, tmp_path / "package")


@pytest.mark.usefixtures("store_line", "format_line")
def test_an_adapter_refreshes_its_copies(model: Path, tmp_path: Path) -> None:
    p2u.pack(model, tmp_path / "package")
    layer = toy_adapter.Linear(in_memory(tmp_path / "package", "layer"), "matrix")
    x = np.ones((1, 96))
    with layer.replica:
        assert np.isfinite(layer(x)).all()
        layer.replica.wait("exact")
        assert np.array_equal(layer(x), x @ WEIGHTS.astype(np.float64))
