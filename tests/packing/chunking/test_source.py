"""Models in stores are scanned as those in folders are, and only their structure is fetched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import engine_kit
import kit
import pytest
from packing_kit import content

from p2u.errors import FormatError, UnsupportedError
from p2u.formats import scan_model
from p2u.packing.chunking.cut import make_layout
from p2u.packing.chunking.source import find_model
from p2u.packing.chunking.stored import StoredModel
from p2u.stores import open_writable


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = engine_kit.shards(tmp_path / "model")
    kit.write_model(folder / "more")
    return folder


def test_it_is_the_same(model: Path, place: Callable[[str], str]) -> None:
    url = place("s3")
    with open_writable(url) as store:
        for key, data in content(model).items():
            store.put(key, data)
    found, here = find_model(url), find_model(model.as_uri())
    assert here.scanned == scan_model(str(model))
    assert found.scanned.files == here.scanned.files
    layout = make_layout(found.scanned, lambda name: False)
    there, local = StoredModel(found.scanned, layout, found), StoredModel(here.scanned, layout)
    for number in range(len(local.files)):
        assert there.hash_file(number) == local.hash_file(number)


def test_there_is_no_model(place: Callable[[str], str]) -> None:
    with pytest.raises(FormatError, match="no files"):
        find_model(place("s3"))
    with pytest.raises(UnsupportedError, match="cannot be listed"):
        find_model("http://127.0.0.1:9/model?token=secret")
