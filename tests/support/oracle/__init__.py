"""The codec of SPEC.md section 6 once more: plain, slow, and independent of the core.

`decode_chunk` and the `encode_*` functions follow the text of SPEC.md, in NumPy and plain Python,
whole chunk at a time. Where the format leaves the writer a choice (halvings, tables, lanes), the
writer asks a `Choices`: a random one, or a `Replay` of those that a decoder met in a payload.
"""

from __future__ import annotations

from oracle.adopt import encode_adopt
from oracle.choices import Choices, Replay
from oracle.decode import decode_chunk
from oracle.delta import encode_delta, encode_opaque_delta
from oracle.encode import encode, encode_opaque, encode_refinement
from oracle.floats import FORMATS, Format
from oracle.gaps import encode_gaps
from oracle.refine import Head
from oracle.wire import Malformed

__all__ = [
    "FORMATS",
    "Choices",
    "Format",
    "Head",
    "Malformed",
    "Replay",
    "decode_chunk",
    "encode",
    "encode_adopt",
    "encode_delta",
    "encode_gaps",
    "encode_opaque",
    "encode_opaque_delta",
    "encode_refinement",
]
