"""Read and write calibration files: the second moments of a model's layer inputs.

For a layer ``y = W x`` the damage of a rounding error ``E`` is ``E H E^T`` with the second moment
``H = mean(x x^T)``. With ``H = C D C^T``, ``C`` unit upper triangular and ``D`` diagonal, it is
``sum_k D_k f_k^2`` with ``f_k = E_k + sum_(j<k) E_j C_jk``: column ``k`` can make good what its
predecessors did wrong, if it is rounded from ``w_k + sum_(j<k) E_j C_jk``. That is GPTQ (Frantar et
al. 2022, arXiv 2210.17323), written with the errors that were made instead of those that were left.
The file holds ``C``, in 8 bits, and not ``H``: what follows from it is integer arithmetic, and a
package is the same on every machine.

It is a safetensors file. For each input ``i`` of ``g`` groups (1, but for grouped convolutions) of
``d`` columns:

====================  ====  ==================  ==================================================
``i.factor``          I8    (g, d * (d-1) / 2)  mantissas of ``C_jk``, ``j < k``, column by column
``i.exponent``        I8    (g, d)              of column ``k``: ``C_jk = mantissa * 2^exponent``
``i.order``           I32   (g, d)              which column of the weights the ``k``-th one is
====================  ====  ==================  ==================================================

and under ``p2u.calibration`` in ``__metadata__`` the JSON ``{"version": 1, "tensors": [{"names":
[...], "input": i, "axis": 1}, ...]}``: names that a tensor goes by, its input, and the axis of the
weights that the input's columns lie along: 0, or 1 and all further ones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2u.disk.durable import FileReplacement
from p2u.disk.errors import TRY_AGAIN, disk_errors
from p2u.disk.files import read_from
from p2u.disk.scratch import file_in_the_making
from p2u.errors import DiskError, FormatError
from p2u.formats import safetensors
from p2u.package.strict_json import parse_object
from p2u.types import TensorSpan

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

KEY = "p2u.calibration"
VERSION = 1
#: Most columns of an input.
MAX_COLUMNS = 1 << 17
HINT = "Make it again with p2u.torch.calibrate"

_PARTS = {"factor": "I8", "exponent": "I8", "order": "I32"}


@dataclass(frozen=True, slots=True)
class Factor:
    """One input, see above.

    Attributes:
        mantissa: ``(groups, d * (d-1) / 2)`` int8.
        exponent: ``(groups, d)`` int8.
        order: ``(groups, d)`` int32; a permutation in each group.
    """

    mantissa: NDArray[np.int8]
    exponent: NDArray[np.int8]
    order: NDArray[np.int32]

    @property
    def groups(self) -> int:
        """Groups of output channels, each with an input of its own."""
        return len(self.order)

    @property
    def columns(self) -> int:
        """Columns per group."""
        return int(self.order.shape[1])

    def __getitem__(self, groups: slice) -> Factor:
        return Factor(self.mantissa[groups], self.exponent[groups], self.order[groups])

    def block(self, start: int, stop: int) -> NDArray[np.float64]:
        """Mantissas of the columns from ``start`` on, ``(groups, stop - start, stop)``."""
        import numpy as np

        out = np.zeros((self.groups, stop - start, stop))
        for k in range(start, stop):
            at = k * (k - 1) // 2
            out[:, k - start, :k] = self.mantissa[:, at : at + k]
        return out


def make_factor(moments: NDArray[np.float64], damping: float) -> Factor:
    """The factor of second moments.

    Columns go from the largest mean square to the least: what is rounded first has nothing to make
    good yet, and what comes last cannot be helped any more.

    Args:
        moments: ``(groups, d, d)``, symmetric; only ratios within a group matter. Overwritten.
        damping: What is added to the diagonal, as a fraction of its mean.
    """
    import numpy as np

    groups, d, _ = moments.shape
    mantissa = np.zeros((groups, d * (d - 1) // 2), np.int8)
    exponent = np.zeros((groups, d), np.int8)
    order = np.tile(np.arange(d, dtype=np.int32), (groups, 1))
    for g, h in enumerate(moments):
        diagonal = h.diagonal()
        mean = float(diagonal.mean())
        if not mean > 0 or not math.isfinite(mean):
            continue  # never used: any rounding is as good as any other
        order[g] = np.argsort(-diagonal, kind="stable")
        h[np.arange(d), np.arange(d)] += damping * mean
        # H = R R^T with R upper triangular, by the lower one of the reversed matrix.
        back = order[g][::-1]
        right = np.linalg.cholesky(h[np.ix_(back, back)])[::-1, ::-1]
        for k in range(1, d):
            column = right[:k, k] / right[k, k]
            largest = float(np.abs(column).max())
            # 2^e with largest <= 127 * 2^e, where int8 can name it
            e = math.frexp(largest / 127)[1] if largest > 0 else 0
            e = min(max(e, -128), 127)
            exponent[g, k] = e
            at = k * (k - 1) // 2
            mantissa[g, at : at + k] = np.clip(np.rint(np.ldexp(column, -e)), -127, 127)
    return Factor(mantissa, exponent, order)


@dataclass(frozen=True, slots=True)
class FactorEntry:
    """A tensor in the file.

    Attributes:
        names: What it may be called in a checkpoint: tied weights have several names.
        input: Number of its input.
        axis: Of the weights, along which the input's columns lie.
    """

    names: tuple[str, ...]
    input: int
    axis: int


class Writer:
    """Writes a calibration file factor by factor; it appears when all is there.

    Args:
        path: The file.
        entries: The tensors.
        shapes: Groups and columns of every input.

    Raises:
        DiskError: It cannot be written.
    """

    def __init__(
        self, path: str, entries: Sequence[FactorEntry], shapes: Sequence[tuple[int, int]]
    ) -> None:
        self._path = Path(path)
        self._folder = ExitStack()
        self._shapes = list(shapes)
        self._next = 0
        tensors = [{"names": e.names, "input": e.input, "axis": e.axis} for e in entries]
        text = json.dumps({"version": VERSION, "tensors": tensors}, separators=(",", ":"))
        header: dict[str, Any] = {"__metadata__": {KEY: text}}
        end = 0
        for number, (groups, d) in enumerate(shapes):
            sizes = {"order": d, "factor": d * (d - 1) // 2, "exponent": d}
            for part, size in sizes.items():
                begin, end = end, end + groups * size * (4 if part == "order" else 1)
                header[f"{number}.{part}"] = {
                    "dtype": _PARTS[part], "shape": [groups, size], "data_offsets": [begin, end],
                }  # fmt: skip
        raw = json.dumps(header, separators=(",", ":")).encode()
        raw += b" " * (-len(raw) % 8)
        with self._errors():
            place = self._folder.enter_context(file_in_the_making(self._path))
            self._file = FileReplacement(self._path, place)
        self._write(len(raw).to_bytes(8, "little") + raw)

    def add(self, factor: Factor) -> None:
        """Write the next input's factor."""
        assert (factor.groups, factor.columns) == self._shapes[self._next]
        self._next += 1
        self._write(factor.order.astype("<i4").tobytes())
        self._write(factor.mantissa.tobytes())
        self._write(factor.exponent.tobytes())

    def close(self, *, complete: bool) -> None:
        """Give the file its name if it is complete, else remove it."""
        with self._errors(), self._folder:
            if complete:
                assert self._next == len(self._shapes)
                self._file.commit()
            else:
                self._file.discard()

    def _write(self, data: bytes) -> None:
        try:
            with self._errors():
                self._file.write(data)
        except DiskError:
            self.close(complete=False)
            raise

    def _errors(self) -> AbstractContextManager[None]:
        return disk_errors(self._path, "write", TRY_AGAIN)


class Calibration:
    """A calibration file, opened: names and sizes are checked, factors are read when asked for.

    Args:
        path: The file.

    Attributes:
        entries: The tensors.

    Raises:
        DiskError: It cannot be read.
        FormatError: It is no calibration file, or a damaged one.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._spans = {span.name: span for span in safetensors.scan(path, path).spans}
        header, _, _ = safetensors.read_header(path, path)
        metadata = header.get("__metadata__")
        text = metadata.get(KEY) if isinstance(metadata, dict) else None
        if not isinstance(text, str):
            raise FormatError("this is not a calibration file", file=path, hint=HINT)
        tree = parse_object(text.encode("utf-8", "replace"), file=path, what=KEY, hint=HINT)
        if tree.get("version") != VERSION:
            raise FormatError(
                f"calibration version {str(tree.get('version'))[:40]}, {VERSION} expected",
                file=path,
                hint=HINT,
            )
        listed = tree.get("tensors")
        if not isinstance(listed, list) or not listed:
            raise FormatError("expected a list of tensors", file=path, hint=HINT)
        self.entries = tuple(self._entry(item) for item in listed)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "path": str(Path(self.path).absolute())}

    def _entry(self, item: Any) -> FactorEntry:
        def wrong(message: str) -> FormatError:
            return FormatError(message, file=self.path, hint=HINT)

        if not isinstance(item, dict):
            raise wrong(f"expected an object per tensor, found {repr(item)[:80]}")
        names, number, axis = (item.get(key) for key in ("names", "input", "axis"))
        if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
            raise wrong(f"a tensor's names must be a list of strings, not {repr(names)[:80]}")
        if type(number) is not int or axis not in (0, 1) or type(axis) is not int:
            raise wrong(f"{names[0][:200]!r}: input and axis must be numbers, axis 0 or 1")
        self.shape(number)
        return FactorEntry(tuple(names), number, axis)

    def shape(self, number: int) -> tuple[int, int]:
        """Groups and columns of an input; raises FormatError if it is not there."""
        spans = [self._span(number, part) for part in ("factor", "exponent", "order")]
        (g, size), (g1, d), (g2, d2) = (s.shape if len(s.shape) == 2 else (0, 0) for s in spans)
        if not (g == g1 == g2 > 0 and d == d2 and size == d * (d - 1) // 2) or not (
            1 <= d <= MAX_COLUMNS
        ):
            raise FormatError(
                f"the sizes of input {number} do not fit together", file=self.path, hint=HINT
            )
        return g, d

    def _span(self, number: int, part: str) -> TensorSpan:
        span = self._spans.get(f"{number}.{part}")
        if span is None or span.dtype != _PARTS[part]:
            raise FormatError(
                f"expected {_PARTS[part]} under that name",
                file=self.path,
                tensor=f"{number}.{part}",
                hint=HINT,
            )
        return span

    def factor(self, number: int) -> Factor:
        """Read an input.

        Raises:
            DiskError: The file cannot be read.
            FormatError: It became shorter, or the order is no order.
        """
        import numpy as np

        self.shape(number)

        def read(part: str, dtype: str) -> NDArray[Any]:
            span = self._span(number, part)
            data = bytearray(span.length)
            with disk_errors(self.path, "read"):
                count = read_from(self.path, span.offset, data)
            if count < span.length:
                raise FormatError("the file became shorter", file=self.path, hint=HINT)
            return np.frombuffer(data, dtype).reshape(span.shape)

        order = read("order", "<i4").astype(np.int32)
        if not np.array_equal(
            np.sort(order, 1), np.tile(np.arange(order.shape[1]), (len(order), 1))
        ):
            raise FormatError(
                "each column must appear once in the order",
                file=self.path,
                tensor=f"{number}.order",
                hint=HINT,
            )
        return Factor(read("factor", "<i1"), read("exponent", "<i1"), order)
