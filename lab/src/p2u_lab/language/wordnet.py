"""WordNet: find the lemma that a gloss defines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from p2u_lab.base import MissingDataError, Scores, Task, Trainable
from p2u_lab.language.embedding import embeddings, trainable
from p2u_lab.language.items import shuffled
from p2u_lab.places import DATA_VARIABLE

#: Where Debian's package wordnet-base puts it.
DEBIAN = Path("/usr/share/wordnet")

#: Glosses to learn from, which are those behind any that are asked.
LEARN = 128
#: No more than these are asked.
MOST = 4000


@dataclass(frozen=True)
class Entry:
    """A noun's synonym set: its first lemma, and the gloss without its examples."""

    lemma: str
    gloss: str


def wordnet_dir() -> Path:
    """The folder with WordNet's data files.

    Raises:
        MissingDataError: There is none.
    """
    named = os.environ.get(DATA_VARIABLE)
    places = [Path(named).expanduser() / "wordnet", DEBIAN] if named else [DEBIAN]
    for place in places:
        if (place / "data.noun").is_file():
            return place
    raise MissingDataError(
        "WordNet's data.noun is not in " + " or ".join(map(str, places)),
        hint="apt-get install wordnet-base, or put the dict folder of WordNet 3.0 from "
        f"https://wordnet.princeton.edu there as 'wordnet' in the folder of {DATA_VARIABLE}",
    )


def entries(folder: Path) -> list[Entry]:
    """The nouns, shuffled: one synonym set per lemma."""
    found: dict[str, Entry] = {}
    for entry in _read(folder / "data.noun"):
        found.setdefault(entry.lemma.lower(), entry)
    return shuffled(list(found.values()), lambda e: f"{e.lemma}|{e.gloss}")


def _read(path: Path) -> Iterator[Entry]:
    """The lines of a data file, see wndb(5WN): the fifth field is the first lemma."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):
            continue  # the licence
        fields, _, gloss = line.partition("|")
        lemma = fields.split(" ", 5)[4].replace("_", " ")
        definition = gloss.partition('; "')[0].strip()
        yield Entry(lemma, definition)


class WordNet(Task):
    """Gloss to lemma: right if the gloss's own lemma is the nearest of all the items' lemmas.

    Args:
        limit: Items; each is a question, and all their lemmas are the possible answers.
    """

    metric = "recall@1"

    def __init__(self, limit: int | None = None, name: str = "wordnet") -> None:
        self.name = name
        self.limit = min(limit or 1000, MOST)
        self._items: list[Entry] = []
        self._learn: list[Entry] = []

    def prepare(self) -> None:
        """Read the nouns."""
        if not self._items:
            every = entries(wordnet_dir())
            self._items = every[: self.limit]
            self._learn = every[MOST : MOST + LEARN]

    def scores(self, folder: Path) -> Scores:
        """1 for a gloss whose lemma is found first; ``extra``: the mean cosine to it."""
        self.prepare()
        asked = embeddings(folder, [item.gloss for item in self._items])
        possible = embeddings(folder, [item.lemma for item in self._items])
        cosine = asked @ possible.T
        right = cosine.argmax(1) == np.arange(len(asked))
        return Scores(right.astype(np.float64), extra={"cosine": float(np.diag(cosine).mean())})

    def trainable(self, folder: Path) -> Trainable | None:
        """Other glosses."""
        self.prepare()
        return trainable(folder, [item.gloss for item in self._learn])
