"""All that an update needs of a vLLM server, over HTTP."""

from __future__ import annotations

from typing import Any

from p2u.adapters.vllm.composing import lazy_class


class HttpClientMethods:
    """Our part of the client; the other one is vLLM's ``HTTPVLLMWeightSyncClient``.

    The server has these routes with ``VLLM_SERVER_DEV_MODE=1``, and `collective_rpc` finds our
    methods with ``--worker-extension-cls p2u.adapters.vllm.worker.WorkerExtension``.
    """

    # Of vLLM's part.
    _post: Any

    def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> None:
        """Call a method of each worker."""
        self._post("collective_rpc", {"method": method, "args": list(args)})

    def pause(self) -> None:
        """Answer nothing; requests that run wait."""
        self._post("pause?mode=keep")

    def resume(self) -> None:
        """Answer again."""
        self._post("resume")

    def reset_prefix_cache(self) -> None:
        """Forget what the weights before have computed, for running requests, too."""
        self._post("reset_prefix_cache?reset_running_requests=true")


def _base() -> type:
    from vllm.distributed.weight_transfer import HTTPVLLMWeightSyncClient

    found: type = HTTPVLLMWeightSyncClient
    return found


#: ``HttpClient``.
__getattr__ = lazy_class("HttpClient", HttpClientMethods, _base)
