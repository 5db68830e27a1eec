"""Choose the base codes of a chunk by the method that fits each of its tensors.

Its nearest bin; in a convolution one that balances a filter's errors; or what error feedback from a
calibration file comes to.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from p2u.codec import core
from p2u.package.geometry import Seg
from p2u.package.layout import Tensor
from p2u.packing.chunking.cut import Job
from p2u.packing.chunking.floats import to_float32
from p2u.packing.chunking.stored import StoredModel
from p2u.packing.rounding.balance import balanced
from p2u.packing.rounding.calibration import Factor, FactorEntry
from p2u.packing.rounding.feedback import Floats, fed_back, own_bins, power_of_two, runs
from p2u.packing.rounding.plan import CalibrationPlan, has_codes, window

#: Scales of a tensor's rows, see `core.row_scales`.
Scales = Callable[[int, core.Segment], bytes]

#: Factors that are kept; neighbouring tensors tend to share one.
KEPT = 4
#: Elements that are rounded at once, of a tensor that must be rounded as a whole.
SLICE = 1 << 20
#: Bytes of memory per element that is rounded.
COST = 48

Codes = NDArray[np.int16]


class Rounding:
    """Makes base codes; used by many threads at once.

    Args:
        plan: What is known of the layers' inputs, if anything.
        model: The model.
        scales: Gives the rows' scales.
    """

    def __init__(self, plan: CalibrationPlan | None, model: StoredModel, scales: Scales) -> None:
        self._plan = plan
        self._calibration = plan.calibration if plan else None
        self._thrift = plan.thrift if plan else 0.0
        self._entries = plan.entries if plan else {}
        self._model = model
        self._scales = scales
        self._lock = threading.Lock()
        self._factors: OrderedDict[int, Factor] = OrderedDict()
        self._whole: dict[int, _Whole] = {}

    def cost(self, job: Job) -> int:
        """Memory that rounding takes, bytes, about."""
        if not self._concerns(job):
            return 0
        elems = 0
        for seg in job.segments:
            t = self._model.tensors[seg.tensor]
            whole = seg.tensor in self._entries and self._entries[seg.tensor].axis == 0
            elems += t.elems if whole else t.span(seg.first_row, seg.rows)[1]
        return COST * elems

    def _concerns(self, job: Job) -> bool:
        return job.progressive and any(
            has_codes(seg.tensor, self._model.tensors[seg.tensor], self._plan)
            for seg in job.segments
        )

    def codes(self, job: Job, segments: Sequence[core.Segment], scales: bytes) -> bytes | None:
        """Base codes of a chunk, native ``int16``; None if each is the nearest.

        Args:
            job: The chunk.
            segments: Its rows.
            scales: Of its rows.

        Raises:
            DiskError, IntegrityError, FormatError: Model or calibration cannot be read.
        """
        if not self._concerns(job):
            return None
        steps = np.frombuffer(scales, np.int16).astype(np.int64) >> 2
        out = []
        for seg, segment in zip(job.segments, segments, strict=True):
            mine, steps = steps[: segment.rows], steps[segment.rows :]
            out.append(self._segment(job, seg, segment, mine))
        return np.concatenate(out).tobytes()

    def _segment(
        self, job: Job, seg: Seg, segment: core.Segment, steps: NDArray[np.int64]
    ) -> Codes:
        t = self._model.tensors[seg.tensor]
        entry = self._entries.get(seg.tensor)
        if entry is not None and entry.axis == 0 and t.cols == t.shape[1]:
            return self._rows_of_whole(seg, t, entry)
        x = _in_steps(segment.mem, job.dtype, steps, t.cols)
        if entry is None and (size := window(t)):
            return balanced(x, size, math.prod(t.shape[1:])).astype(np.int16)
        if entry is None or entry.axis == 0:
            return own_bins(x).astype(np.int16)
        factor = self._factor(entry.input)
        d = factor.columns
        first, elems = t.span(seg.first_row, seg.rows)
        if first % d or elems % d or t.cols % d:  # channels cut into several rows
            return own_bins(x).astype(np.int16)
        channels = x.reshape(-1, d)
        codes = np.empty(channels.shape, np.int16)
        per_group = t.shape[0] // factor.groups
        for groups, places in runs(first // d, elems // d, per_group):
            part = factor[groups]
            grouped = channels[places].reshape(part.groups, -1, d).swapaxes(1, 2)
            made = fed_back(grouped, part, np.zeros(d, np.int64), self._thrift)
            codes[places] = made.swapaxes(1, 2).reshape(-1, d)
        return codes.reshape(-1)

    def _factor(self, number: int) -> Factor:
        with self._lock:
            if number not in self._factors:
                assert self._calibration is not None, "no entry without one"
                self._factors[number] = self._calibration.factor(number)
            self._factors.move_to_end(number)
            while len(self._factors) > KEPT:
                self._factors.popitem(last=False)
            return self._factors[number]

    def _rows_of_whole(self, seg: Seg, t: Tensor, entry: FactorEntry) -> Codes:
        """Rows of a tensor whose rows are the columns of its input: feedback crosses them all."""
        with self._lock:
            whole = self._whole.setdefault(seg.tensor, _Whole())
        first, elems = t.span(seg.first_row, seg.rows)
        with whole.lock:
            if whole.codes is None:
                whole.codes, whole.left = self._transposed(seg.tensor, t, entry), t.elems
            out = whole.codes[first : first + elems].astype(np.int16)
            whole.left -= elems
            if whole.left <= 0:
                whole.codes = None
        return out

    def _transposed(self, number: int, t: Tensor, entry: FactorEntry) -> NDArray[np.int8]:
        data = self._model.read(t.file, t.offset, t.length)
        scales = self._scales(number, core.Segment(data, t.elems, t.cols))
        steps = np.frombuffer(scales, np.int16).astype(np.int64) >> 2
        factor = self._factor(entry.input)
        item = np.frombuffer(data, f"V{t.item}").reshape(t.shape)
        # Weights outside of the bins have codes beyond int8, which nobody looks at.
        codes = np.zeros(t.shape, np.int8)
        width = max(1, SLICE // t.shape[0])
        for at in range(0, t.shape[1], width):
            part = item[:, at : at + width]
            x = _in_steps(part.tobytes(), t.dtype, steps, part.shape[1])
            made = fed_back(x.reshape(1, *part.shape), factor, steps, self._thrift)
            codes[:, at : at + width] = np.clip(made[0], -127, 127)
        return codes.reshape(-1)


class _Whole:
    """Codes of a tensor, until all its chunks have had theirs."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.codes: NDArray[np.int8] | None = None
        self.left = 0


def _in_steps(
    data: memoryview | bytes | bytearray, dtype: str, steps: NDArray[np.int64], cols: int
) -> Floats:
    """Weights in units of their rows' steps; those that are not finite are 0."""
    x = to_float32(data, dtype).astype(np.float64)
    np.nan_to_num(x, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    whole = len(x) // cols * cols
    rows = x[:whole].reshape(-1, cols)
    scale = power_of_two(-steps)
    rows *= scale[: len(rows), None]
    x[whole:] *= scale[-1]
    return x
