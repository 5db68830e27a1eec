"""Methods that transmit the publisher's files, all at once: the folder is theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from p2u.errors import FormatError, IntegrityError, UnsupportedError
from p2u.formats import scan_model
from p2u_lab.base import Method, Point, Trainable
from p2u_lab.methods.codecs import Rival, Zstd

#: Of zstd, for all files without tensors.
LEVEL = 19


class Plain(Method):
    """The files as they are."""

    name = "plain"

    def points(
        self, model: Path, work: Path, bits: Sequence[float], trainable: Trainable | None
    ) -> Iterator[Point]:
        """One point, whose folder is the publisher's."""
        size = sum(file.size for file in scan_model(str(model)).files)
        yield Point(self.name, "exact", None, size, model, exact=True)


class Compressed(Method):
    """Files with tensors by a compressor for them, the others by zstd -19.

    Of the compressor's settings the best one counts, file by file. Everything is decompressed again
    and compared. Whole files are held in memory.

    Args:
        name: For tables.
        settings: The compressor's.
    """

    def __init__(self, name: str, settings: Callable[[], list[Rival]]) -> None:
        self.name = name
        self._settings = settings

    def points(
        self, model: Path, work: Path, bits: Sequence[float], trainable: Trainable | None
    ) -> Iterator[Point]:
        """One point, whose folder is the publisher's."""
        found = scan_model(str(model))
        size = 0
        for file in found.files:
            path = Path(found.locate(file.path))
            if not file.size:
                continue
            rivals = self._settings() if file.spans and _alone(path) else [Zstd(LEVEL)]
            size += min(_packed(rival, path, work) for rival in rivals)
        yield Point(self.name, "exact", None, size, model, exact=True)


def _alone(path: Path) -> bool:
    """Whether a file with tensors says itself what is in it: ONNX's external data do not."""
    try:
        scan_model(str(path))
    except (FormatError, UnsupportedError):
        return False
    return True


def _packed(rival: Rival, path: Path, work: Path) -> int:
    """Bytes of a file packed.

    Raises:
        IntegrityError: It does not come back.
        MissingDataError: The compressor is not installed.
    """
    packed = rival.pack(path, work, 1)()
    if not rival.same(rival.unpack(packed, 1)(), path):
        raise IntegrityError(
            f"{rival.name} {rival.version} ({rival.setting}) does not give back what went in",
            file=str(path),
        )
    return rival.size(packed)
