"""Torch's dtypes and those of files; nothing else translates between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2u.errors import UnsupportedError, UsageError
from p2u.package.layout import Tensor
from p2u.types import ELEMENT_TYPES, ElementType, packed_shape

if TYPE_CHECKING:
    import torch

_TYPES = {t.name: t for t in ELEMENT_TYPES}


def torch_dtype(tensor: Tensor, file: str) -> torch.dtype:
    """The dtype of a package's tensor in torch.

    Args:
        tensor: The tensor.
        file: Its file, for the message.

    Raises:
        UnsupportedError: There is none in this torch, in any torch, or none that P2U knows of.
    """
    import torch

    known = _TYPES.get(tensor.dtype)
    name = None if known is None else known.torch
    found = None if name is None else getattr(torch, name, None)
    if isinstance(found, torch.dtype):
        return found
    other = "choose other files with weights=, or pull the model and load the folder"
    if name is not None:
        why, hint = (
            f"torch {torch.__version__} has no dtype {name} yet",
            f"Update torch, or {other}",
        )
    elif known is None:
        why = f"P2U does not know which of torch's dtypes {tensor.dtype} is, if any"
        hint = other.capitalize()
    else:
        why = f"torch has no dtype for elements of the type {tensor.dtype}"
        hint = other.capitalize()
    raise UnsupportedError(why, file=file, tensor=tensor.name, hint=hint)


def torch_shape(tensor: Tensor) -> tuple[int, ...]:
    """The shape of a package's tensor in torch, whose elements may hold several of a file's."""
    return packed_shape(tensor.dtype, tensor.shape)


def file_types() -> dict[torch.dtype, ElementType]:
    """The types that a safetensors file can hold, by the dtypes that this torch has."""
    import torch

    return {
        getattr(torch, t.torch): t for t in ELEMENT_TYPES if t.torch and hasattr(torch, t.torch)
    }


def floating_dtype(wanted: torch.dtype | str | None) -> torch.dtype | None:
    """A dtype to cast floats to, by its name in torch or in files; None: they are not cast.

    Raises:
        UsageError: It is not one of torch's, not of floats, or torch cannot cast to it.
    """
    if wanted is None:
        return None
    import torch

    found: object = wanted
    if isinstance(wanted, str):
        known = _TYPES.get(wanted)
        name = known.torch if known is not None and known.torch else wanted
        found = getattr(torch, name.removeprefix("torch."), None)
    if not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise UsageError(
            f"dtype must be one of torch's floating-point dtypes, not {wanted!r}",
            hint="Such as 'bfloat16', or torch.float16; None keeps those of the package",
        )
    try:
        torch.zeros(1).to(found)
    except (RuntimeError, NotImplementedError) as error:
        raise UsageError(
            f"torch {torch.__version__} cannot cast to the dtype {found}",
            hint="Such as 'bfloat16', or torch.float16; None keeps those of the package",
        ) from error
    return found
