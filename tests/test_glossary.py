"""One word per concept: the glossary is true, and the source keeps to it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "p2u"
GLOSSARY = ROOT / "docs" / "glossary.md"
MODULES = sorted(PACKAGE.rglob("*.py"))

#: A docstring that begins so has a clause for a subject, or explains instead of saying.
HEADLESS = ("What", "Who", "That", "How", "Which")
#: CamelCase: the name of a class.
CLASS = re.compile(r"[A-Z][a-z0-9]+(?:[A-Z][a-z0-9]+)*")


def rows(text: str) -> Iterator[list[str]]:
    """The cells of all rows of tables, headings left out."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and not cells[0].startswith("---"):
            yield cells


def entries() -> list[list[str]]:
    """Word, meaning, words not to use, where it appears."""
    text = GLOSSARY.read_text(encoding="utf-8").partition("## Retired words")[0]
    return [cells for cells in rows(text) if cells[0] != "word"]


def retired() -> dict[str, str]:
    """Words that no identifier may have, and what to say instead."""
    text = GLOSSARY.read_text(encoding="utf-8").partition("## Retired words")[2]
    return {cells[0]: cells[1] for cells in rows(text) if cells[0] != "retired"}


def first_line(source: str) -> str:
    """The first line of a module's docstring; empty if there is none."""
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def faults(line: str) -> Iterator[str]:
    """What is wrong with the first line of a docstring."""
    if not line:
        yield "there is none"
    elif not line.endswith("."):
        yield "it does not end in a period"
    elif re.search(r"[.?!] [A-Z]", line):
        yield "it is more than one sentence"
    if line.startswith(tuple(f"{word} " for word in HEADLESS)):
        yield "it begins with a clause"


def names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """``(name, line)`` of all that a module names: what it defines, assigns, takes and imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno
        elif isinstance(node, ast.alias) and node.asname:
            yield node.asname, 0


def words(name: str) -> set[str]:
    """The words of an identifier: ``find_live_route``, ``LiveRoute``."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def old_names(source: str, old: set[str]) -> list[str]:
    """The identifiers of a module that use these words, with their lines."""
    tree = ast.parse(source)
    return [f"{line}: {name}" for name, line in names(tree) if words(name) & old]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_the_first_line_of_a_module_is_one_sentence(path: Path) -> None:
    line = first_line(path.read_text(encoding="utf-8"))
    assert not list(faults(line)), line


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("", "none"),
        ("Reads the index", "period"),
        ("Reads the index. Checks it.", "more than one"),
        ("What the index holds.", "clause"),
        ("How an index is read.", "clause"),
    ],
)
def test_faults_of_first_lines_are_found(line: str, fault: str) -> None:
    assert fault in " ".join(faults(line))


def test_no_identifier_uses_a_retired_word() -> None:
    old = set(retired())
    found = [
        f"{path.relative_to(ROOT)}:{name}"
        for path in MODULES
        for name in old_names(path.read_text(encoding="utf-8"), old)
    ]
    found += [str(path.relative_to(ROOT)) for path in MODULES if words(path.stem) & old]
    assert not found, "see docs/glossary.md: " + "\n".join(found)


def test_retired_identifiers_are_found() -> None:
    source = "def f(first_leg):\n    self._course = 1\n    file.tell()\nclass LegMap: ...\n"
    found = old_names(source, {"leg", "course", "tell"})
    assert sorted(found) == ["1: first_leg", "2: _course", "4: LegMap"]


def test_each_entry_is_one_plain_sentence() -> None:
    assert len(entries()) > 60
    for word, meaning, *_ in entries():
        assert meaning[0].isupper() and meaning.endswith("."), word
        assert not meaning.startswith(HEADLESS), word


def test_no_word_has_two_entries() -> None:
    found = [word for cells in entries() for word in cells[0].split(", ")]
    assert len(set(found)) == len(found)
    assert not set(found) & set(retired())


def test_the_classes_that_the_glossary_names_exist() -> None:
    named = {
        part
        for cells in entries()
        for code in re.findall(r"`([\w.]+)`", cells[3])
        for part in code.split(".")
        if CLASS.fullmatch(part)
    }
    source = "\n".join(path.read_text(encoding="utf-8") for path in MODULES)
    classes = set(re.findall(r"^\s*class (\w+)", source, re.M))
    assert named and not named - classes
