"""verl's checkpoint engine ``p2u``: a trainer's weights reach the rollout ranks as versions.

Import it by ``checkpoint_engine.custom_backend_module=p2u.adapters.verl``; docs/rl.md has the whole
configuration. Written for verl 0.9.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any

from p2u.adapters.extras import check_library
from p2u.adapters.sync.into_use import publish_at_once
from p2u.adapters.sync.publisher import Publisher
from p2u.adapters.sync.subscriber import Subscriber
from p2u.adapters.torch.tensors import view
from p2u.client.live.staged_version import layer_of
from p2u.errors import UsageError

if TYPE_CHECKING:
    import torch

    from p2u.client.live.staged_version import StagedVersion


class CheckpointMethods:
    """Our part of the checkpoint engine; the other one is verl's ``CheckpointEngine``.

    It publishes on the trainer's first rank, and fetches on every rollout rank. A rollout rank
    gives its engine all tensors the first time, and then those of the layers that a version
    changes. If a synchronisation fails anywhere, the next one gives all tensors again.

    Args:
        bucket_size: verl's; not used, since tensors are not sent through buckets.
        is_master: This is the trainer's first rank.
        package: Path or URL of the package that is written: on a disk that all machines share, or
            in a store that can be written (docs/stores.md).
        source: Path or URL that it is read from. None: ``package``.
        timeout: Most seconds that a rollout rank waits for a version.
        options: Further ones of `p2u.sync.Publisher`.

    Raises:
        UsageError: ``package`` is missing.
    """

    def __init__(
        self,
        bucket_size: int,
        is_master: bool = False,
        *,
        package: str = "",
        source: str | None = None,
        timeout: float = 1800.0,
        **options: Any,
    ) -> None:
        if not package:
            raise UsageError(
                "the package is not given",
                hint="Set checkpoint_engine.engine_kwargs.p2u.package to a path or URL",
            )
        self._package = package
        self._source = source or package
        self._timeout = timeout
        self._options = options
        self._master = is_master
        self._publisher: Publisher | None = None
        self._subscriber: Subscriber | None = None
        #: Name of the version before the one that is on its way; None: there was none.
        self._before: str | None = None
        #: Digest of the state that the engine has; None: it has to get all tensors.
        self._have: str | None = None

    def prepare(self) -> dict[str, Any]:
        """See `CheckpointEngine.prepare`: the trainer's first rank names the newest version.

        Raises:
            BusyError: Another trainer publishes to this package.
            P2UError: The package cannot be read.
        """
        if not self._master:
            return {}
        if self._publisher is None:
            options = {"when_busy": "wait", **self._options}
            self._publisher = Publisher(self._package, **options)
        return {"before": self._open().latest()}

    @classmethod
    def build_topology(
        cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list[dict[str, Any]]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        """See `CheckpointEngine.build_topology`: no rank is connected with another."""
        before = next((found["before"] for found in metadata if "before" in found), None)
        return (
            {"before": [before] * actor_wg_world_size},
            {"before": [before] * rollout_world_size},
        )

    def init_process_group(self, *, before: str | None) -> None:
        """See `CheckpointEngine.init_process_group`: the version to come is not this one."""
        self._before = before

    def finalize(self) -> None:
        """See `CheckpointEngine.finalize`: what is open serves the next version."""

    async def send_weights(
        self, weights: Iterable[tuple[str, torch.Tensor]], global_steps: int | None = None
    ) -> dict[str, float]:
        """See `CheckpointEngine.send_weights`; other ranks only take part in verl's gathering.

        Returns:
            On the first rank the version's bytes, and the seconds to copy and to publish it.

        Raises:
            P2UError: It could not be published.
        """
        from verl.workers.rollout.utils import ensure_async_iterator

        begin = time.monotonic()
        tensors = {}
        async for name, tensor in ensure_async_iterator(weights):
            if self._publisher is not None:
                # The trainer may use the memory again for the next tensor.
                tensors[name] = tensor.detach().to("cpu", copy=True)
        if self._publisher is None:
            return {}
        taken = time.monotonic()
        found = await asyncio.to_thread(publish_at_once, self._publisher, tensors, global_steps)
        return {
            "p2u/bytes": float(found.bytes),
            "p2u/copy_seconds": taken - begin,
            "p2u/publish_seconds": time.monotonic() - taken,
        }

    async def receive_weights(
        self, global_steps: int | None = None
    ) -> AsyncIterator[tuple[str, torch.Tensor]]:
        """See `CheckpointEngine.receive_weights`: waits for the version, and yields its tensors.

        The tensors are views that stay valid until the next call.

        Args:
            global_steps: Not used: the version to come is the one after that of `prepare`.

        Raises:
            TimeoutError: It was not published in time.
            P2UError: It could not be fetched, and nothing was yielded.
        """
        staged = await asyncio.to_thread(self._fetch)
        if staged is None:
            return
        have, self._have = self._have, None
        known = have if staged.begins_at(have) else None
        for name, tensor in staged.select(known, layer_of):
            yield name, view(staged, tensor)
        staged.commit()
        self._have = staged.digest

    def close(self) -> None:
        """Publish what waits, and end; verl itself ends with the process instead."""
        if self._publisher is not None:
            self._publisher.close()
        if self._subscriber is not None:
            self._subscriber.close()

    def _open(self) -> Subscriber:
        if self._subscriber is None:
            self._subscriber = Subscriber(self._source)
        return self._subscriber

    def _fetch(self) -> StagedVersion | None:
        """The version that is on its way; None if it is here already."""
        subscriber = self._open()
        end = time.monotonic() + self._timeout
        try:
            version = subscriber.wait_after(self._before, self._timeout)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; see the trainer's log") from None
        return subscriber.fetch(version, timeout=max(0.0, end - time.monotonic()))


def register() -> None:
    """Make the backend ``p2u`` known to verl; importing this module does it.

    Raises:
        UnsupportedError: verl is not installed.
    """
    check_library("verl", "torch", "p2u.adapters.verl")
    from verl.checkpoint_engine.base import CheckpointEngine, CheckpointEngineRegistry

    own = {"__module__": __name__}
    made = type("P2UCheckpointEngine", (CheckpointMethods, CheckpointEngine), own)
    CheckpointEngineRegistry.register("p2u")(made)


register()
