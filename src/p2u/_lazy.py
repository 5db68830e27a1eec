"""Names of a package that are imported when they are first used, so that `import p2u` is quick."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


class LazyPackage(ModuleType):
    """A package whose public names live in modules that are imported on demand."""

    #: Public name to ``(module, attribute)``; without an attribute the name is the module.
    _lazy: Mapping[str, tuple[str, str | None]]

    def __getattr__(self, name: str) -> Any:
        if name not in self._lazy:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        where, attribute = self._lazy[name]
        module = import_module(where)
        value = module if attribute is None else getattr(module, attribute)
        self.__dict__[name] = value
        return value

    def __dir__(self) -> Iterable[str]:
        return sorted({*self.__dict__, *self._lazy})

    def __setattr__(self, name: str, value: object) -> None:
        # Importing a module `pack` would set it as the package's attribute, over the function.
        if name in self._lazy and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)


def make_lazy(package: str, names: Mapping[str, tuple[str, str | None]]) -> None:
    """Let a package import these names when they are first used."""
    module = sys.modules[package]
    module.__dict__["_lazy"] = names
    module.__class__ = LazyPackage
