"""Bind the native core, through ctypes; the only module that knows its C ABI.

Every call releases the GIL. Buffers are any objects with the buffer protocol; nothing is copied on
the way in, and :func:`apply` writes in place. NumPy is not needed.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from ctypes import (
    POINTER,
    byref,
    c_double,
    c_int16,
    c_int32,
    c_size_t,
    c_uint8,
    c_uint32,
    c_uint64,
    c_void_p,
)  # fmt: skip
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from p2u.errors import CoreError, FormatError, UsageError
from p2u.types import BLOCKS, ELEMENT_TYPES

ABI_VERSION = 8

#: Element type codes of chunks; every other dtype is opaque (0).
CODES = {t.name: t.float_code for t in ELEMENT_TYPES if t.float_code is not None}
OPAQUE = 0

#: Code of each type that floats can be predicted from.
BLOCK_CODES = {t.name: t.block_code for t in ELEMENT_TYPES if t.block_code is not None}

#: Instruction sets; ``AUTO`` takes the best one of this machine.
AUTO, SCALAR, AVX2, AVX512, NEON = range(5)

_REASONS = {
    1: "it ends before its content does",
    2: "a field has a value that the format does not allow",
    3: "it is not for these tensors (other dtype, element size or number of elements)",
}

#: Parts of a chunk, by the second byte of a status; the first one: none in particular.
_PLACES = (
    *("", "header", "scales", "column classes", "symbols", "patches", "exponents"),
    *("trailing zeros", "shifts", "zeros", "coarse positions", "octaves", "positions"),
    *("finer positions", "low plane", "upper fields", "planes", "bitmap", "raw fields"),
    "bytes behind the last part",
)


class _CSegment(ctypes.Structure):
    _fields_ = (("mem", c_void_p), ("bytes", c_size_t), ("elems", c_size_t), ("cols", c_size_t))


class _CSource(ctypes.Structure):
    """Bytes that are read: of a source, or a payload."""

    _fields_ = (("mem", c_void_p), ("bytes", c_size_t))


class _CPlan(ctypes.Structure):
    _fields_ = (
        ("scales", POINTER(c_int16)),
        ("scale_count", c_size_t),
        ("codes", POINTER(c_int16)),
        ("code_count", c_size_t),
        ("levels", POINTER(c_uint8)),
        ("level_count", c_size_t),
        ("full", c_uint32),
    )


@dataclass(frozen=True, slots=True)
class Segment:
    """Whole rows of one tensor.

    Attributes:
        mem: Contiguous buffer of ``elems`` elements; writable for :func:`apply`.
        elems: Number of elements, at least 1.
        cols: Elements per row; the last row may be shorter.
    """

    mem: Any
    elems: int
    cols: int

    @property
    def rows(self) -> int:
        """Number of rows."""
        return -(-self.elems // self.cols)


@dataclass(frozen=True, slots=True)
class Encoded:
    """One chunk's payloads: base first, then one per level.

    Attributes:
        payloads: Bytes of each level.
        signal: Sum of squares of the finite weights.
        errors: Sum of squared errors of the state after each payload.
    """

    payloads: list[bytes]
    signal: float
    errors: list[float]


@lru_cache(maxsize=1)
def _lib() -> ctypes.CDLL:
    name = {"win32": "p2u_core.dll", "darwin": "libp2u_core.dylib"}.get(
        sys.platform, "libp2u_core.so"
    )
    path = Path(__file__).parent.parent / "_core" / name
    hint = "Reinstall p2u-models (pip install --force-reinstall .); it builds the core with cargo"
    try:
        lib = ctypes.CDLL(str(path))
    except OSError as e:
        raise CoreError(f"cannot load the native core: {e}", file=str(path), hint=hint) from None
    if lib.p2u_abi_version() != ABI_VERSION:
        found = lib.p2u_abi_version()
        raise CoreError(
            f"native core has ABI {found}, expected {ABI_VERSION}", file=str(path), hint=hint
        )
    segments = (POINTER(_CSegment), c_size_t)
    sourced, out = (*segments, POINTER(_CSource)), POINTER(c_void_p)
    lib.p2u_apply.argtypes = (c_uint32, c_uint32, c_uint32, c_void_p, c_size_t, *sourced)
    payloads = (POINTER(_CSource), c_size_t)
    lib.p2u_straight.argtypes = (c_uint32, c_uint32, *payloads, *segments)
    lib.p2u_encode_opaque_delta.argtypes = (c_uint32, c_uint32, c_uint32, *sourced, out)
    lib.p2u_encode_adopt.argtypes = (c_uint32, c_uint32, c_uint8, *sourced, out)
    lib.p2u_encode_delta.argtypes = (c_uint32, c_uint32, c_uint32, *sourced, out)
    lib.p2u_dequantise.argtypes = (c_uint8, c_void_p, c_size_t, c_void_p, c_size_t)
    lib.p2u_row_scales.argtypes = (c_uint32, c_int32, *segments, c_void_p, c_size_t)
    lib.p2u_encode.argtypes = (c_uint32, c_uint32, *segments, POINTER(_CPlan), out)
    lib.p2u_equal.argtypes = (c_void_p, c_void_p, c_size_t)
    lib.p2u_opaque_bits.argtypes = (c_size_t, POINTER(_CSource), c_size_t, POINTER(c_uint64))
    lib.p2u_encode_opaque.argtypes = (c_uint32, c_uint32, *segments, out)
    lib.p2u_encoded_payload.argtypes = (c_void_p, c_size_t, POINTER(c_size_t))
    lib.p2u_encoded_payload.restype = c_void_p
    lib.p2u_encoded_squares.argtypes = (c_void_p, c_size_t)
    lib.p2u_encoded_squares.restype = c_double
    lib.p2u_sha256_new.argtypes = (c_size_t,)
    lib.p2u_sha256_new.restype = c_void_p
    lib.p2u_sha256_update.argtypes = (c_void_p, POINTER(c_void_p), POINTER(c_size_t))
    lib.p2u_sha256_restart.argtypes = (c_void_p, c_size_t)
    lib.p2u_sha256_digest.argtypes = (c_void_p, c_size_t, c_void_p)
    lib.p2u_sha256_free.argtypes = (c_void_p,)
    lib.p2u_sha256_free.restype = None
    lib.p2u_free.argtypes = (c_void_p,)
    lib.p2u_free.restype = None
    return lib


def isa(wanted: int = AUTO) -> int:
    """The instruction set that is used for ``wanted``; 0 if this machine lacks it."""
    return int(_lib().p2u_isa(wanted))


class _PinnedBuffers:
    """Addresses of buffers, kept alive and unmoved while this object lives."""

    def __init__(self, segments: Sequence[Segment], writable: bool) -> None:
        self._holds: list[Any] = []
        self.array = (_CSegment * len(segments))()
        for raw, s in zip(self.array, segments, strict=True):
            raw.mem, raw.bytes = self.address(s.mem, writable)
            raw.elems, raw.cols = s.elems, s.cols

    def sources(self, buffers: Sequence[Any]) -> ctypes.Array[_CSource]:
        """The source of a version update, one buffer per segment; None is the segment itself."""
        if len(buffers) != len(self.array):
            raise UsageError(f"{len(buffers)} sources for {len(self.array)} segments")
        out = (_CSource * len(buffers))()
        for raw, buffer in zip(out, buffers, strict=True):
            if buffer is not None:
                raw.mem, raw.bytes = self.address(buffer, writable=False)
        return out

    def address(self, buffer: Any, writable: bool) -> tuple[int, int]:
        if isinstance(buffer, bytes) and not writable:
            self._holds.append(buffer)
            return ctypes.cast(ctypes.c_char_p(buffer), c_void_p).value or 0, len(buffer)
        view = memoryview(buffer)
        if not view.contiguous:
            raise UsageError("a tensor's buffer is not contiguous")
        if view.nbytes == 0:
            return 0, 0
        if view.readonly:
            if writable:
                raise UsageError("a tensor's buffer is read-only")
            import numpy as np

            array = np.frombuffer(view, np.uint8)
            self._holds.append(array)
            return array.ctypes.data, view.nbytes
        held = c_uint8.from_buffer(view)  # keeps the whole buffer
        self._holds.append(held)
        return ctypes.addressof(held), view.nbytes


def _check(status: int, what: str) -> None:
    if status == 0:
        return
    place, kind = divmod(status, 256)
    if kind in _REASONS:
        where = f" ({_PLACES[place]})" if 0 < place < len(_PLACES) else ""
        raise FormatError(f"{what} is malformed{where}: {_REASONS[kind]}")
    if kind == 4:
        raise UsageError(f"{what}: the arguments do not fit together")
    raise CoreError(f"{what}: internal error {kind} of the native core")


def apply(
    payload: bytes | memoryview,
    dtype: str,
    item: int,
    segments: Sequence[Segment],
    wanted: int = AUTO,
    *,
    sources: Sequence[Any] | None = None,
) -> None:
    """Apply one chunk: previous bytes of the segments, or of the sources, in, next bytes out.

    Args:
        payload: The chunk, hash checked by the caller.
        dtype: Its tensors' dtype; one without levels is carried as opaque elements.
        item: Bytes per element.
        segments: The chunk's rows, in order; their buffers are written.
        wanted: Instruction set.
        sources: For a chunk between two versions, the parent's bytes of each segment, as many
            elements; None, for one or for all: the segment holds them itself. A buffer may be the
            segment's own memory, but must not share a part of it with any segment. Refinements
            and chunks without previous bytes do not look at them.

    Raises:
        FormatError: The chunk is malformed, or not for these segments or sources; the segments hold
            no valid state then.
        UsageError: The arguments do not fit together.
    """
    pinned = _PinnedBuffers(segments, writable=True)
    address, size = pinned.address(payload, writable=False)
    priors = None if sources is None else pinned.sources(sources)
    code = CODES.get(dtype, OPAQUE)
    status = _lib().p2u_apply(
        wanted, code, item, address, size, pinned.array, len(segments), priors
    )
    _check(status, "chunk")


def apply_straight(
    payloads: Sequence[bytes | memoryview],
    dtype: str,
    segments: Sequence[Segment],
    wanted: int = AUTO,
) -> bool:
    """Apply a base and refinements of the same rows: all levels of a few rows at a time.

    Args:
        payloads: The chunks in order, hash checked by the caller.
        dtype: ``F32``, ``F16`` or ``BF16``.
        segments: The chunks' rows, in order; their buffers are written.
        wanted: Instruction set.

    Returns:
        Whether the segments hold the last state. If not, they hold none, and `apply` has to do it
        chunk by chunk: it says what is wrong, and it does read some of what is refused here.

    Raises:
        UsageError: The arguments do not fit together.
    """
    pinned = _PinnedBuffers(segments, writable=True)
    array = (_CSource * len(payloads))()
    for raw, payload in zip(array, payloads, strict=True):
        raw.mem, raw.bytes = pinned.address(payload, writable=False)
    status = _lib().p2u_straight(
        wanted, CODES[dtype], array, len(payloads), pinned.array, len(segments)
    )
    if status % 256 in _REASONS:
        return False
    _check(status, "chunks")
    return True


def row_scales(dtype: str, offset: int, segments: Sequence[Segment]) -> bytes:
    """Scales of all rows by their root mean square, as native ``int16``.

    Each is ``4 * e + class``: the base step is ``2**e``. Raising ``offset`` by 64 doubles the step.
    """
    pinned = _PinnedBuffers(segments, writable=False)
    out = (c_int16 * sum(s.rows for s in segments))()
    status = _lib().p2u_row_scales(
        CODES[dtype], offset, pinned.array, len(segments), ctypes.addressof(out), len(out)
    )
    _check(status, "row scales")
    return bytes(out)


def encode(
    dtype: str,
    segments: Sequence[Segment],
    scales: bytes,
    levels: Sequence[int],
    *,
    codes: bytes | None = None,
    full: bool = False,
    wanted: int = AUTO,
) -> Encoded:
    """Encode rows of a float dtype: base and every refinement.

    Args:
        dtype: ``F32``, ``F16`` or ``BF16``.
        segments: The rows.
        scales: One native ``int16`` per row, see :func:`row_scales`.
        levels: Halvings of the base step at each level after the base; 0, the last, is exact.
        codes: One native ``int16`` base code per element instead of each weight's nearest.
        full: Put everything into one payload, for tensors that are exact from the base on.
        wanted: Instruction set; the bytes are the same with all.
    """
    pinned = _PinnedBuffers(segments, writable=False)
    plan = _CPlan(full=int(full))
    level_array = (c_uint8 * len(levels))(*levels)
    plan.levels, plan.level_count = ctypes.cast(level_array, POINTER(c_uint8)), len(levels)
    address, size = pinned.address(scales, writable=False)
    plan.scales, plan.scale_count = ctypes.cast(address, POINTER(c_int16)), size // 2
    if codes is not None:
        address, size = pinned.address(codes, writable=False)
        plan.codes, plan.code_count = ctypes.cast(address, POINTER(c_int16)), size // 2
    out = c_void_p()
    status = _lib().p2u_encode(
        wanted, CODES[dtype], pinned.array, len(segments), byref(plan), byref(out)
    )
    _check(status, "encode")
    return _take(out)


def encode_delta(
    dtype: str,
    segments: Sequence[Segment],
    sources: Sequence[Any],
    source_dtype: str | None = None,
    wanted: int = AUTO,
) -> bytes:
    """Encode rows of a float dtype as differences to those of another version.

    Args:
        dtype: ``F32``, ``F16`` or ``BF16``.
        segments: The new version's rows.
        sources: A buffer for each segment: as many elements of the parent.
        source_dtype: The parent's float dtype, if it is another one.
        wanted: Instruction set; the bytes are the same with all.

    Raises:
        UsageError: The arguments do not fit together.
    """
    pinned = _PinnedBuffers(segments, writable=False)
    priors, out = pinned.sources(sources), c_void_p()
    code, source = CODES.get(dtype, OPAQUE), CODES.get(source_dtype or dtype, OPAQUE)
    status = _lib().p2u_encode_delta(
        wanted, code, source, pinned.array, len(segments), priors, byref(out)
    )
    _check(status, "encode")
    return _take(out).payloads[0]


def encode_opaque_delta(
    item: int,
    segments: Sequence[Segment],
    sources: Sequence[Any],
    wanted: int = AUTO,
    *,
    stride: int = 0,
) -> bytes:
    """Encode elements without levels as differences to those of another version.

    Args:
        item: Bytes per element, 1 to 16.
        segments: The new version's rows.
        sources: A buffer for each segment: as many elements of the parent, of as many bytes.
        wanted: Instruction set; the bytes are the same with all.
        stride: Every ``stride``-th byte of the chunk is coded with its like; the size of the blocks
            of a block-quantised tensor, at most 256. 0: ``item``.

    Raises:
        UsageError: The arguments do not fit together.
    """
    pinned = _PinnedBuffers(segments, writable=False)
    priors, out = pinned.sources(sources), c_void_p()
    status = _lib().p2u_encode_opaque_delta(
        wanted, item, stride or item, pinned.array, len(segments), priors, byref(out)
    )
    _check(status, "encode")
    return _take(out).payloads[0]


def encode_adopt(
    dtype: str,
    segments: Sequence[Segment],
    sources: Sequence[Any],
    block_type: str,
    wanted: int = AUTO,
) -> bytes:
    """Encode rows of a float dtype as what is missing in a block-quantised copy of them.

    Args:
        dtype: ``F32``, ``F16`` or ``BF16``.
        segments: The floats: whole blocks in each segment.
        sources: A buffer for each segment: the blocks that stand for its elements.
        block_type: One of `p2u.types.BLOCKS`.
        wanted: Instruction set; the bytes are the same with all.

    Raises:
        UsageError: The arguments do not fit together.
    """
    pinned = _PinnedBuffers(segments, writable=False)
    priors, out = pinned.sources(sources), c_void_p()
    code, block = CODES.get(dtype, OPAQUE), _block_code(block_type)
    status = _lib().p2u_encode_adopt(
        wanted, code, block, pinned.array, len(segments), priors, byref(out)
    )
    _check(status, "encode")
    return _take(out).payloads[0]


def _block_code(block_type: str) -> int:
    if block_type not in BLOCK_CODES:
        hint = f"There are {', '.join(BLOCKS)}"
        raise UsageError(f"{block_type} is not a known block type", hint=hint)
    return BLOCK_CODES[block_type]


def dequantise(block_type: str, source: Any) -> bytes:
    """Values of whole blocks, as native ``float32``: what :func:`encode_adopt` predicts.

    Raises:
        UsageError: The buffer does not hold whole blocks.
    """
    code = _block_code(block_type)
    elems, size = BLOCKS[block_type]
    pinned = _PinnedBuffers((), writable=False)
    address, length = pinned.address(source, writable=False)
    out = (ctypes.c_float * (length // size * elems))()
    status = _lib().p2u_dequantise(code, address, length, ctypes.addressof(out), len(out))
    _check(status, "dequantise")
    return bytes(out)


def encode_opaque(item: int, segments: Sequence[Segment], wanted: int = AUTO) -> Encoded:
    """Encode elements of ``item`` bytes (1 to 16) that have no levels."""
    pinned = _PinnedBuffers(segments, writable=False)
    out = c_void_p()
    status = _lib().p2u_encode_opaque(wanted, item, pinned.array, len(segments), byref(out))
    _check(status, "encode")
    return _take(out)


def _take(handle: c_void_p) -> Encoded:
    lib = _lib()
    try:
        payloads: list[bytes] = []
        size = c_size_t()
        while at := lib.p2u_encoded_payload(handle, len(payloads), byref(size)):
            payloads.append(ctypes.string_at(at, size.value))
        squares = [lib.p2u_encoded_squares(handle, i) for i in range(len(payloads) + 1)]
    finally:
        lib.p2u_free(handle)
    return Encoded(payloads, squares[0], squares[1:])
