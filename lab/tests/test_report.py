"""Tables, plots and the page, from a run of the fakes; and the commands."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import fakes
import numpy as np
import pytest
from typer.testing import CliRunner

from p2u.errors import FormatError, UnsupportedError, UsageError
from p2u_lab import compare, drive, registry
from p2u_lab.base import MissingDataError, Report
from p2u_lab.cells import CellStore
from p2u_lab.cli import app
from p2u_lab.network.link import check_support
from p2u_lab.results import Results, load, make_results, save, table_csv
from p2u_lab.run import Runner
from p2u_lab.suites import SUITES, Request, Suite
from p2u_lab.tensorfiles import write_safetensors

BITS = (2.0, 3.0, 4.0)
METHODS = {
    "p2u": fakes.Rounding,
    "minmax-tensor": lambda: fakes.Rounding("minmax-tensor"),
    "fp16": fakes.Cast,
    "plain": fakes.Plain,
    "lacking": fakes.Lacking,
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    root = tmp_path_factory.mktemp("run")
    runner = Runner(CellStore(root / "store"))
    methods = {name: make() for name, make in METHODS.items()}
    runner.pair(fakes.model(root / "model"), fakes.Points(), methods, BITS)
    request = Request(bandwidth=(1.0, 5.0), rtt=(20.0,)).as_json()
    return make_results(runner.outcome, request, 3)


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The fakes in place of all models, tasks and methods."""
    monkeypatch.setenv("P2U_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("P2U_EVAL_DATA", raising=False)
    models = {"tiny": lambda: fakes.model(tmp_path / "model")}
    monkeypatch.setattr(registry, "model_factories", lambda: models)
    tasks = {"points": fakes.Points, "nodata": fakes.NoData}
    monkeypatch.setattr(registry, "task_factories", lambda: tasks)
    monkeypatch.setattr(registry, "method_factories", lambda: METHODS)
    return tmp_path


def test_rows_say_what_was_measured(results: Results) -> None:
    rows = results.of("tiny", "points")
    assert rows[0].method == "original"
    assert (rows[0].percent, rows[0].diff, rows[0].items) == (100, 0, 200)
    assert len(rows) == 1 + 9 + 3 + 1 + 1
    for row in rows:
        assert row.low <= row.score <= row.high
        assert row.diff == pytest.approx(row.score - rows[0].score)
        assert row.exact == (row.state == "exact" or row.method == "original")
        if row.exact:
            assert (row.diff, row.lost, row.gained, row.p) == (0, 0, 0, 1)
        assert row.lost is not None
        assert row.gained is not None
        assert row.gained - row.lost == round(200 * row.diff)
    assert [(s["method"], s["status"]) for s in results.skipped] == [("lacking", "missing")]


def test_equal_bytes_pairs_the_best_that_fits(results: Results) -> None:
    found = {(e["state"], e["bits"], e["rival"]): e for e in results.equal}
    # 2 bits of ours are 80 bytes; the least of minmax-tensor is 83.
    assert ("base", 2.0, "minmax-tensor") not in found
    assert found["base", 3.0, "minmax-tensor"]["rival_bytes"] == 83
    assert found["base", 4.0, "minmax-tensor"]["rival_bytes"] == 123
    best = found["8bit", 4.0, "minmax-tensor"]
    scores = [r.score for r in results.rows if r.method == "minmax-tensor"]
    assert best["rival_score"] == max(scores)
    assert ("8bit", 4.0, "fp16") not in found
    assert all(e["state"] != "exact" for e in results.equal)


def test_claims_are_held_against_rows(results: Results) -> None:
    rows = results.of("tiny", "points")
    found = compare.verdicts([rows])
    classic = [v for v in found if "per-tensor" in v.claim]
    assert [v.holds for v in classic] == [True]
    eight = [v for v in found if v.claim.startswith("8bit state: no")]
    assert len(eight) == 3
    exact = [v for v in found if v.claim.startswith("exact")]
    assert [v.holds for v in exact] == [False]
    assert compare.status(exact) == "does not hold"
    assert compare.status([*exact, *classic]) == "holds with limits (1 of 2)"


def test_a_run_comes_back(results: Results, tmp_path: Path) -> None:
    save(results, tmp_path)
    assert load(tmp_path) == results
    with (tmp_path / "points.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(results.rows)
    assert rows[0]["extra"].startswith("norm=")
    assert float(rows[1]["score"]) == pytest.approx(results.rows[1].score, abs=1e-6)
    assert (tmp_path / "skipped.csv").read_text().count("\n") == 2
    assert not (tmp_path / "network.csv").exists()


@pytest.mark.parametrize("text", ["", "[]", '{"rows": [{"a": 1}]}', '{"rows": []}'])
def test_what_is_no_run_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(FormatError, match="is missing"):
        load(tmp_path)
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(FormatError, match="not a run"):
        load(tmp_path)


def test_csv_cells() -> None:
    made = table_csv([{"a": None, "b": True, "c": 0.5, "d": [2.0, 3.0], "e": 'x,"y'}]).decode()
    assert made == 'a,b,c,d,e\n,1,0.5,2 3,"x,""y"\n'
    assert table_csv([]) == b""


class Page(HTMLParser):
    """Ids, links, and whether tags are closed."""

    VOID = frozenset({"meta", "br", "img", "link", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in ("href", "src", "xlink:href"):
                self.links.append(str(value))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.slow
def test_the_page_needs_nothing_else(results: Results, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    save(results, tmp_path)
    (done,) = drive.rewrite(tmp_path)
    text = done.report.read_text()
    page = Page()
    page.feed(text)
    assert not page.open
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert "<script" not in text
    assert not re.search(r"@import|url\((?!#)", text)
    for ref in re.findall(r"url\(#([^)]+)\)", text):
        assert ref in page.ids
    assert text.count("<svg") == 3
    assert "prefers-color-scheme:dark" in text
    assert "currentColor" in text
    assert "pip install nolib" in text
    for name in ("numpy", "cpu", "seed"):
        assert name in text
    # Twice the same bytes, the PNGs too.
    before = {p: p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()}
    list(drive.rewrite(tmp_path))
    assert before == {p: p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()}
    assert len([p for p in before if p.suffix == ".png"]) == 3


def call(*words: str) -> str:
    found = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    if found.exception and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found.output


@pytest.mark.slow
def test_the_commands(known: Path) -> None:
    pytest.importorskip("matplotlib")
    out = known / "out"
    words = ("run", "--model", "tiny", "--task", "points", "--bits", "3,4", "--out", str(out))
    said = call(*words, "--bandwidth", "1")
    # Two bits and all else, of four methods; the fifth lacks its library.
    assert "12 cells measured, 0 from the cache" in said
    assert "left out: tiny points lacking" in said
    made = {p.name for p in out.iterdir()}
    assert made == {
        *("run.json", "points.csv", "skipped.csv", "equal.csv", "claims.csv"),
        *("plots", "report.html"),
    }
    assert json.loads((out / "run.json").read_text())["about"]["request"]["bits"] == [3, 4]
    assert "0 cells measured, 12 from the cache" in call(*words, "--bandwidth", "1")
    assert str(out / "report.html") in call("report", str(out))


@pytest.mark.slow
def test_transfers_are_part_of_a_run(known: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    fake = fakes.model(known / "m")

    def folder(report: Report) -> Path:
        made = fake.folder(report)
        values = np.random.default_rng(1).normal(0, 0.05, (512, 256)).astype(np.float32)
        write_safetensors(made / "model.safetensors", {"w": values}, {})
        return made

    monkeypatch.setattr(
        registry, "model_factories", lambda: {"tiny": lambda: replace(fake, folder=folder)}
    )
    words = ("run", "--model", "tiny", "--method", "plain", "--bits", "4", "--transfers")
    words = (*words, "--bandwidth", "20", "--rtt", "20", "--out", str(known / "o"))
    call(*words)
    try:
        check_support()
    except UnsupportedError as error:
        assert error.message in (known / "o" / "skipped.csv").read_text()
        return
    with (known / "o" / "network.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    states = {(row["method"], row["state"]): row for row in rows}
    assert {("p2u", "base"), ("p2u", "exact"), ("plain", "exact")} <= states.keys()
    assert 0 < float(states["p2u", "base"]["usable"]) < float(states["p2u", "exact"]["usable"])
    assert all(0 < float(row["goodput"]) < 20 for row in rows)
    assert "tiny" in (known / "o" / "report.html").read_text()
    # Nothing is transferred again.
    before = (known / "o" / "network.csv").read_bytes()
    monkeypatch.setitem(sys.modules, "p2u_lab.network.transfers", None)
    call(*words)
    assert (known / "o" / "network.csv").read_bytes() == before


def test_list_says_what_is_missing(known: Path) -> None:
    said = call("list")
    assert "get it from nowhere" in said
    assert "tiny" in said
    assert "minmax-tensor" in said


def test_list_has_other_seeds_in_one_line(known: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("net-x", "net-x-s1", "net-x-s2")
    models = {n: (lambda n=n: fakes.model(known / n, n)) for n in names}
    monkeypatch.setattr(registry, "model_factories", lambda: models)
    lines = [line for line in call("list").splitlines() if line.startswith("net-x")]
    assert len(lines) == 1
    assert "-s1 -s2" in lines[0]


def test_no_data_at_all_is_an_error_that_helps(known: Path) -> None:
    models = {
        "tiny": lambda: type(fakes.model(known / "m"))("tiny", lambda r: known, ("nodata",), "")
    }
    registry.model_factories = lambda: models  # put back by the fixture's monkeypatch
    (known / "x").write_text("x")
    with pytest.raises(Exception, match="get it from nowhere"):
        call("run", "--task", "nodata", "--out", str(known / "o"))
    assert not (known / "o").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run",), "Name a suite"),
        (("run", "paperr"), "no suite"),
        (("run", "--model", "tinny"), "Did you mean tiny"),
        (("run", "--task", "points", "--bits", "a"), "are not bits"),
        (("run", "--task", "points", "--bandwidth", "0"), "are not rates"),
        (("run", "--task", "points", "--data-dir", "/nowhere/at/all"), "not a folder"),
        (("run", "--model", "tiny", "--task", "nodata"), "none of the models"),
    ],
)
def test_what_cannot_be_asked(known: Path, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        call(*words)


@pytest.mark.parametrize(
    "request_", [pytest.param(r, id=f"{s}-{n}") for s in SUITES for n, r in SUITES[s].parts.items()]
)
def test_suites_ask_for_what_there_is(request_: Request) -> None:
    models = registry.choose("model", registry.model_factories(), request_.models)
    tasks = registry.choose("task", registry.task_factories(), request_.tasks)
    registry.choose("method", registry.method_factories(), request_.methods)
    for make in models.values():
        assert set(make().tasks) & set(tasks)


def test_parts_of_a_suite_have_folders(known: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def part(task: str) -> Request:
        return Request(("tiny",), (task,), ("plain",), (4.0,))

    missing = {"lost": part("nodata")}
    both = replace(fakes.model(known / "m"), tasks=("points", "nodata"))
    monkeypatch.setattr(registry, "model_factories", lambda: {"tiny": lambda: both})
    monkeypatch.setitem(SUITES, "two", Suite("", {"one": part("points"), **missing}))
    out = known / "o"
    said = call("run", "two", "--out", str(out))
    assert (out / "one" / "report.html").is_file()
    assert not (out / "lost").exists()
    assert "lost: nothing could be measured: points.npz is missing" in said
    again = (out / "one" / "points.csv").read_bytes()
    (out / "one" / "points.csv").unlink()
    call("report", str(out))
    assert (out / "one" / "points.csv").read_bytes() == again
    monkeypatch.setitem(SUITES, "none", Suite("", missing))
    with pytest.raises(MissingDataError):
        call("run", "none", "--out", str(out))


def test_the_command_line_loads_no_library_for_it() -> None:
    code = "import sys; import p2u_lab.cli; print(*{n.split('.')[0] for n in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "matplotlib", "torch"} & set(done.stdout.split())
