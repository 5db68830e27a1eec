"""Torch tensors that share a replica's memory, and copies that each commit renews."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from p2u.client.live.memory import ModelMemory
from p2u.errors import UnsupportedError
from p2u.package.layout import Layout, Tensor
from p2u.types import NUMPY_NAMES, PROGRESSIVE

if TYPE_CHECKING:
    import torch


def view(files: ModelMemory, tensor: Tensor) -> torch.Tensor:
    """A tensor over the memory; a copy where its place does not suit its dtype.

    Raises:
        UnsupportedError: Torch has no such dtype.
    """
    import torch

    # Older releases of torch lack some.
    dtype = getattr(torch, NUMPY_NAMES.get(tensor.dtype, ""), None)
    if dtype is None:
        raise UnsupportedError(
            f"torch {torch.__version__} has no dtype {tensor.dtype}",
            file=files.release.files[tensor.file].path,
            tensor=tensor.name,
            hint="Update torch, or choose other files with weights=",
        )
    if not tensor.length:
        return torch.empty(tensor.shape, dtype=dtype)
    memory = files.bytes_of(tensor)
    if tensor.offset % tensor.item:
        # Files lie at the beginning of pages. frombuffer would take it, vector loads might not.
        raw = torch.frombuffer(memory, dtype=torch.uint8).clone()
        return raw.view(dtype).reshape(tensor.shape)
    return torch.frombuffer(memory, dtype=dtype).reshape(tensor.shape)


class Copies:
    """Tensors with memory of their own, made again from the replica's at each commit.

    They keep their storage, so whoever knows their addresses (a CUDA graph) stays right.

    Args:
        files: The replica's memory.
        dtype: That floating-point tensors get; None: their own.
        device: Where they are.
    """

    def __init__(self, files: ModelMemory, dtype: torch.dtype | None, device: torch.device) -> None:
        self._files = files
        self._dtype = dtype
        self.device = device
        self._pairs: list[tuple[torch.Tensor, Callable[[], torch.Tensor]]] = []

    def __len__(self) -> int:
        return len(self._pairs)

    def get(self, tensor: Tensor) -> torch.Tensor:
        """A tensor over the memory if that is possible, else a copy that `refresh` renews."""
        source = view(self._files, tensor)
        dtype = self._dtype if self._dtype and source.is_floating_point() else source.dtype
        aligned = not tensor.offset % tensor.item
        if aligned and dtype == source.dtype and self.device.type == "cpu":
            return source
        own = source.to(device=self.device, dtype=dtype, copy=True)
        self._pairs.append(
            (own, (lambda: source) if aligned else (lambda: view(self._files, tensor)))
        )
        return own

    def refresh(self) -> None:
        """Take the memory's present values. On other devices, work under way is waited for."""
        import torch

        wait = synchronizer(self.device)
        wait()
        with torch.no_grad():
            for own, source in self._pairs:
                own.copy_(source(), non_blocking=True)
        wait()


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
