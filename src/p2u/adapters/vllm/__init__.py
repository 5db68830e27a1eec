"""The adapter of vLLM, ``p2u.adapters.vllm``; needs the extra ``p2u-models[vllm]``.

vLLM finds `register` by itself, in its entry points ``vllm.general_plugins``. From then on it knows
the weight transfer backend ``p2u`` and the load format ``p2u``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2u.adapters.extras import adapter_names

if TYPE_CHECKING:
    from p2u.adapters.vllm.http_client import HttpClientMethods as HttpClient
    from p2u.adapters.vllm.plugin import register
    from p2u.adapters.vllm.trainer import TrainerInfo
    from p2u.adapters.vllm.worker import WorkerExtension

__all__ = ["HttpClient", "TrainerInfo", "WorkerExtension", "register"]

__getattr__, __dir__ = adapter_names(
    __name__,
    {
        "HttpClient": ("p2u.adapters.vllm.http_client", "HttpClient"),
        "TrainerInfo": ("p2u.adapters.vllm.trainer", "TrainerInfo"),
        "WorkerExtension": ("p2u.adapters.vllm.worker", "WorkerExtension"),
        "register": ("p2u.adapters.vllm.plugin", "register"),
    },
    library="vllm",
    extra="vllm",
)
