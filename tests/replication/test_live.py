"""Live models and the commands, from stores of each kind."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from kit import Made
from places import WRITABLE

import p2u
from p2u.cli.app import app


@pytest.mark.parametrize("scheme", WRITABLE[1:])
def test_a_live_model(scheme: str, place: Callable[[str], str], made: Made) -> None:
    url = place(scheme)
    p2u.push(made.package, url)
    wanted = p2u.load(made.package)
    for cache in (False, True):
        with p2u.open(url, cache=cache) as replica:
            replica.wait("exact", timeout=60)
            for name, values in replica.tensors.items():
                assert np.array_equal(values, wanted[name], equal_nan=True)


@pytest.mark.parametrize("scheme", ["s3", "oci", "hf"])
def test_the_commands(
    scheme: str, place: Callable[[str], str], made: Made, tmp_path, capsys
) -> None:
    url = place(scheme)
    app(["push", str(made.package), url], standalone_mode=False)
    assert "objects copied" in capsys.readouterr().out
    for words in (
        ["inspect", url],
        ["verify", url],
        ["pull", url, str(tmp_path / "m")],
        ["gc", url, "--keep", "1", "--dry-run"],
        ["mirror", url, str(tmp_path / "copy"), "--json"],
    ):
        app(words, standalone_mode=False)
    assert '"copied"' in capsys.readouterr().out
    p2u.verify(tmp_path / "copy")
