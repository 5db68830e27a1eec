"""Every state is a model directory that others load as it is: transformers, on the real MiniLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kit
import pytest

import p2u

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kit.minilm(tmp_path_factory.mktemp("minilm") / "model")


def embed(folder: Path) -> Any:
    """Embedding of a sentence, by transformers alone."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        out = model(**tokenizer(["Any runtime loads every state."], return_tensors="pt"))
    return out.last_hidden_state.mean(1)[0]


def test_transformers_loads_the_base_and_the_exact_directory(minilm: Path, tmp_path: Path) -> None:
    p2u.pack(minilm, tmp_path / "package")
    original = embed(minilm)
    cosine = {}
    for state in ("base", "8bit", "exact"):
        p2u.pull(tmp_path / "package", tmp_path / "out", until=state)
        here = embed(tmp_path / "out")
        cosine[state] = float(torch.nn.functional.cosine_similarity(here, original, dim=0))
    assert cosine["base"] > 0.9
    assert cosine["8bit"] > 0.999
    assert torch.equal(here, original)
