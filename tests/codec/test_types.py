"""The table of element types: the core has the same one, read through its C ABI."""

from __future__ import annotations

import ctypes

from p2u.codec import core
from p2u.types import BLOCKS, ELEMENT_TYPES, ITEMSIZE, NUMPY_NAMES, PROGRESSIVE

#: Sizes of blocks that are tried, in elements and bytes.
MOST = 300
ELEMS = (1, 2, 16, 32, 64, 128, 256)


def takes_block(code: int, elems: int, size: int) -> bool:
    """Whether the core knows a type of blocks by this number and sizes."""
    source, out = bytes(size), (ctypes.c_float * elems)()
    address = ctypes.cast(ctypes.c_char_p(source), ctypes.c_void_p)
    found: int = core._lib().p2u_dequantise(code, address, size, ctypes.addressof(out), elems)
    return found == 0


def test_the_core_has_the_same_blocks() -> None:
    sizes = {t.size for t in ELEMENT_TYPES if t.elems > 1}
    for code in range(256):
        for elems in ELEMS:
            # All sizes near those of the table, and small ones.
            for size in {*range(1, 40), *sizes, *(s + 1 for s in sizes), *(s - 1 for s in sizes)}:
                known = {t.block_code: (t.elems, t.size) for t in ELEMENT_TYPES if t.block_code}
                same = code in known and _multiple(known[code], elems, size)
                assert takes_block(code, elems, size) is same, (code, elems, size)


def _multiple(block: tuple[int, int], elems: int, size: int) -> bool:
    """Whether these are whole blocks."""
    count = elems // block[0]
    return count > 0 and (count * block[0], count * block[1]) == (elems, size)


def test_the_core_has_the_same_floats() -> None:
    found = {}
    for code in range(1, 64):
        for item in (1, 2, 4, 8):
            memory = (ctypes.c_uint8 * (item * 64))()
            segment = core._CSegment(ctypes.addressof(memory), item * 64, 64, 64)
            out = (ctypes.c_int16 * 1)()
            status = core._lib().p2u_row_scales(
                code, 0, ctypes.byref(segment), 1, ctypes.addressof(out), 1
            )
            if status == 0:
                found[code] = item
    assert found == {t.float_code: t.size for t in ELEMENT_TYPES if t.float_code is not None}


def test_names_and_numbers_are_unique() -> None:
    for field in ("name", "ggml", "numpy", "float_code", "block_code"):
        values = [getattr(t, field) for t in ELEMENT_TYPES if getattr(t, field) is not None]
        assert len(values) == len(set(values)), field


def test_what_the_table_means() -> None:
    assert PROGRESSIVE == ("F32", "F16", "BF16")
    assert ITEMSIZE.keys() == NUMPY_NAMES.keys()
    assert not set(PROGRESSIVE) & set(BLOCKS)
    for t in ELEMENT_TYPES:
        # A plain dtype is of single elements; ggml's number is also the core's.
        assert (t.numpy is not None) == (t.elems == 1)
        assert t.ggml == t.block_code or None in (t.ggml, t.block_code)
