"""Make classes of vLLM's bases and ours, once they are needed: importing vLLM takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def lazy_class(name: str, own: type, base: Callable[[], type]) -> Callable[[str], Any]:
    """A module's ``__getattr__`` that makes a class when it is first asked for.

    Args:
        name: Of the class.
        own: Our part, whose methods come first.
        base: Imports vLLM's part.
    """
    made: dict[str, type] = {}

    def getattribute(asked: str) -> Any:
        if asked != name:
            raise AttributeError(asked)
        if not made:
            made[name] = type(name, (own, base()), {"__module__": own.__module__})
        return made[name]

    return getattribute
