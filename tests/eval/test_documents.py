"""Numbers of documents come from kept CSVs."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from p2u.errors import FormatError
from p2u.eval.markdown import BLOCK, filled

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_tables_are_those_of_the_data() -> None:
    text = (DOCS / "evaluation.md").read_text(encoding="utf-8")
    assert BLOCK.search(text)
    assert filled(text, DOCS) == text, "python -m p2u.eval.markdown docs/evaluation.md"


def test_all_that_is_kept_is_shown() -> None:
    text = (DOCS / "evaluation.md").read_text(encoding="utf-8")
    for path in sorted((DOCS / "data").glob("*/points.csv")):
        assert path.relative_to(DOCS).as_posix() in text


def test_a_changed_number_is_found(tmp_path: Path) -> None:
    path = next(iter(sorted((DOCS / "data").glob("*/points.csv"))))
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    (tmp_path / "x.csv").write_bytes(path.read_bytes())
    text = "<!-- points x.csv -->\n<!-- end -->\n"
    before = filled(text, tmp_path)
    assert filled(before, tmp_path) == before
    score = rows[0]["score"]
    changed = path.read_text().replace(score, "0.123456", 1)
    (tmp_path / "x.csv").write_text(changed)
    assert filled(before, tmp_path) != before


@pytest.mark.parametrize("block", ["points none.csv", "nothing x.csv"])
def test_what_is_not_there_is_an_error(tmp_path: Path, block: str) -> None:
    (tmp_path / "x.csv").write_text("a\n1\n")
    with pytest.raises(FormatError):
        filled(f"<!-- {block} -->\n<!-- end -->", tmp_path)
