"""All ways to transmit a model that are compared, by name.

A name may stand for several methods in a table: each quantiser comes with and without entropy
coding, see `p2u_lab.methods.direct`. Everything is imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2u_lab.base import Method


def _progressive(sensitivity: bool, calibration: bool) -> Callable[[], Method]:
    def make() -> Method:
        from p2u_lab.methods.progressive import Progressive

        return Progressive(sensitivity=sensitivity, calibration=calibration)

    return make


def _minmax() -> Method:
    from p2u_lab.methods.direct import Direct
    from p2u_lab.methods.quantisers import TensorMinMax

    return Direct(TensorMinMax())


def _absmax() -> Method:
    from p2u_lab.methods.direct import Direct
    from p2u_lab.methods.quantisers import ChannelAbsMax

    return Direct(ChannelAbsMax())


def _affine(name: str, group: int | None, most: int) -> Callable[[], Method]:
    def make() -> Method:
        from p2u_lab.methods.direct import Direct
        from p2u_lab.methods.quantisers import Affine

        return Direct(Affine(name, group, range(2, most + 1)))

    return make


def _cast(name: str) -> Callable[[], Method]:
    def make() -> Method:
        from p2u_lab.methods.casts import Cast
        from p2u_lab.methods.direct import Direct

        return Direct(Cast(name), fixed=True, dtypes=("F32",))

    return make


def _nf4() -> Method:
    from p2u_lab.methods.direct import Direct
    from p2u_lab.methods.nf4 import NF4

    return Direct(NF4(), fixed=True)


def _hqq() -> Method:
    from p2u_lab.methods.direct import Direct
    from p2u_lab.methods.hqq import HQQ

    return Direct(HQQ())


def _nncodec(dependent: bool) -> Callable[[], Method]:
    def make() -> Method:
        from p2u_lab.methods.nnc import NNCodec

        return NNCodec(dependent=dependent)

    return make


def _plain() -> Method:
    from p2u_lab.methods.lossless import Plain

    return Plain()


def _zstd() -> Method:
    from p2u_lab.methods.codecs import Zstd
    from p2u_lab.methods.lossless import LEVEL, Compressed

    return Compressed("zstd", lambda: [Zstd(LEVEL)])


def _zipnn() -> Method:
    from p2u_lab.methods.codecs import zipnn_settings
    from p2u_lab.methods.lossless import Compressed

    return Compressed("zipnn", zipnn_settings)


def _lmz() -> Method:
    from p2u_lab.methods.codecs import lmz_settings
    from p2u_lab.methods.lossless import Compressed

    return Compressed("lmz", lmz_settings)


METHODS: dict[str, Callable[[], Method]] = {
    "p2u": _progressive(False, False),
    "p2u+sensitivity": _progressive(True, False),
    "p2u+calibration": _progressive(False, True),
    "p2u+sensitivity+calibration": _progressive(True, True),
    "minmax-tensor": _minmax,
    "absmax-channel": _absmax,
    "minmax-channel": _affine("minmax-channel", None, 16),
    "group32": _affine("group32", 32, 8),
    "group128": _affine("group128", 128, 8),
    "nf4": _nf4,
    "hqq": _hqq,
    "nncodec": _nncodec(False),
    "nncodec+dq": _nncodec(True),
    "bf16": _cast("bf16"),
    "fp16": _cast("fp16"),
    "plain": _plain,
    "zstd": _zstd,
    "zipnn": _zipnn,
    "lmz": _lmz,
}
