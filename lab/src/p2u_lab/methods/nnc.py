"""NNCodec: ISO/IEC 15938-17 (NNC), by the standard's software.

One step for all weights, with or without dependent (trellis-coded) quantisation, and DeepCABAC.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from p2u.errors import IntegrityError
from p2u_lab.base import Method, MissingDataError, Point, Trainable
from p2u_lab.methods.quantisers import Weights
from p2u_lab.methods.tally import zstd_size
from p2u_lab.methods.tensors import Tensors, Writer, renew_checks

#: The step is 2^(qp / 4); the finest and coarsest that are tried.
QPS = range(-80, 17)
#: Weights that the choice of a step looks at, about.
SAMPLE = 1 << 20
#: Bits per weight that can be asked for.
BITS = (1.0, 16.0)

_FRAMEWORK = "nncodec.framework"

Parameters = dict[str, Weights]


class NNCodec(Method):
    """The finest step with which the coarse tensors take no more than the bits wanted.

    The step is chosen on a sample of at most 1 Mi weights, so bits are met about. All other bytes
    of the folder are transmitted in zstd -19, as with the other methods. All coarse tensors are
    held in memory as fp32, and NNCodec makes copies.

    Args:
        dependent: Use dependent quantisation, NNCodec's own default.
    """

    def __init__(self, *, dependent: bool) -> None:
        self.name = "nncodec+dq" if dependent else "nncodec"
        self._dependent = dependent

    def points(
        self, model: Path, work: Path, bits: Sequence[float], trainable: Trainable | None
    ) -> Iterator[Point]:
        """One point per bits.

        Raises:
            MissingDataError: NNCodec is not installed.
            IntegrityError: Its decoder gives back something else than its encoder was given.
        """
        nnc = _library()
        tensors = Tensors(model)
        weights = {
            # Names lie in the file's header, which is transmitted, too.
            str(number): np.concatenate(list(tensors.blocks(span)))
            for number, span in enumerate(tensors.coarse)
        }
        sample = _sample(weights)
        rest = zstd_size(tensors.rest())
        folder = work / "model"
        tensors.copy_to(folder)

        def coded(parameters: Parameters, qp: int) -> bytes:
            return bytes(
                nnc.compress(
                    parameters,
                    bitstream_path=None,
                    qp=qp,
                    use_dq=self._dependent,
                    return_bitstream=True,
                )
            )

        for wanted in sorted({b for b in bits if BITS[0] <= b <= BITS[1]}):
            folder = folder.rename(work / f"{self.name}-{wanted:g}")
            stream = coded(weights, _finest(sample, wanted, coded))
            received = nnc.decompress(bytearray(stream))
            for number, span in enumerate(tensors.coarse):
                values = received.get(str(number))
                if values is None or values.size != weights[str(number)].size:
                    raise IntegrityError("NNCodec lost a tensor", file=span.file, tensor=span.name)
                with Writer(folder, span) as writer:
                    writer.write(np.asarray(values, np.float32))
            renew_checks(folder, tensors.files)
            yield Point(self.name, f"{wanted:g}bit", float(wanted), rest + len(stream), folder)


def _sample(weights: Parameters) -> Parameters:
    """The first rows of all tensors, in proportion."""
    total = sum(w.size for w in weights.values())
    part = min(1.0, SAMPLE / total)
    return {key: w[: max(int(len(w) * part), 1)] for key, w in weights.items()}


def _finest(sample: Parameters, bits: float, coded: Callable[[Parameters, int], bytes]) -> int:
    """The least qp that needs no more than these bits per weight; sizes fall as it rises."""
    most = bits * sum(w.size for w in sample.values()) / 8
    low, high = QPS.start, QPS.stop - 1
    while low < high:
        middle = (low + high) // 2
        if len(coded(sample, middle)) <= most:
            high = middle
        else:
            low = middle + 1
    return low


def _library() -> Any:
    """NNCodec's coder.

    Its package also loads data sets, training and two frameworks when it is imported, with a dozen
    libraries; where these are missing, empty modules take their place: the coder uses none of them.

    Raises:
        MissingDataError: It is not installed.
    """
    try:
        return import_module("nncodec.nnc")
    except ImportError:
        pass
    parts = ("tensorflow_model", "pytorch_model", "use_case_init")
    stand_ins = {_FRAMEWORK: ModuleType(_FRAMEWORK)}
    for part in parts:
        stand_ins[f"{_FRAMEWORK}.{part}"] = ModuleType(f"{_FRAMEWORK}.{part}")
        setattr(stand_ins[_FRAMEWORK], part, stand_ins[f"{_FRAMEWORK}.{part}"])
    for name in [n for n in sys.modules if n.startswith(_FRAMEWORK)]:
        del sys.modules[name]
    sys.modules.update(stand_ins)
    try:
        return import_module("nncodec.nnc")
    except ImportError as error:
        raise MissingDataError(
            f"NNCodec does not import: {error}",
            hint="pip install --no-deps nncodec (it needs pybind11 and a C++ compiler)",
        ) from error
    finally:
        for name in stand_ins:
            del sys.modules[name]
