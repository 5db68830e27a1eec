"""Methods that transmit a quantised model once: no state comes after it.

What is transmitted: the codes, their scales, and all other bytes of the folder (headers, which have
the tensors' names and shapes; biases; vocabularies). Three names per quantiser share one folder:

- ``NAME``: codes packed without gaps, all else as it is;
- ``NAME+zstd``: all of it in zstd -19, codes still packed;
- ``NAME+entropy``: codes by P2U's own rANS coder, all else in zstd -19 (`tally.Entropy`).

The folder is made of what was packed, by the quantiser's decoder, in the tensors' own types.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from p2u.errors import UnsupportedError
from p2u.types import TensorSpan
from p2u_lab.base import Method, Point, Trainable
from p2u_lab.methods.packing import pack_codes, unpack_codes
from p2u_lab.methods.quantisers import Quantiser
from p2u_lab.methods.tally import Entropy, Plain, Tally, Zstd, zstd_size
from p2u_lab.methods.tensors import Tensors, Writer, renew_checks

TALLIES: tuple[type[Tally], ...] = (Plain, Zstd, Entropy)


class Direct(Method):
    """A quantiser as a method.

    Args:
        quantiser: Rounds the weights.
        fixed: It has one width only, which is used whatever bits are wanted.
        dtypes: Of the tensors that it rounds; the others stay as they are.
    """

    def __init__(
        self,
        quantiser: Quantiser,
        *,
        fixed: bool = False,
        dtypes: Sequence[str] = ("F32", "F16", "BF16"),
    ) -> None:
        self.name = quantiser.name
        self._quantiser = quantiser
        self._fixed = fixed
        self._dtypes = frozenset(dtypes)

    def points(
        self, model: Path, work: Path, bits: Sequence[float], trainable: Trainable | None
    ) -> Iterator[Point]:
        """Three points per width, see above; widths that the quantiser lacks are left out."""
        tensors = Tensors(model, lambda span: span.dtype in self._dtypes)
        rest = sum(map(len, tensors.rest())), zstd_size(tensors.rest())
        folder = work / "model"
        tensors.copy_to(folder)
        own = list(self._quantiser.widths)
        for width in own if self._fixed else sorted({int(b) for b in bits if b in own}):
            # A name of its own, so that no reader takes it for what was there before.
            folder = folder.rename(work / f"{self.name}-{width}bit")
            tallies = [tally() for tally in TALLIES]
            for span in tensors.coarse:
                try:
                    self._tensor(tensors, span, width, folder, tallies)
                except UnsupportedError as error:
                    raise UnsupportedError(
                        error.message, file=span.file, tensor=span.name, hint=error.hint
                    ) from error
            renew_checks(folder, tensors.files)
            state = self.name if self._fixed else f"{width}bit"
            asked = None if self._fixed else float(width)
            for tally in tallies:
                size = tally.close() + rest[0 if isinstance(tally, Plain) else 1]
                yield Point(self.name + tally.suffix, state, asked, size, folder)

    def _tensor(
        self,
        tensors: Tensors,
        span: TensorSpan,
        bits: int,
        folder: Path,
        tallies: Sequence[Tally],
    ) -> None:
        quantiser = self._quantiser
        common = quantiser.learn(tensors.blocks(span), bits)
        for tally in tallies:
            tally.scales(common)
        with Writer(folder, span) as writer:
            for block in tensors.blocks(span):
                rows, cols = block.shape
                codes, scales = quantiser.encode(block, bits, common)
                packed = pack_codes(codes, bits)
                for tally in tallies:
                    tally.codes(quantiser, codes, bits, packed)
                    tally.scales(scales)
                received = unpack_codes(packed, bits, codes.size)
                writer.write(quantiser.decode(received, (rows, cols), bits, common, scales))
