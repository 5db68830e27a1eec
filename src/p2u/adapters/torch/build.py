"""Build modules without weights: parameters on the meta device, everything else real."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from p2u.errors import UsageError

if TYPE_CHECKING:
    from typing import TypeAlias

    import torch

    #: A module, or what makes one.
    Source: TypeAlias = torch.nn.Module | Callable[[], torch.nn.Module]

#: Makers of tensors whose values are arbitrary, or random: those of parameters to be loaded.
_MAKERS = ("empty", "rand", "randn")
#: Methods that give them others. On meta, some would import TorchDynamo, which takes seconds.
_RANDOM = (
    *("normal_", "uniform_", "exponential_", "geometric_", "log_normal_", "cauchy_"),
    *("random_", "bernoulli_"),
)


def build(source: Source) -> torch.nn.Module:
    """The module; a callable is run such that parameters take neither memory nor time.

    Raises:
        UsageError: It is neither a module nor a callable that returns one.
    """
    import torch

    if isinstance(source, torch.nn.Module):
        return source
    if not callable(source):
        raise UsageError(
            f"expected an nn.Module or a callable that makes one, not {type(source).__name__}"
        )
    try:
        with _skeleton():
            model = source()
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        # It computes with what is on the meta device. If the reason is another, it comes again.
        with torch.device("meta"):
            model = source()
    if not isinstance(model, torch.nn.Module):
        raise UsageError(
            f"the factory returned a {type(model).__name__}, an nn.Module was expected",
            hint="Pass a function without arguments: lambda: MyModel(config)",
        )
    return model


def _skeleton() -> Any:
    """A mode in which new tensors of arbitrary content are on the meta device.

    Under ``torch.device("meta")`` buffers that the constructor computes (rotary frequencies,
    position numbers) would be lost, too, and no file has those that are not persistent.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    makers = {getattr(torch, name) for name in _MAKERS}
    random = {getattr(torch.Tensor, name) for name in _RANDOM}

    class Skeleton(TorchFunctionMode):  # type: ignore[misc]
        def __torch_function__(
            self, call: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = dict(kwargs or {})
            if call in makers and kwargs.get("device") is None:
                kwargs.pop("generator", None)
                return torch.empty(*args, **{**kwargs, "device": "meta"})
            if call in random or getattr(call, "__module__", None) == "torch.nn.init":
                target = args[0] if args else kwargs.get("tensor")
                if isinstance(target, torch.Tensor) and target.is_meta:
                    return target
            return call(*args, **kwargs)

    return Skeleton()


def fill(model: torch.nn.Module, source: Source, keep: bool) -> list[str]:
    """Give values to what is still without: from the callable, run again with real tensors.

    Args:
        model: Loaded, some tensors still on the meta device.
        source: What it was built from.
        keep: Whether parameters without values are allowed: they get the callable's initial ones.

    Returns:
        Names of these parameters.

    Raises:
        UsageError: There are parameters without values, or no callable to run.
    """
    import torch

    places = list(_places(model))
    if not places:
        return []
    names = [name for _, _, name in places]
    fresh = [name for owner, key, name in places if key in owner._parameters]
    if isinstance(source, torch.nn.Module) or (fresh and not keep):
        raise UsageError(
            f"no values for {', '.join((fresh or names)[:8])}, which the package does not have",
            hint="Pass a callable that makes the model, so that others than the package's tensors "
            "can be computed; strict=False lets it make missing parameters, too",
        )
    made = source()
    for owner, key, name in places:
        path = name.rpartition(".")[0]
        other = made.get_submodule(path) if path else made
        value = _slot(other, key)[key]
        _slot(owner, key)[key] = value
    return fresh


def _slot(owner: torch.nn.Module, key: str) -> dict[str, Any]:
    """The dictionary of a module that has this name."""
    for found in (owner._parameters, owner._buffers, owner.__dict__):
        if key in found:
            return found  # type: ignore[no-any-return]
    raise UsageError(
        f"a second run of the factory made no {key!r}; each run must make the same model"
    )


def _places(model: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, str, str]]:
    """``(module, key, full name)`` of each parameter, buffer and plain attribute on meta."""
    import torch

    for path, owner in model.named_modules():
        for found in (owner._parameters, owner._buffers, owner.__dict__):
            for key, value in found.items():
                if isinstance(value, torch.Tensor) and value.is_meta:
                    yield owner, key, f"{path}.{key}" if path else key
