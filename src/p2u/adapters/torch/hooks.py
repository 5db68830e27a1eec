"""Pin one state for each call of a module, with hooks."""

from __future__ import annotations

import functools
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any

from p2u.client.live.replica import Pinned, Replica

if TYPE_CHECKING:
    import torch

#: Frames between a hook and the call of the module, at most: torch's own, and TorchDynamo's.
_DEPTH = 8


class _Calls(threading.local):
    """The calls in progress in this thread, each with its pin."""

    def __init__(self) -> None:
        self.stack: list[tuple[FrameType | None, Pinned]] = []


class Enter:
    """The forward pre-hook: pins the state.

    Args:
        replica: What feeds the module.
        calls: Shared with the `Leave` of the same module.
    """

    def __init__(self, replica: Replica, calls: _Calls) -> None:
        self._replica = replica
        self._calls = calls

    def __call__(self, module: torch.nn.Module, args: Any) -> None:
        """Pin, and note for which call."""
        frame = _call_frame(module)
        stack = self._calls.stack
        # The hook that ends a pin does not come after Ctrl-C.
        while stack and stack[-1][0] is not None and not _is_running(stack[-1][0]):
            _release(stack)
        pin = self._replica.pinned(brief=True)
        # First of all, so that whatever happens belongs to this call.
        stack.append((frame, pin))
        pin.enter(frame)


class Leave:
    """The forward hook: releases what `Enter` pinned, after an error too."""

    def __init__(self, calls: _Calls) -> None:
        self._calls = calls

    def __call__(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        """Release the pin of this call, if it has one."""
        stack = self._calls.stack
        if stack and stack[-1][0] is _call_frame(module):
            _release(stack)


class PinnedMethod:
    """A method of a model that needs one state for all of its time.

    These are ``generate``, which calls the model many times, and ``_apply``, by which ``half``,
    ``to`` and their like make other tensors of those that the model has.
    """

    def __init__(self, model: torch.nn.Module, name: str, replica: Replica) -> None:
        self._model = model
        self._name = name
        self._replica = replica
        functools.update_wrapper(self, getattr(type(model), name))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it with the state pinned."""
        with self._replica.pinned():
            return getattr(type(self._model), self._name)(self._model, *args, **kwargs)


def install(model: torch.nn.Module, replica: Replica) -> frozenset[int]:
    """Let every call of the model, and its ``generate`` as a whole, see one state.

    Returns:
        Ids of the hooks.
    """
    keep_dynamo_out()
    calls = _Calls()
    enter = model.register_forward_pre_hook(Enter(replica, calls), prepend=True)
    leave = model.register_forward_hook(Leave(calls), always_call=True)
    for name in ("generate", "_apply"):
        if callable(getattr(type(model), name, None)):
            setattr(model, name, PinnedMethod(model, name, replica))
    return frozenset((enter.id, leave.id))


def keep_dynamo_out() -> None:
    """Tell TorchDynamo not to trace the hooks, if it is here; importing it takes seconds.

    Without, it finds out by itself, unless ``fullgraph=True`` forbids it.
    """
    if "torch._dynamo" not in sys.modules:
        return
    import torch

    for kind in (Enter, Leave):
        call: Any = kind.__call__
        if not getattr(call, "_torchdynamo_disable", False):
            kind.__call__ = torch.compiler.disable(call)  # type: ignore[method-assign]


def _call_frame(module: torch.nn.Module) -> FrameType | None:
    """The frame of the call of the module whose hook runs; None if there is no telling."""
    if getattr(module, "_compiled_call_impl", None) is not None:
        return None  # compiled: it may go on in another frame
    frame: FrameType | None = sys._getframe(2)
    for _ in range(_DEPTH):
        if frame is None or frame.f_code.co_name == "_call_impl":
            return frame
        frame = frame.f_back
    return None


def _is_running(wanted: FrameType | None) -> bool:
    """Whether a frame is one of this thread's callers."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame is not wanted:
        frame = frame.f_back
    return frame is not None


def _release(stack: list[tuple[FrameType | None, Pinned]]) -> None:
    stack.pop()[1].leave()
