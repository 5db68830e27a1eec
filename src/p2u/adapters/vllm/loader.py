"""vLLM's load format ``p2u``: a cold start from a package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from p2u.adapters.torch.tensors import view
from p2u.adapters.vllm.sources import source_of
from p2u.errors import UsageError

if TYPE_CHECKING:
    import torch

_KNOWN = frozenset({"source", "version", "timeout", "cache", "jobs"})


class LoaderMethods:
    """Our part of the loader; the other one is vLLM's ``BaseModelLoader``.

    The model's directory has configuration and tokenizer, the package has the weights. Options in
    ``model_loader_extra_config``: ``source`` (path or URL of the package), ``version`` (by default
    the newest), ``timeout`` (seconds to wait for it), ``cache``, ``jobs``.

    Args:
        load_config: vLLM's ``LoadConfig``.

    Raises:
        UsageError: An option is missing or unknown.
    """

    def __init__(self, load_config: Any) -> None:
        super().__init__(load_config)  # type: ignore[call-arg]
        options: dict[str, Any] = dict(load_config.model_loader_extra_config or {})
        unknown = sorted(options.keys() - _KNOWN)
        if unknown or "source" not in options:
            raise UsageError(
                f"the load format p2u has no option {', '.join(unknown)}"
                if unknown
                else "the load format p2u needs the package",
                hint='--model-loader-extra-config \'{"source": "URL"}\'; also '
                + ", ".join(sorted(_KNOWN - {"source"})),
            )
        self._options = options

    def download_model(self, model_config: Any) -> None:
        """Nothing: `load_weights` fetches."""

    def load_weights(self, model: torch.nn.Module, model_config: Any) -> None:
        """Load a version into a model that vLLM has just made.

        Raises:
            UsageError: The package has no such version, or the model needs tensors that it lacks.
            P2UError: It cannot be read.
        """
        options = self._options
        source = source_of(
            options["source"], cache=options.get("cache", True), jobs=options.get("jobs")
        )
        staged = source.subscriber.fetch(options.get("version"), timeout=options.get("timeout"))
        if staged is None:
            raise UsageError("this process has loaded the package already")
        weights = [(name, view(staged, tensor)) for name, tensor in staged.select()]
        loaded = model.load_weights(weights)
        if loaded is not None:
            missing = {name for name, _ in model.named_parameters()} - set(loaded)
            if missing:
                names = ", ".join(sorted(missing)[:8])
                raise UsageError(
                    f"{staged.version} lacks tensors of the model: {names}", file=options["source"]
                )
        staged.commit()
        source.note(staged)


def loader_class() -> type:
    """The class for vLLM's registry."""
    from vllm.model_executor.model_loader.base_loader import BaseModelLoader

    return type("P2ULoader", (LoaderMethods, BaseModelLoader), {"__module__": __name__})
