"""Methods that ``collective_rpc`` can call in vLLM's workers."""

from __future__ import annotations

from typing import Any


class WorkerExtension:
    """For ``--worker-extension-cls p2u.adapters.vllm.worker.WorkerExtension``."""

    weight_transfer_engine: Any

    def p2u_fetch(self, version: str | None = None, timeout: float | None = None) -> str | None:
        """Fetch, decode and check a version while the engine answers.

        The next ``update_weights`` for it then only loads it.

        Args:
            version: Its name; None: the newest.
            timeout: Most seconds, also to wait for its publication.

        Returns:
            Its name; None if the model has it.

        Raises:
            See `EngineMethods.fetch`.
        """
        found: str | None = self.weight_transfer_engine.fetch(version, timeout)
        return found

    def p2u_version(self) -> str | None:
        """Name of the version that the model has; None before the first update."""
        source = self.weight_transfer_engine._source
        return None if source is None else source.version
