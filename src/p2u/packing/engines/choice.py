"""The table of engines: each is imported when it is first used."""

from __future__ import annotations

from importlib import import_module

from p2u.errors import UsageError
from p2u.packing.engines.engine import Engine
from p2u.packing.settings import PackSettings

#: Name to ``module:name`` of what is called with `PackSettings` and returns an `Engine`.
ENGINES: dict[str, str] = {
    "local": "p2u.packing.engines.local:open_local",
    "ray": "p2u.adapters.ray.engine:open_ray",
}


def open_engine(settings: PackSettings) -> Engine:
    """The engine that the settings choose; the caller closes it.

    Raises:
        UsageError: There is no such engine, or its settings are not valid.
        UnsupportedError: Its library is not installed.
        WorkerError: It cannot start.
    """
    name = settings.engine.name
    if name not in ENGINES:
        raise UsageError(f"there is no engine {name!r}", hint=f"Choose {' or '.join(ENGINES)}")
    module, _, function = ENGINES[name].partition(":")
    engine: Engine = getattr(import_module(module), function)(settings)
    return engine
