"""TRL's weight transfer: the policy of an ``AsyncGRPOTrainer`` reaches engines as versions.

``AsyncGRPOTrainer(..., weight_transfer=WeightTransfer(package))``; see docs/rl.md. Written for TRL
1.16, which itself is not imported.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from p2u.adapters.sync.into_use import load_version, publish_at_once
from p2u.adapters.sync.publisher import Published, Publisher
from p2u.errors import UsageError

if TYPE_CHECKING:
    import torch

_log = logging.getLogger("p2u")


class WeightTransfer:
    """Publishes the policy, and brings each version into use; see TRL's ``WeightTransferProtocol``.

    TRL pauses its engines before it has gathered anything. Here they go on to answer meanwhile, and
    are paused only when the version is published.

    Args:
        package: Path of the package that is written, or its URL in a store (docs/stores.md).
        client: TRL's ``VLLMClient`` of a server that has the backend ``p2u``: docs/rl.md. None:
            engines follow the package by themselves (`p2u watch`, `p2u.sync.Subscriber`).
        source: Path or URL under which the server reads the package. None: ``package``.
        timeout: Most seconds that the server takes to load a version.
        options: Further ones of `p2u.sync.Publisher`.
    """

    def __init__(
        self,
        package: str | os.PathLike[str],
        client: Any = None,
        *,
        source: str | None = None,
        timeout: float = 1800.0,
        **options: Any,
    ) -> None:
        self._package = package
        self._client = client
        self._source = source or os.fspath(package)
        self._timeout = timeout
        self._options = {"when_busy": "wait", **options}
        self._publisher: Publisher | None = None
        #: The last version that was published.
        self.published: Published | None = None

    def init_weight_transfer(self) -> None:
        """Open the package, and name it to the server.

        Raises:
            BusyError: Another trainer publishes to this package.
            P2UError: The package cannot be read.
            The errors of the client.
        """
        if self._publisher is None:
            self._publisher = Publisher(self._package, **self._options)
        if self._client is not None:
            self._client.wait_for_server_ready()
            info = {"source": self._source, "timeout": self._timeout}
            self._client.init_weight_transfer_engine(info, timeout=self._timeout)

    def pause(self) -> None:
        """Does nothing: `send_weights` pauses the server for as long as it loads."""

    def send_weights(self, iterator: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Publish a version, and have the server load it.

        Args:
            iterator: Names and tensors; TRL gathers each one as it is asked for.

        Raises:
            P2UError: It could not be published; the server stays at its version.
            The errors of the client: the server could not load it, and goes on with its version.
        """
        if self._publisher is None:
            raise UsageError("init_weight_transfer() was not called")
        # Copies: TRL's memory may be used again for the next tensor.
        weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in iterator}
        self.published = publish_at_once(self._publisher, weights)
        _log.info("published %s: %s bytes", self.published.version, self.published.bytes)
        if self._client is not None:
            load_version(_TrlServer(self._client, self._timeout), self.published.version)

    def resume(self) -> None:
        """Does nothing: see `pause`."""

    def destroy(self) -> None:
        """Close the package; any number of times."""
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            publisher.close()


class _TrlServer:
    """TRL's client of a server as `load_version` calls it, with the routes that TRL lacks."""

    def __init__(self, client: Any, timeout: float) -> None:
        self._client = client
        self._timeout = timeout

    def collective_rpc(self, method: str, args: tuple[str, ...]) -> None:
        try:
            self._post("collective_rpc", {"method": method, "args": list(args)})
        except URLError as error:  # without our worker extension it fetches within the pause
            _log.debug("the server does not fetch ahead: %s", error)

    def pause(self) -> None:
        self._client.pause(timeout=self._timeout)

    def start_weight_update(self) -> None:
        self._client.start_weight_update(timeout=self._timeout)

    def update_weights(self, update_info: dict[str, str]) -> None:
        self._client.update_weights(update_info, timeout=self._timeout)

    def finish_weight_update(self, version: str) -> None:
        self._client.finish_weight_update(timeout=self._timeout)  # TRL's names no version

    def reset_prefix_cache(self) -> None:
        self._post("reset_prefix_cache?reset_running_requests=true")

    def resume(self) -> None:
        self._client.resume(timeout=self._timeout)

    def _post(self, route: str, body: dict[str, Any] | None = None) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        request = Request(
            f"{self._client.server_url}/{route}", data, {"Content-Type": "application/json"}
        )
        with urlopen(request, timeout=self._timeout) as response:
            response.read()
