"""The tensors of a module, and the places in a replica's memory that they come from."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from p2u.adapters.torch.dtypes import torch_shape
from p2u.adapters.torch.tensors import shares, synchronizer, view, within
from p2u.client.live.memory import ModelMemory
from p2u.errors import UnsupportedError, UsageError
from p2u.package.layout import Tensor

if TYPE_CHECKING:
    import torch

_log = logging.getLogger("p2u")


@dataclass(eq=False, slots=True)
class _Slot:
    """A parameter or a buffer.

    Attributes:
        name: Its full name in the model.
        owner: The module that has it.
        key: Its name there.
        tensor: Its place in the replica's memory.
        version: Of the tensor, as torch counts changes; None if that is unknown.
    """

    name: str
    owner: weakref.ref[torch.nn.Module]
    key: str
    tensor: Tensor
    version: int | None = None

    @property
    def present(self) -> torch.Tensor | None:
        """The tensor that the module has now; None if it has none of this name, or is gone."""
        owner = self.owner()
        if owner is None:
            return None
        found = owner._parameters.get(self.key)
        return owner._buffers.get(self.key) if found is None else found


class Binding:
    """Brings each state to the tensors that the module has at that time.

    Tensors over the replica's memory change with it. All others are copies: those that were cast or
    are on another device from the beginning, and those that the program has cast, moved or shared
    since (``model.half()``). Each commit fills them again. They keep their storage meanwhile, so
    whoever knows their addresses (a CUDA graph) stays right.

    Args:
        model: The module; its tensors are there.
        files: The replica's memory.
        tensors: Name in the model to the tensor of the package that it comes from.
    """

    def __init__(
        self, model: torch.nn.Module, files: ModelMemory, tensors: Mapping[str, Tensor]
    ) -> None:
        self._model = weakref.ref(model)
        self._files = files
        self._left: set[str] = set()
        self._slots = []
        for name, tensor in tensors.items():
            path, _, key = name.rpartition(".")
            if tensor.length:
                owner = weakref.ref(model.get_submodule(path))
                self._slots.append(_Slot(name, owner, key, tensor))
        self._note_versions()

    def check(self) -> None:
        """Make sure that the next state can be brought to the module.

        Raises:
            UsageError: The program has written to tensors over the replica's memory.
            UnsupportedError: A tensor has another shape, has no memory, or is gone.
        """
        addresses: set[int] | None = None
        for slot, found in self._in_use():
            if found is None:
                if addresses is None:
                    addresses = self._addresses()
                # Pruning and parametrisation give it another name.
                if view(self._files, slot.tensor).data_ptr() not in addresses:
                    raise _lost(slot, "has no such parameter any more")
            elif found.is_meta:
                raise _lost(slot, "keeps it on the meta device, without values")
            elif tuple(found.shape) != torch_shape(slot.tensor):
                shape = " x ".join(map(str, found.shape))
                raise _lost(slot, f"has it with another shape now, {shape}")
            elif self._is_odd(slot, found):
                raise _lost(slot, "views its memory in another way")
            elif slot.version not in (None, _version(found)) and shares(
                self._files, slot.tensor, found
            ):
                raise UsageError(
                    "the program has written to this tensor, which the next state is made from",
                    tensor=slot.name,
                    hint="Wait for the last state, model.p2u.wait(), before you train the model or "
                    "load and merge other weights; in train mode batch norm writes, too",
                )

    def refresh(self) -> None:
        """Fill all copies from the memory. On other devices, work under way is waited for."""
        import torch

        copies = [
            (slot, found)
            for slot, found in self._in_use()
            # What is over the memory of another tensor was tied to that one.
            if found is not None and not within(self._files, found)
        ]
        waits: list[Callable[[], Any]] = [
            synchronizer(device) for device in {found.device for _, found in copies}
        ]
        for wait in waits:
            wait()
        for slot, found in copies:
            # Tensors that were made in inference mode can be written to in that mode only.
            with torch.inference_mode() if found.is_inference() else torch.no_grad():
                found.copy_(view(self._files, slot.tensor), non_blocking=True)
        for wait in waits:
            wait()
        self._note_versions()

    def _in_use(self) -> Iterator[tuple[_Slot, torch.Tensor | None]]:
        """Slots whose modules are still parts of the model, with their present tensors."""
        model = self._model()
        parts = None if model is None else {id(module) for module in model.modules()}
        for slot in self._slots:
            owner = slot.owner()
            if owner is None or (parts is not None and id(owner) not in parts):
                # It may have been converted: what it became keeps its values.
                if parts is not None and slot.name not in self._left:
                    self._left.add(slot.name)
                    _log.warning("%s left the model and is refined no more", slot.name)
                continue
            yield slot, slot.present

    def _is_odd(self, slot: _Slot, found: torch.Tensor) -> bool:
        """Whether a tensor is over the memory, but not as any tensor of the package is."""
        if shares(self._files, slot.tensor, found) or not within(self._files, found):
            return False
        return not any(shares(self._files, other.tensor, found) for other in self._slots)

    def _addresses(self) -> set[int]:
        """Addresses of all tensors of the model."""
        model = self._model()
        if model is None:
            return set()
        return {t.data_ptr() for t in (*model.parameters(), *model.buffers()) if not t.is_meta}

    def _note_versions(self) -> None:
        for slot in self._slots:
            found = slot.present
            slot.version = None if found is None else _version(found)


def _version(tensor: torch.Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _lost(slot: _Slot, how: str) -> UnsupportedError:
    return UnsupportedError(
        f"the next state cannot be brought to this tensor: the model {how}",
        tensor=slot.name,
        hint="The model stays at its state. Change its structure after model.p2u.wait(), or undo "
        "the change and call model.p2u.resume()",
    )
