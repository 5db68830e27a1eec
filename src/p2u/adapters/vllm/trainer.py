"""vLLM's weight transfer backend ``p2u``, on the side of the trainer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from p2u.adapters.sync.into_use import load_version, publish_at_once
from p2u.adapters.sync.publisher import Published, Publisher
from p2u.adapters.vllm.composing import lazy_class
from p2u.errors import UsageError

if TYPE_CHECKING:
    import torch


@dataclass(slots=True)
class TrainerInfo:
    """The argument of ``WeightTransferTrainerFactory.trainer_init``.

    Attributes:
        package: The package's folder, or its URL in a store that can be written.
        source: Path or URL under which vLLM's workers read it; by default ``package``.
        rank: Of this trainer process; rank 0 publishes.
        timeout: Most seconds for which workers wait for a version.
        options: Of `p2u.sync.Publisher`.
    """

    backend: ClassVar[str] = "p2u"

    package: str
    source: str | None = None
    rank: int = 0
    timeout: float = 60.0
    options: dict[str, Any] = field(default_factory=dict)


class TrainerMethods:
    """Our part of the trainer's engine; the other one is vLLM's ``TrainerWeightTransferEngine``.

    `load_version` says what the client may have beyond what vLLM asks for; `HttpClient` has it all.
    """

    # Of vLLM's part.
    client: Any
    source: Any
    is_sender: bool

    publisher: Publisher | None = None

    @classmethod
    def trainer_init(cls, init_info: TrainerInfo, *, client: Any, source: Any = None) -> Any:
        """Open the package, and name it to the workers.

        Raises:
            UsageError: There is no source of weights, or rank 0 does not get all of them.
            The errors of `Publisher`, and of the client.
        """
        if source is None:
            raise UsageError(
                "the backend p2u needs a WeightSource", hint="source=ModuleSource(model)"
            )
        if init_info.rank == 0:
            _check_whole(source)
        made: Any = cls(client=client, source=source, is_sender=init_info.rank == 0)  # type: ignore[call-arg]
        if made.is_sender:
            made.publisher = Publisher(init_info.package, **init_info.options)
            client.init_weight_transfer_engine(
                {"source": init_info.source or init_info.package, "timeout": init_info.timeout}
            )
        return made

    def send_weights(self, step: int | None = None) -> Published | None:
        """Publish the weights, and bring them into use; on every rank of the trainer.

        Args:
            step: The trainer's; by default one more than the last.

        Returns:
            The version; None on ranks that do not publish.

        Raises:
            P2UError: It could not be published.
            The errors of the client: a worker could not use it, and stays at its version.
        """
        weights = dict(_pairs(self.source))  # a collective: on every rank
        if self.publisher is None:
            return None
        found = publish_at_once(self.publisher, weights, step)
        load_version(self.client, found.version)
        return found

    def shutdown(self) -> None:
        """Publish what waits, and close the package."""
        publisher, self.publisher = self.publisher, None
        if publisher is not None:
            publisher.close()


def _check_whole(source: Any) -> None:
    """Raise UsageError if rank 0 owns a part of the parameters only; vLLM 0.33 knows that."""
    if not hasattr(source, "owned_names"):
        return
    missing = sorted({found.name for found in source.metadata} - set(source.owned_names(0)))
    if missing:
        raise UsageError(
            f"rank 0 of the trainer does not own {', '.join(missing[:8])}, and it publishes all",
            hint="Give it a source whose rank 0 owns every parameter",
        )


def _pairs(source: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and whole tensors of a ``WeightSource``, of vLLM 0.32 or of 0.33."""
    found: Iterator[tuple[str, torch.Tensor]] = (
        source.iter_full() if hasattr(source, "iter_full") else iter(source)
    )
    return found


def _base() -> type:
    from vllm.distributed.weight_transfer import TrainerWeightTransferEngine

    found: type = TrainerWeightTransferEngine
    return found


#: ``TrainerEngine``, for vLLM's registry.
__getattr__ = lazy_class("TrainerEngine", TrainerMethods, _base)
