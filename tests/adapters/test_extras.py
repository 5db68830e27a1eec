"""Missing libraries are named, with the extra that brings them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from kit import run_python

import p2u
from p2u.adapters.extras import check_library
from p2u.errors import UnsupportedError

ROOT = Path(__file__).resolve().parents[2]

#: Runs code in which some libraries cannot be imported; prints the error.
WITHOUT = """
import sys
code, *names = sys.argv[1:]
for name in names:
    sys.modules[name] = None
import p2u
try:
    exec(code)
except p2u.P2UError as error:
    print(f"{type(error).__name__}: {error}")
"""


@pytest.mark.parametrize(
    ("code", "library", "extra"),
    [
        ("p2u.torch.load('url', dict)", "torch", "torch"),
        ("p2u.torch.from_pretrained('url')", "torch", "torch"),
        ("p2u.torch.calibrate(None, [])", "torch", "torch"),
        ("from p2u.torch import sensitivity", "torch", "torch"),
        ("p2u.sync.Publisher('package')", "torch", "torch"),
        ("p2u.sync.Subscriber('package')", "torch", "torch"),
        ("p2u.vllm.TrainerInfo('package')", "vllm", "vllm"),
        ("p2u.onnx.session('url')", "onnxruntime", "onnx"),
        ("import p2u.serve", "werkzeug", "serve"),
        ("p2u.pack('model', 'package', engine='ray')", "ray", "ray"),
    ],
)
def test_a_missing_library_is_named(code: str, library: str, extra: str) -> None:
    if code.startswith("from"):
        code = "import p2u.adapters.torch as t; t.sensitivity"
    said = run_python(WITHOUT, code, library)
    assert re.match(rf"UnsupportedError: .*library {library}", said, re.IGNORECASE)
    assert f"'p2u-models[{extra}]'" in said


def test_what_is_installed_is_not_imported() -> None:
    check_library("json", "none", "this")
    check_library("xml.dom.minidom", "none", "this")
    with pytest.raises(UnsupportedError, match=r"this needs the library no_such.*\[extra\]"):
        check_library("no_such", "extra", "this")
    with pytest.raises(AttributeError):
        _ = p2u.torch.no_such_name
    assert "no_such" not in sys.modules


def extras() -> dict[str, str]:
    """Each extra of the distribution, as written."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    return dict(re.findall(r"^(\w+) = \[(.*)\]$", section, re.MULTILINE))


def test_the_installation_of_the_readme_has_what_the_readme_uses() -> None:
    found = extras()
    (installed,) = re.findall(r'pip install "\.\[(\w+)\]"', (ROOT / "README.md").read_text())
    (named,) = re.findall(r"p2u-models\[(.*?)\]", found[installed])
    brought = " ".join(found[name] for name in named.split(","))
    for library in ("torch", "transformers", "onnxruntime", "werkzeug"):
        assert library in brought
    users = {"dev", "demo", installed}
    assert set(named.split(",")) == found.keys() - users


def test_a_library_that_an_importer_refuses_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As tests and frozen programs keep one away."""

    class Refusing:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "kept_away":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Refusing(), *sys.meta_path])
    with pytest.raises(UnsupportedError, match=r"needs the library kept_away.*p2u-models\[hub\]"):
        check_library("kept_away", "hub", "this")
