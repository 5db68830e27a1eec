"""Copy and pickle a live model as the plain module that it is without its replica."""

from __future__ import annotations

import copy
import sys
from typing import TYPE_CHECKING, Any

from p2u.client.live.replica import Replica

if TYPE_CHECKING:
    import torch

#: Attributes that make a module live.
LIVE = ("p2u", "generate", "_apply", "__deepcopy__", "__reduce_ex__")


class _PlainMaker:
    """Makes a plain module of a live one.

    Args:
        model: The live one.
        replica: Its replica.
        hooks: Ids of the hooks that make it live.
    """

    def __init__(self, model: torch.nn.Module, replica: Replica, hooks: frozenset[int]) -> None:
        self._model = model
        self._replica = replica
        self._hooks = hooks


class DeepCopy(_PlainMaker):
    """``copy.deepcopy`` of a live model: a plain module at one state."""

    def __call__(self, memo: dict[int, Any]) -> torch.nn.Module:
        """Make it; see `copy.deepcopy`."""
        plain = without_replica(self._model, self._hooks)
        with self._replica.pinned():
            own = getattr(type(plain), "__deepcopy__", None)
            if own is not None:
                made: torch.nn.Module = own(plain, memo)
                return made
            # As copy.deepcopy does it, so that what refers to the model refers to the copy.
            make, arguments, state = plain.__reduce_ex__(4)[:3]
            made = make(*copy.deepcopy(arguments, memo))
            memo[id(self._model)] = made
            made.__setstate__(copy.deepcopy(state, memo))
            return made


class Reduce(_PlainMaker):
    """``pickle`` of a live model, and thereby ``torch.save``: a plain module at one state."""

    #: Held for a process that opens its memory later.
    _given: torch.nn.Module | None = None

    def __call__(self, protocol: Any) -> Any:
        """Reduce it; see `object.__reduce_ex__`."""
        if self._replica.progress.target is None:  # nothing changes it any more
            return without_replica(self._model, self._hooks).__reduce_ex__(protocol)
        made = copy.deepcopy(self._model)
        if sys._getframe(1).f_globals.get("__name__") == "multiprocessing.reduction":
            # A process that is being started opens this memory; until then it has to be there.
            self._given = made
        return made.__reduce_ex__(protocol)


def install(model: torch.nn.Module, replica: Replica, hooks: frozenset[int]) -> None:
    """Let copies and pickles of a live model be plain modules."""
    # On the instance, which copy and pickle ask first, since the class is the user's.
    model.__deepcopy__ = DeepCopy(model, replica, hooks)
    model.__reduce_ex__ = Reduce(model, replica, hooks)


def without_replica(model: torch.nn.Module, hooks: frozenset[int]) -> torch.nn.Module:
    """A module with the same tensors and submodules, and without what makes it live.

    Args:
        model: The live one.
        hooks: Ids of its hooks to leave out.
    """
    plain: torch.nn.Module = object.__new__(type(model))
    for name, value in vars(model).items():
        if name in LIVE:
            continue
        if name.startswith(("_forward_hooks", "_forward_pre_hooks")):
            kept = {key: hook for key, hook in value.items() if key not in hooks}
            value = type(value)(kept)
        plain.__dict__[name] = value
    return plain
