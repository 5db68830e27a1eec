"""Plain data that all layers share; imports nothing of ours."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class ElementType:
    """A type of elements, or of blocks of them.

    Attributes:
        name: safetensors' name of the dtype, or ggml's of a block type.
        size: Bytes of an element, or of a block.
        elems: Elements of a block; 1 for a plain dtype.
        ggml: Its number in GGUF files (``ggml_type``), if it has one.
        numpy: NumPy's name of the dtype, or that of ml_dtypes; it is torch's name, too.
        packed: Torch's name of the dtype whose elements are such blocks of less than a byte each.
        float_code: Number that the core knows a dtype with levels by.
        block_code: Number that the core knows a type by that floats are predicted from; of block
            types that of ggml.
    """

    name: str
    size: int
    elems: int = 1
    ggml: int | None = None
    numpy: str | None = None
    packed: str | None = None
    float_code: int | None = None
    block_code: int | None = None

    @property
    def torch(self) -> str | None:
        """Torch's name of the dtype; None if torch has none, in any release that is known."""
        return self.numpy or self.packed


def _adoptable(name: str, elems: int, size: int, ggml: int) -> ElementType:
    return ElementType(name, size, elems, ggml, block_code=ggml)


def _opaque(name: str, elems: int, size: int, ggml: int) -> ElementType:
    return ElementType(name, size, elems, ggml)


#: The one table of element types. A plain dtype has a NumPy name; all others are blocks.
ELEMENT_TYPES = (
    ElementType("F64", 8, ggml=28, numpy="float64"),
    ElementType("F32", 4, ggml=0, numpy="float32", float_code=1),
    ElementType("F16", 2, ggml=1, numpy="float16", float_code=2),
    ElementType("BF16", 2, ggml=30, numpy="bfloat16", float_code=3),
    ElementType("F8_E4M3", 1, numpy="float8_e4m3fn", block_code=64),
    ElementType("F8_E5M2", 1, numpy="float8_e5m2", block_code=65),
    ElementType("F8_E8M0", 1, numpy="float8_e8m0fnu"),
    ElementType("F8_E4M3FNUZ", 1, numpy="float8_e4m3fnuz"),
    ElementType("F8_E5M2FNUZ", 1, numpy="float8_e5m2fnuz"),
    ElementType("I64", 8, ggml=27, numpy="int64"),
    ElementType("I32", 4, ggml=26, numpy="int32"),
    ElementType("I16", 2, ggml=25, numpy="int16"),
    ElementType("I8", 1, ggml=24, numpy="int8"),
    ElementType("U64", 8, numpy="uint64"),
    ElementType("U32", 4, numpy="uint32"),
    ElementType("U16", 2, numpy="uint16"),
    ElementType("U8", 1, numpy="uint8"),
    ElementType("BOOL", 1, numpy="bool"),
    ElementType("C64", 8, numpy="complex64"),
    ElementType("F4", 1, 2, packed="float4_e2m1fn_x2"),
    ElementType("F6_E2M3", 3, 4),
    ElementType("F6_E3M2", 3, 4),
    _adoptable("Q4_0", 32, 18, 2),
    _adoptable("Q4_1", 32, 20, 3),
    _adoptable("Q5_0", 32, 22, 6),
    _adoptable("Q5_1", 32, 24, 7),
    _adoptable("Q8_0", 32, 34, 8),
    _opaque("Q8_1", 32, 40, 9),
    _adoptable("Q2_K", 256, 84, 10),
    _adoptable("Q3_K", 256, 110, 11),
    _adoptable("Q4_K", 256, 144, 12),
    _adoptable("Q5_K", 256, 176, 13),
    _adoptable("Q6_K", 256, 210, 14),
    _opaque("Q8_K", 256, 292, 15),
    _opaque("IQ2_XXS", 256, 66, 16),
    _opaque("IQ2_XS", 256, 74, 17),
    _opaque("IQ3_XXS", 256, 98, 18),
    _opaque("IQ1_S", 256, 50, 19),
    _opaque("IQ4_NL", 32, 18, 20),
    _opaque("IQ3_S", 256, 110, 21),
    _opaque("IQ2_S", 256, 82, 22),
    _opaque("IQ4_XS", 256, 136, 23),
    _opaque("IQ1_M", 256, 56, 29),
    _opaque("TQ1_0", 256, 54, 34),
    _opaque("TQ2_0", 256, 66, 35),
    _opaque("MXFP4", 32, 17, 39),
    _opaque("NVFP4", 64, 36, 40),
    _opaque("Q1_0", 128, 18, 41),
)

#: Bytes per element of the plain dtypes; others are carried as opaque bytes.
ITEMSIZE = {t.name: t.size for t in ELEMENT_TYPES if t.numpy is not None}

#: NumPy's names of the plain dtypes; those that NumPy lacks are of ml_dtypes.
NUMPY_NAMES = {t.name: t.numpy for t in ELEMENT_TYPES if t.numpy is not None}

#: Elements per byte, or per few bytes, of types that safetensors packs: elements and bytes.
PACKED = {t.name: (t.elems, t.size) for t in ELEMENT_TYPES if t.elems > 1 and t.ggml is None}

#: The dtypes that have progressive levels; every other dtype is exact from the base on.
PROGRESSIVE = tuple(t.name for t in ELEMENT_TYPES if t.float_code is not None)

#: Types that floats can be predicted from, in the order of their numbers: elements and bytes of a
#: block.
BLOCKS = {
    t.name: (t.elems, t.size)
    for t in sorted(ELEMENT_TYPES, key=lambda t: t.block_code or 0)
    if t.block_code is not None
}


def packed_shape(dtype: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape in units of whole bytes: the last dimension is divided where elements are packed."""
    elems, _ = PACKED.get(dtype, (1, 1))
    if not shape or shape[-1] % elems:
        return shape
    return (*shape[:-1], shape[-1] // elems)


@dataclass(frozen=True, slots=True)
class TensorSpan:
    """The place of one tensor's bytes in a file.

    Attributes:
        name: Unique within its file; the key within a model directory is ``(file, name)``.
        dtype: safetensors' name of the element type (``"BF16"``); unknown names are opaque.
        shape: Dimensions, outermost (output channel) first.
        file: Path relative to the model directory, ``/``-separated.
        offset: First byte in the file.
        length: Number of bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Check:
    """A checksum that a file keeps of some of its own bytes.

    Attributes:
        kind: ``"crc32"``: that of zip, gzip and PNG.
        start: First byte covered.
        length: Number of bytes covered.
        fields: Offsets of the places that hold it, 4 bytes little-endian each, none of them
            covered by this or another check.
    """

    kind: Literal["crc32"]
    start: int
    length: int
    fields: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Scan:
    """The spans and checksums that a format finds in one file.

    Attributes:
        size: Of the file, bytes.
        spans: Its tensors. Those whose bytes lie in another file of the model name that file.
        checks: Checksums that it keeps of its own bytes.
        obstacle: If tensors are in it that are only carried, what they are, and what could be done:
            a sentence without an end.
    """

    size: int
    spans: tuple[TensorSpan, ...]
    checks: tuple[Check, ...] = ()
    obstacle: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a model directory.

    Attributes:
        path: Relative to the model directory, ``/``-separated.
        size: Bytes.
        spans: The tensors that lie in it, in order of offset; empty for a file that is only
            carried. The bytes between spans (headers, padding) are carried too.
        checks: Checksums that it keeps of its own bytes: they differ from state to state.
    """

    path: str
    size: int
    spans: tuple[TensorSpan, ...] = field(default=())
    checks: tuple[Check, ...] = field(default=())
