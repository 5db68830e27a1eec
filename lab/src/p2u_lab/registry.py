"""All models, tasks and methods by name, and which of them a run is asked for.

``TASKS`` of a part has factories; one that takes ``limit`` (most items, None for all) is given
it. ``MODELS`` has factories of `Model`, ``METHODS`` of `Method`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

from p2u.errors import UsageError
from p2u_lab.base import Method, Model, Task

T = TypeVar("T")


def task_factories() -> dict[str, Callable[..., Task]]:
    """Factories of all tasks."""
    from p2u_lab import language, vision

    return {**vision.TASKS, **language.TASKS}


def model_factories() -> dict[str, Callable[..., Model]]:
    """Factories of all models."""
    from p2u_lab import language, vision

    return {**vision.MODELS, **language.MODELS}


def method_factories() -> dict[str, Callable[[], Method]]:
    """Factories of all methods."""
    from p2u_lab.methods import METHODS

    return dict(METHODS)


def make_task(factory: Callable[..., Task], limit: int | None) -> Task:
    """A task with at most so many items.

    Raises:
        UsageError: The task cannot be cut short.
    """
    if limit is None:
        return factory()
    parameters = inspect.signature(factory).parameters.values()
    if any(p.name == "limit" or p.kind is p.VAR_KEYWORD for p in parameters):
        return factory(limit=limit)
    task = factory()
    if not hasattr(task, "limit"):
        raise UsageError(f"task {task.name} has no limit", hint="Run it without --limit")
    task.limit = limit
    return task


def choose(kind: str, known: Mapping[str, T], names: Iterable[str]) -> dict[str, T]:
    """Those of a mapping that are asked for, in the order asked; all if none is.

    Raises:
        UsageError: There is no such name; similar ones are proposed.
    """
    chosen: dict[str, T] = {}
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, n=3)
            meant = f"Did you mean {' or '.join(close)}? " if close else ""
            raise UsageError(
                f"there is no {kind} {name!r}",
                hint=f"{meant}`p2u eval list` shows all: {', '.join(known)}",
            )
        chosen[name] = known[name]
    return chosen or dict(known)
