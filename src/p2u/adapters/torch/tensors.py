"""Torch tensors over a replica's memory, and copies of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from p2u.adapters.torch.dtypes import torch_dtype, torch_shape
from p2u.client.live.memory import ModelMemory
from p2u.package.layout import Layout, ReleaseLayout, Tensor
from p2u.types import NUMPY_NAMES, PACKED, PROGRESSIVE

if TYPE_CHECKING:
    import torch


class TensorMemory(Protocol):
    """The bytes of tensors: a `ModelMemory`, or a `StagedVersion`."""

    @property
    def first(self) -> ReleaseLayout:
        """The release that came first, with its tensors."""

    def bytes_of(self, tensor: Tensor) -> memoryview:
        """The memory of a tensor of the first release, writable."""


def view(files: TensorMemory, tensor: Tensor) -> torch.Tensor:
    """A tensor over the memory; a copy where its place does not suit its dtype.

    Raises:
        UnsupportedError: See `torch_dtype`.
    """
    import torch

    dtype = torch_dtype(tensor, files.first.files[tensor.file].path)
    shape = torch_shape(tensor)
    if not tensor.length:
        return torch.empty(shape, dtype=dtype)
    memory = files.bytes_of(tensor)
    if tensor.offset % tensor.item:
        # Files lie at the beginning of pages. frombuffer would take it, vector loads might not.
        raw = torch.frombuffer(memory, dtype=torch.uint8).clone()
        return raw.view(dtype).reshape(shape)
    return torch.frombuffer(memory, dtype=dtype).reshape(shape)


def own_or_view(
    files: ModelMemory, tensor: Tensor, dtype: torch.dtype | None, device: torch.device
) -> torch.Tensor:
    """A tensor over the memory if that is possible, else a copy.

    Args:
        files: The replica's memory.
        tensor: Which one.
        dtype: That floating-point tensors get; None: their own.
        device: Where it is to be.
    """
    source = view(files, tensor)
    cast = dtype is not None and source.is_floating_point() and tensor.dtype not in PACKED
    wanted = dtype if cast else source.dtype
    if wanted == source.dtype and device.type == "cpu":
        return source
    return source.to(device=device, dtype=wanted, copy=True)


def shares(files: ModelMemory, tensor: Tensor, found: torch.Tensor) -> bool:
    """Whether a tensor of a module is over the memory itself."""
    if found.device.type != "cpu" or tensor.offset % tensor.item:
        return False
    source = view(files, tensor)
    if found.dtype != source.dtype or not found.is_contiguous():
        return False
    return bool(found.data_ptr() == source.data_ptr())


def within(files: ModelMemory, found: torch.Tensor) -> bool:
    """Whether a tensor of a module is over some of the memory."""
    import torch

    if found.device.type != "cpu" or not found.numel():
        return False
    at = found.data_ptr()
    for memory in files.regions.values():
        if len(memory):
            begin = torch.frombuffer(memory, dtype=torch.uint8).data_ptr()
            if begin <= at < begin + len(memory):
                return True
    return False


def synchronizer(device: torch.device) -> Callable[[], Any]:
    """A function that waits for all work that was queued on a device."""
    import torch

    module = getattr(torch, device.type, None)
    found: Callable[[], Any] | None = getattr(module, "synchronize", None)
    if device.type == "cpu" or found is None:
        return lambda: None
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return found


def all_copied(layout: Layout, dtype: torch.dtype | None, device: torch.device) -> bool:
    """Whether every tensor that changes gets memory of its own with this dtype and device."""
    if device.type != "cpu":
        return True
    import torch

    return dtype is not None and all(
        getattr(torch, NUMPY_NAMES[tensor.dtype]) != dtype
        for tensor in layout.tensors
        if tensor.dtype in PROGRESSIVE
    )
