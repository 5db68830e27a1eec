"""The entry point that vLLM calls in each of its processes."""

from __future__ import annotations

#: Name of the weight transfer backend and of the load format.
BACKEND = "p2u"


def register() -> None:
    """Make the backend and the load format known to vLLM; any number of times."""
    from vllm.distributed.weight_transfer import (
        WeightTransferEngineFactory,
        WeightTransferTrainerFactory,
    )
    from vllm.model_executor import model_loader

    from p2u.adapters.vllm.loader import loader_class

    for factory, module, name in (
        (WeightTransferEngineFactory, "p2u.adapters.vllm.engine", "WeightEngine"),
        (WeightTransferTrainerFactory, "p2u.adapters.vllm.trainer", "TrainerEngine"),
    ):
        if BACKEND not in factory._registry:
            factory.register_engine(BACKEND, module, name)
    if BACKEND not in model_loader._LOAD_FORMAT_TO_MODEL_LOADER:
        model_loader.register_model_loader(BACKEND)(loader_class())
