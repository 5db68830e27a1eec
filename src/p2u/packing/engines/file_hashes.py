"""Hash the files of a model."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

from p2u.packing.chunking.stored import PIECE, StoredModel
from p2u.packing.engines.engine import Engine, Work

#: Bytes of all files under way.
BUDGET = 256 << 20


class FileHashes(Work[int, str]):
    """The SHA-256 of each file, by its number, in hex."""

    def __init__(self, model: StoredModel) -> None:
        self._model = model

    def start(self) -> FileHashes:
        """See `Work.start`."""
        return self

    def size(self, item: int) -> int:
        """See `Work.size`."""
        return self._model.files[item].size

    def cost(self, item: int) -> int:
        """See `StartedWork.cost`."""
        return PIECE

    def run(self, item: int) -> str:
        """Hash a file; raises as `StoredModel.read_into`."""
        return self._model.hash_file(item)


def file_hashes(model: StoredModel, engine: Engine) -> Generator[str, None, None]:
    """The SHA-256 of each file in hex, one after the other; raises as `StoredModel.read_into`."""
    with closing(engine.run(FileHashes(model), range(len(model.files)), BUDGET)) as results:
        for _, digest in results:
            yield digest
