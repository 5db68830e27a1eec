"""Numbers of documents come from kept CSVs."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from p2u.errors import FormatError
from p2u_lab.markdown import BLOCK, filled
from p2u_lab.suites import SUITES

LAB = Path(__file__).resolve().parents[1]
ROOT = LAB.parent
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    LAB / "README.md",
    LAB / "bench" / "README.md",
    *sorted(DOCS.glob("*.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_the_tables_are_those_of_the_data(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    again = f"python -m p2u_lab.markdown {page.relative_to(ROOT)}"
    assert filled(text, page.parent) == text, again


def test_all_that_is_kept_is_shown() -> None:
    shown = {
        (page.parent / block[3]).resolve()
        for page in PAGES
        for block in BLOCK.finditer(page.read_text(encoding="utf-8"))
    }
    for pattern in ("*/points.csv", "tables/*.csv"):
        assert {path.resolve() for path in (DOCS / "data").glob(pattern)} <= shown


@pytest.mark.parametrize(
    "path", sorted((DOCS / "data").glob("*/points.csv")), ids=lambda p: p.parent.name
)
def test_a_suite_makes_what_is_kept(path: Path) -> None:
    """`p2u eval run paper` asks for each point that the pages show."""
    parts = {**SUITES["paper"].parts, "smoke": SUITES["smoke"].parts[""]}
    request = parts[path.parent.name]
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    methods = {row["method"] for row in rows} - {"original"}
    plain = {m.removesuffix("+zstd").removesuffix("+entropy") for m in methods}
    assert plain <= set(request.methods)
    assert {row["model"] for row in rows} == set(request.models)
    assert {row["task"] for row in rows} == set(request.tasks)
    assert {float(row["bits"]) for row in rows if row["bits"]} == set(request.bits)
    assert all(request.limit is None or int(row["items"]) <= request.limit for row in rows)


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
