"""Load tensors into a model of vLLM that is in use, by vLLM's own layerwise reload."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def load_in_place(
    model: torch.nn.Module, config: Any, weights: Iterable[tuple[str, torch.Tensor]]
) -> None:
    """Replace weights of a model, which has them packed and sharded as vLLM likes it.

    Args:
        model: The worker's.
        config: vLLM's ``ModelConfig``.
        weights: Names and tensors as in the checkpoint; they have to stay until the return. Of
            modules that vLLM fuses, all tensors or none: memory of those that are missing would not
            be initialised.

    Raises:
        Whatever vLLM's loaders raise: the model holds a mixture then, until a call with all that
        this one was given, or more.
    """
    import torch
    from vllm.model_executor.model_loader.reload import (
        finalize_layerwise_reload,
        initialize_layerwise_reload,
    )

    with torch.no_grad():
        initialize_layerwise_reload(model)
        try:
            with _in_part():
                model.load_weights(weights)
        except BaseException:
            # Back to a model that can be loaded again; what it holds does not matter.
            with contextlib.suppress(Exception):
                finalize_layerwise_reload(model, config)
            raise
        finalize_layerwise_reload(model, config)
        pack_tied(model)


def _in_part() -> contextlib.AbstractContextManager[None]:
    """Let models that predict several tokens be loaded in part; vLLM refuses that otherwise."""
    try:
        from vllm.model_executor.model_loader.mtp_validation import disable_mtp_completeness_check
    except ImportError:
        return contextlib.nullcontext()
    found: contextlib.AbstractContextManager[None] = disable_mtp_completeness_check()
    return found


def pack_tied(model: torch.nn.Module) -> None:
    """Renew packed copies of weights that several modules share.

    On a CPU vLLM packs the weight of ``lm_head``. If the head is tied to the embeddings, no tensor
    is loaded for it, and a reload leaves the packed copy as it was.
    """
    owners: dict[int, list[torch.nn.Module]] = defaultdict(list)
    for module in model.modules():
        weight = module._parameters.get("weight")
        if weight is not None and weight.numel() and not weight.is_meta:
            owners[weight.data_ptr()].append(module)
    for modules in owners.values():
        for module in modules if len(modules) > 1 else ():
            if hasattr(module, "cpu_linear"):
                module.quant_method.process_weights_after_loading(module)
