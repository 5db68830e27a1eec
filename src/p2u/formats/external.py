"""ONNX's external data: spans in files next to the model."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from p2u.errors import DiskError, FormatError

HINT = "The model file is damaged, or not to be trusted: fetch it again"
#: No path may hold another system's separators and drives, or characters that cannot be shown.
BAD_PART = re.compile(r"[\\:\x00-\x1f\x7f]")
SIZE = re.compile(r"[0-9]{1,19}\Z", re.ASCII)


def _size(entries: Mapping[str, str], key: str, file: str, tensor: str) -> int | None:
    text = entries.get(key)
    if text is None:
        return None
    if not SIZE.match(text):
        raise FormatError(
            f"the {key} of its external data is not a size: {text[:40]!r}",
            file=file,
            tensor=tensor,
            hint=HINT,
        )
    return int(text)


class DataFiles:
    """The data files of one model, as its tensors name them.

    Args:
        path: Where the model file is.
        file: Its path in the model directory.
    """

    def __init__(self, path: str, file: str) -> None:
        self._path = path
        self._file = file
        self._known: dict[str, tuple[str, int]] = {}

    def locate(
        self, entries: Mapping[str, str], expected: int | None, tensor: str
    ) -> tuple[str, int, int]:
        """Locate a tensor's bytes.

        Args:
            entries: Of the tensor: ``location``, and perhaps ``offset`` and ``length``.
            expected: Its bytes by type and shape; None if the type is not known.
            tensor: Its name, for messages.

        Returns:
            Path of the data file in the model directory, offset, length.

        Raises:
            DiskError: The data file is not there.
            FormatError: It lies outside of the model's folder, or is too short.
        """
        location = entries.get("location", "")
        if location not in self._known:
            self._known[location] = self._find(location, tensor)
        file, size = self._known[location]
        offset = _size(entries, "offset", self._file, tensor) or 0
        length = _size(entries, "length", self._file, tensor)
        if length is None:
            length = max(0, size - offset) if expected is None else expected
        if offset + length > size:
            raise FormatError(
                f"its bytes {offset} to {offset + length} are not all in {file}, which has {size}",
                file=self._file,
                tensor=tensor,
                hint="The data file is incomplete or of another model: fetch it again",
            )
        return file, offset, length

    def _find(self, location: str, tensor: str) -> tuple[str, int]:
        """Path in the model directory and size of a data file."""

        def refused(why: str) -> FormatError:
            return FormatError(
                f"its external data {location[:200]!r} {why}",
                file=self._file,
                tensor=tensor,
                hint=HINT,
            )

        # "./weights.bin" is what some exporters write.
        parts = [part for part in location.split("/") if part != "."]
        if not parts or not all(parts) or ".." in parts or any(map(BAD_PART.search, parts)):
            raise refused("is no path within the folder of the model")
        base = os.path.dirname(self._path) or os.curdir  # noqa: PTH120 - strings throughout
        path = os.path.join(base, *parts)  # noqa: PTH118
        if not self._allowed(path, base):
            raise refused("leads out of the folder of the model through a link")
        folder = self._file.rpartition("/")[0]
        file = "/".join([folder, *parts] if folder else parts)
        if file == self._file:
            raise refused("is the model file itself")
        try:
            if not os.path.isfile(path):  # noqa: PTH113
                raise FileNotFoundError(2, "no such file")
            return file, os.stat(path).st_size  # noqa: PTH116
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise DiskError(
                f"cannot read the data file {file}: {why}",
                file=self._file,
                tensor=tensor,
                hint="Put the data file there: the model is not complete without it",
            ) from error

    def _allowed(self, path: str, base: str) -> bool:
        """Whether a data file really is below the model's folder.

        Or where the model's own file really lies: Hugging Face's cache keeps both as links to
        one folder of blobs.
        """
        real = os.path.realpath(path)
        folders = (os.path.realpath(base), os.path.dirname(os.path.realpath(self._path)))  # noqa: PTH120
        return any(os.path.commonpath([real, folder]) == folder for folder in folders)
