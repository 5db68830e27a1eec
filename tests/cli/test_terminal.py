"""Output on any terminal: encodings that lack signs, names that would act on it, narrow windows."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path

import pytest
from command_line import p2u
from hypothesis import given
from hypothesis import strategies as st
from kit import floats, write_safetensors

from p2u import pack
from p2u.cli.bars import render
from p2u.cli.terminal import shown
from p2u.client.transfer.control import Progress

#: Sets a title, clears a line, begins another one, has markup, turns the direction round.
EVIL = "w\x1b]0;PWNED\x07\x1b[2K\r\n\x9b31mp2u: ok [bold]y[/bold] \u202egpj.\u2028z"
LONG = "encoder.block.0.layer.1.DenseReluDense.wi_0.weight." * 4


def small(folder: Path, *names: str, file: str = "model.safetensors") -> Path:
    folder.mkdir(exist_ok=True)
    tensors = [
        (name, "F32", (32, 64), floats(2048, "F32", seed)) for seed, name in enumerate(names)
    ]
    write_safetensors(folder / file, tensors)
    return folder


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package whose names come from somebody who means harm."""
    root = tmp_path_factory.mktemp("evil")
    pack(small(root / "m", EVIL, LONG), root / "p")
    tree = json.loads((root / "p" / "p2u.json").read_text())
    tree["name"] = tree["generator"] = EVIL
    (root / "p" / "p2u.json").write_text(json.dumps(tree))
    return root / "p"


def acts(text: str) -> list[str]:
    """Characters that do something; ends of lines and colours of ours are none."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return [
        sign
        for sign in plain
        if sign != "\n" and unicodedata.category(sign) in ("Cc", "Cf", "Zl", "Zp", "Cs")
    ]


@given(st.text())
def test_nothing_shown_acts(text: str) -> None:
    quiet = {"\u00ad", "\u200b", "\u200c", "\u200d"}  # joiners of scripts, which are harmless
    left = [sign for sign in shown(text) if unicodedata.category(sign) in ("Cc", "Zl", "Zp", "Cs")]
    assert not left
    assert not re.search("[\u200e\u200f\u202a-\u202e\u2066-\u2069]", shown(text))
    assert all(sign in shown(text) for sign in quiet & set(text))


def test_other_characters_are_shown_as_they_are() -> None:
    for text in ("модель/вес", "重み", "naïve ✓", "a b", "\\x1b", "🙂"):
        assert shown(text) == text
    assert shown("a\x1b\x9b\nb\udcff") == r"a\x1b\x9b\nb\udcff"


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii", "cp1252", "cp437", "shift_jis"])
@pytest.mark.parametrize(
    "words",
    [
        ("inspect", "{p}"),
        ("inspect", "{p}", "--tensors"),
        ("verify", "{p}"),
        ("pull", "{p}", "{o}"),
        ("pull", "{p}", "{o}", "--dry-run"),
        ("gc", "{p}", "--dry-run"),
    ],
)
def test_names_from_strangers_in_any_encoding(
    evil: Path, tmp_path: Path, words: tuple[str, ...], encoding: str
) -> None:
    filled = [word.format(p=evil, o=tmp_path / "вес") for word in words]
    said = p2u(*filled, encoding=encoding)
    assert said.status == 0, said.err
    assert acts(said.out + said.err) == []
    assert "[bold]" in said.out or words[0] in ("pull", "gc")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_in_messages_of_errors(evil: Path, tmp_path: Path, encoding: str) -> None:
    model = small(tmp_path / "m", EVIL)
    broken = bytearray((model / "model.safetensors").read_bytes())
    del broken[-100:]
    (model / "model.safetensors").write_bytes(broken)
    for words in (
        ("pack", model, tmp_path / "out"),
        ("pack", tmp_path / EVIL.replace("/", "-"), tmp_path / "out"),
        ("pull", evil, tmp_path / "o", "--until", EVIL),
        ("pull", evil, tmp_path / "o", EVIL),  # one word too many
        ("verify", tmp_path / EVIL),
        ("gc", tmp_path / EVIL),
        (EVIL,),
    ):
        said = p2u(*words, encoding=encoding)
        assert said.status in (1, 2)
        assert said.err.startswith("p2u: ")
        assert said.err.count("\n") == 1, said.err
        assert acts(said.err) == []


def test_signs_are_replaced_where_they_are_missing(tmp_path: Path) -> None:
    model = small(tmp_path / "m", "w")
    assert "→" in p2u("pack", model, tmp_path / "p").out
    assert "->" in p2u("pack", model, tmp_path / "q", encoding="ascii").out
    assert p2u("verify", tmp_path / "q", encoding="cp1252").out.startswith("+ ")


def test_pipes_get_whole_names(evil: Path, tmp_path: Path) -> None:
    said = p2u("inspect", evil, "--tensors").out
    assert LONG in said
    far = tmp_path / ("d" * 100) / ("e" * 100)
    far.parent.mkdir()
    assert str(far) in p2u("pull", evil, far).out
    assert str(far) in p2u("pull", evil, far, "--dry-run").out


@pytest.mark.parametrize("columns", [20, 40, 60, 79])
def test_tables_keep_their_digits_on_narrow_terminals(evil: Path, columns: int) -> None:
    wide = p2u("inspect", evil, columns=300).out
    assert re.findall(r"[\d,.]+", p2u("inspect", evil, columns=columns).out) == re.findall(
        r"[\d,.]+", wide
    )


# --- the progress of a transfer


def at(done: int) -> Progress:
    marks = (("base", 300_000_000), ("8bit", 700_000_000), ("exact", 1_000_000_000))
    return Progress("base", "a-long-version-name@exact", done, 10**9, 2.5e6, 61.0, marks)


@pytest.mark.parametrize("columns", [10, 40, 79, 80, 81, 120, 200])
@pytest.mark.parametrize("signs", [True, False])
def test_the_bar_fits_in_a_line(columns: int, signs: bool) -> None:
    for done in (0, 1, 299_999_999, 650_000_000, 10**9):
        text = render(at(done), columns, signs=signs).plain
        assert len(text) < columns
        assert "\n" not in text
        if columns >= 40:
            assert f"{done // 10**7} %" in text or done == 299_999_999
        assert signs or text.isascii()


@pytest.mark.parametrize("signs", [True, False])
def test_its_parts_differ_without_colours(signs: bool) -> None:
    begun, halfway, ended = (render(at(n * 500_000_000), 80, signs=signs).plain for n in range(3))
    cells = [set(re.split(r"\s", text)[0]) for text in (begun, halfway, ended)]
    assert len(cells[1]) == 4  # filled, empty, reached, ahead
    assert not cells[0] & cells[2]
