"""Product and lab share no private names: the lab imports public modules of P2U, P2U nothing."""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import p2u

LAB = Path(__file__).resolve().parents[1]
ROOT = LAB.parent

#: What others than the product may import, as CONTRIBUTING.md lists it; with all that is below.
PUBLIC = ("codec", "errors", "formats", "package", "serve", "stores", "types")
#: Parts of the API that are modules.
ADAPTERS = ("onnx", "sync", "torch")


def trees(path: Path) -> Iterator[ast.AST]:
    """A file, and the programs that it has as texts, for processes of their own."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    yield tree
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and re.search(r"\bimport\b.*\bp2u\b|\bfrom p2u\b", text):
            with contextlib.suppress(SyntaxError):  # words
                yield ast.parse(text)


def chain(node: ast.Attribute) -> list[str]:
    """The names of ``p2u.torch.load``; none where it begins with something else."""
    names = [node.attr]
    value = node.value
    while isinstance(value, ast.Attribute):
        names.insert(0, value.attr)
        value = value.value
    return [value.id, *names] if isinstance(value, ast.Name) else []


def used(tree: ast.AST) -> Iterator[str]:
    """All that a tree uses of P2U: ``p2u.stores.open_store``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield ".".join(chain(node))


def is_public(name: str) -> bool:
    """Whether a name below ``p2u`` is for others."""
    parts = name.split(".")[1:]
    if any(part.startswith("_") for part in parts):
        return False
    if not parts or parts[0] in PUBLIC:
        return True
    if parts[0] in ADAPTERS:
        return len(parts) < 2 or parts[1] in getattr(p2u, parts[0]).__all__
    return parts[0] in p2u.__all__


def test_the_lab_uses_public_names_only() -> None:
    private = {
        f"{path.relative_to(ROOT)}: {name}"
        for folder in ("src", "bench", "tests")
        for path in sorted((LAB / folder).rglob("*.py"))
        if path != Path(__file__).resolve()
        for tree in trees(path)
        for name in used(tree)
        if name.partition(".")[0] == "p2u" and not is_public(name)
    }
    assert not private


def test_the_product_does_not_know_the_lab() -> None:
    known = {
        f"{path.relative_to(ROOT)}: {name}"
        for folder in ("src", "tests")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for tree in trees(path)
        for name in used(tree)
        if name.partition(".")[0] == "p2u_lab"
    }
    assert not known


@pytest.mark.parametrize(
    ("code", "public"),
    [
        ("from p2u import pack", True),
        ("from p2u.package.index import parse_index", True),
        ("import p2u\np2u.torch.load(x)", True),
        ("from p2u import _lazy", False),
        ("from p2u.stores.http import _pool", False),
        ("from p2u.client.folder.pull import pull", False),
        ("import p2u.packing.api", False),
        ("import p2u\np2u.adapters.torch.loading.load(x)", False),
        ("import p2u\np2u.torch.loading.load(x)", False),
        ("CODE = '''\nimport p2u.client\n'''", False),
    ],
)
def test_the_rule_bites(tmp_path: Path, code: str, public: bool) -> None:
    path = tmp_path / "x.py"
    path.write_text(code)
    names = [n for tree in trees(path) for n in used(tree) if n.split(".")[0] == "p2u"]
    assert names
    assert all(map(is_public, names)) is public


def test_contributing_lists_them() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("## Public modules\n")[2].partition("\n## ")[0]
    listed = {name for line in re.findall(r"^- (.*?):", section, re.M) for name in
              re.findall(r"`p2u\.(\w+)`", line)}  # fmt: skip
    assert listed == {*PUBLIC, *ADAPTERS}
