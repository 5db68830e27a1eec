"""Copy a model's tensors to memory that is reused, and write a safetensors file of them.

The order is that of the safetensors library (items from large to small, then names), so that two
snapshots of one model differ only in their tensors' bytes.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2u.adapters.torch.dtypes import file_types
from p2u.adapters.torch.tensors import synchronizer
from p2u.disk.errors import disk_errors
from p2u.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    import torch


def tensors_of(source: torch.nn.Module | Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors to publish, by name; of those that share all their memory, one.

    Args:
        source: A module, or a mapping of names to tensors such as its ``state_dict()``.

    Raises:
        UsageError: A value is not a tensor, or none that could be copied; or there are none.
    """
    import torch

    if isinstance(source, torch.nn.Module):
        # transformers says which of the names its files do not have.
        second = [re.compile(p) for p in getattr(source, "_tied_weights_keys", None) or ()]
        found = source.state_dict(keep_vars=True)
        # Stable: among the others, the first name stays.
        order = sorted(found, key=lambda name: any(p.search(name) for p in second))
    else:
        found, order = dict(source), list(source)
    chosen: dict[str, torch.Tensor] = {}
    seen = set()
    for name in order:
        tensor = found[name]
        _check(name, tensor)
        place = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        chosen[name] = tensor.detach()
    if not chosen:
        raise UsageError("there are no tensors to publish")
    return chosen


def _check(name: str, tensor: Any) -> None:
    """Raise UsageError unless it is a tensor that has all of its elements in one memory."""
    import torch

    if not isinstance(tensor, torch.Tensor):
        raise UsageError(
            f"{name!r} is of type {type(tensor).__name__}, expected a tensor",
            hint="Give a module or a flat mapping of names to tensors",
        )
    if hasattr(tensor, "full_tensor"):
        raise UsageError(
            "the tensor is sharded, and this is only a part of it",
            tensor=name,
            hint="Call full_tensor() on every rank, and publish on one of them",
        )
    if tensor.is_meta or tensor.layout is not torch.strided:
        what = "has no memory (meta)" if tensor.is_meta else f"is of the layout {tensor.layout}"
        raise UsageError(f"it {what}", tensor=name, hint="Publish dense tensors that have values")


class Snapshot:
    """Memory for one model at a time. Not thread-safe."""

    def __init__(self) -> None:
        self._shape: object = None
        self._header = b""
        self._memory: torch.Tensor | None = None
        self._views: dict[str, torch.Tensor] = {}

    def take(self, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype | None) -> None:
        """Copy tensors from wherever they are; the memory is made at the first time.

        Args:
            tensors: By name.
            dtype: What floating-point tensors become; None: they stay as they are.

        Raises:
            UnsupportedError: safetensors has no such dtype.
        """
        import torch

        wanted = {
            name: dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
            for name, tensor in tensors.items()
        }
        shape = {name: (wanted[name], tuple(tensor.shape)) for name, tensor in tensors.items()}
        if shape != self._shape:
            self._allocate(shape, any(tensor.is_cuda for tensor in tensors.values()))
        with torch.no_grad():
            for name, view in self._views.items():
                view.copy_(tensors[name], non_blocking=True)
        for device in {tensor.device for tensor in tensors.values()}:
            synchronizer(device)()

    def _allocate(self, shape: dict[str, tuple[torch.dtype, tuple[int, ...]]], pin: bool) -> None:
        import torch

        types = file_types()
        for name, (dtype, _) in shape.items():
            if dtype not in types:
                raise UnsupportedError(
                    f"safetensors files, which are published, have no dtype for {dtype}",
                    tensor=name,
                    hint="Publish it as another dtype, or leave it out",
                )
        order = sorted(shape, key=lambda name: (-types[shape[name][0]].size, name))
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        at = 0
        for name in order:
            kind, sizes = types[shape[name][0]], list(shape[name][1])
            size = kind.size * math.prod(sizes)
            if kind.elems > 1 and sizes:
                sizes[-1] *= kind.elems  # packed: the file counts single ones
            header[name] = {"dtype": kind.name, "shape": sizes, "data_offsets": [at, at + size]}
            at += size
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        # Freed first: both together might not fit.
        self._views, self._memory = {}, None
        self._memory = torch.empty(at, dtype=torch.uint8, pin_memory=pin)
        for name in order:
            begin, end = header[name]["data_offsets"]
            dtype, dims = shape[name]
            self._views[name] = self._memory[begin:end].view(dtype).view(dims)
        self._header = struct.pack("<Q", len(text)) + text
        self._shape = shape

    def write(self, path: Path) -> None:
        """Write it as a safetensors file.

        Raises:
            DiskError: It cannot be written.
        """
        assert self._memory is not None
        with disk_errors(path), open(path, "wb") as file:
            file.write(self._header)
            if self._memory.numel():
                file.write(memoryview(self._memory.numpy()))
