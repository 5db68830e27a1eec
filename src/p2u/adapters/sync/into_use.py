"""Publish a trainer's weights at once, and bring a version into use in a vLLM server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from p2u.adapters.sync.publisher import Published, Publisher

if TYPE_CHECKING:
    import torch


def publish_at_once(
    publisher: Publisher, weights: dict[str, torch.Tensor], step: int | None = None
) -> Published:
    """Publish a version, and return when subscribers can fetch it.

    Args:
        publisher: Of the package.
        weights: By name; see `Publisher.publish`. Emptied when its snapshot is taken, so that what
            was gathered for it is free while the version is made.
        step: The trainer's; by default one more than the last.

    Raises:
        P2UError: It could not be published.
    """
    publisher.publish(weights, step)
    weights.clear()
    publisher.flush()
    return publisher.published[-1]


def load_version(client: Any, version: str) -> None:
    """Have a server fetch a version while it answers, and load it within a pause.

    Args:
        client: vLLM's ``VLLMWeightSyncClient``, or one like it. It may have more than vLLM asks
            for: ``collective_rpc``, so that workers fetch ahead; ``pause`` and ``resume``;
            ``reset_prefix_cache``, since vLLM keeps what the weights before have computed.
        version: Its name.

    Raises:
        The errors of the client: the server could not load it, and goes on with its version.
    """
    if hasattr(client, "collective_rpc"):
        client.collective_rpc("p2u_fetch", args=(version,))
    with _paused(client):
        client.start_weight_update()
        client.update_weights({"version": version})
        client.finish_weight_update(version)
        if hasattr(client, "reset_prefix_cache"):
            client.reset_prefix_cache()


@contextlib.contextmanager
def _paused(client: Any) -> Iterator[None]:
    """Let the engine answer nothing within the block, if the client can."""
    if not hasattr(client, "pause"):
        yield
        return
    client.pause()
    try:
        yield
    finally:
        client.resume()
