"""vLLM's weight transfer backend ``p2u``, on the side of the worker."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from p2u.adapters.torch.tensors import TensorMemory, view
from p2u.adapters.vllm.composing import lazy_class
from p2u.adapters.vllm.reloading import load_in_place
from p2u.adapters.vllm.sources import PackageSource, close_source, source_of
from p2u.client.live.staged_version import StagedVersion, layer_of
from p2u.errors import IntegrityError, UsageError
from p2u.package.layout import Tensor

if TYPE_CHECKING:
    import torch

_log = logging.getLogger("p2u")


@dataclass(slots=True)
class InitInfo:
    """The argument of ``init_weight_transfer_engine``.

    Attributes:
        source: Path or URL of the package, as the worker sees it.
        timeout: Most seconds to wait for a version that is asked for by name.
        cache: Of a package on another machine: fetch each version once per machine, for all ranks.
        jobs: Threads, see `p2u.TransferOptions`.
        allow_nan: Load versions that have NaN among their weights, too. NaN stays in vLLM's KV
            cache, so that later versions answer NaN.
    """

    source: str
    timeout: float = 60.0
    cache: bool = True
    jobs: int | None = None
    allow_nan: bool = False


@dataclass(slots=True)
class UpdateInfo:
    """The argument of ``update_weights``.

    Attributes:
        version: Name of the version; None: the newest.
        timeout: Instead of that of `InitInfo`.
    """

    version: str | None = None
    timeout: float | None = None


class EngineMethods:
    """Our part of the worker's engine; the other one is vLLM's ``WeightTransferEngine``.

    vLLM calls `start_weight_update`, `receive_weights`, `finish_weight_update`. Only the second
    knows the version, so all is done there, in this order: fetch and check, load, commit. An error
    before the loading touches nothing; one within it loads the old weights again.
    """

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo
    supports_draft_weight_update = False

    # Of vLLM's part.
    vllm_config: Any
    model_config: Any
    model: torch.nn.Module

    _source: PackageSource | None = None
    _timeout = 60.0
    _allow_nan = False
    _staged: StagedVersion | None = None

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        """Choose the package; nothing is read yet."""
        self._source = source_of(init_info.source, cache=init_info.cache, jobs=init_info.jobs)
        self._timeout, self._allow_nan = init_info.timeout, init_info.allow_nan

    def start_weight_update(self) -> None:
        """Nothing: the version is not known yet."""

    def finish_weight_update(self) -> None:
        """Nothing: `receive_weights` has done all."""

    def shutdown(self) -> None:
        """Close the package. The model keeps its weights."""
        source, self._source, self._staged = self._source, None, None
        if source is not None:
            close_source(source)

    def fetch(self, version: str | None = None, timeout: float | None = None) -> str | None:
        """Stage a version while the engine answers; see `WorkerExtension.p2u_fetch`.

        Raises:
            UsageError: No package was chosen, or it has no such version.
            TimeoutError: It took longer.
            IntegrityError: It has NaN among its weights.
            P2UError: What keeps the version away.
        """
        found = self._staged
        if found is None or version not in (found.version, found.target.id):
            self._staged = None
            limit = self._timeout if timeout is None else timeout
            found = self._chosen().subscriber.fetch(version, timeout=limit)
            if found is not None and not self._allow_nan:
                _refuse_nan(found)
            self._staged = found
        return None if found is None else found.version

    def receive_weights(self, update_info: UpdateInfo) -> None:
        """Bring a version into the model; called while vLLM answers nothing.

        Raises:
            The errors of `fetch`; the model stays at its version.
            UsageError: vLLM could not load it. The model has the weights before again, or if the
                message says so, of no version.
        """
        begin = time.monotonic()
        if self._staged is None or update_info.version is not None:
            self.fetch(update_info.version, update_info.timeout)
        staged, source = self._staged, self._chosen()
        if staged is None:
            return  # the model has it
        known = staged.begins_at(source.loaded)
        chosen = staged.select(source.loaded if known else None, layer_of)
        middle = time.monotonic()
        try:
            load_in_place(self.model, self.model_config, _tensors(staged, chosen))
        except Exception as error:  # noqa: BLE001 - whatever vLLM's loaders raise
            self._restore(staged, chosen if known else None, error)
        staged.commit()
        source.note(staged)
        self._staged = None
        _log.info(
            "vLLM is at %s: %d of %d tensors; fetching %.3f s, loading %.3f s", staged.version,
            len(chosen), len(staged.names), middle - begin, time.monotonic() - middle,
        )  # fmt: skip

    def _restore(
        self, staged: StagedVersion, chosen: list[tuple[str, Tensor]] | None, error: Exception
    ) -> None:
        """Load the weights before again, and raise.

        Args:
            staged: The version that could not be loaded.
            chosen: Its tensors, if the subscriber has the model's weights; None: vLLM's own loader
                has them.
            error: The reason.
        """
        source = self._chosen()
        what = f"vLLM could not load {staged.version} ({error})"
        try:
            if chosen is not None:
                load_in_place(self.model, self.model_config, _tensors(staged.memory, chosen))
            elif source.loaded is None:
                load_in_place(self.model, self.model_config, self._first_weights())
            else:
                raise UsageError("the weights before are not at hand")
        except Exception as second:  # noqa: BLE001 - as above
            # The next version is fetched and loaded as a whole.
            self.shutdown()
            raise UsageError(
                f"{what}, nor the weights before ({second}): those it has are of no version",
                hint="Do not serve from this engine: start it anew, or initialise the transfer and "
                "update it again",
            ) from error
        staged.discard()
        self._staged = None
        before = source.version or "the weights that it was started with"
        raise UsageError(f"{what}; the engine has {before} again") from error

    def _first_weights(self) -> Iterable[tuple[str, torch.Tensor]]:
        """The weights that the engine was started with, from vLLM's loader."""
        from vllm.model_executor.model_loader import get_model_loader

        loader = get_model_loader(self.vllm_config.load_config)
        if not hasattr(loader, "get_all_weights"):
            raise UsageError("vLLM's loader does not give the first weights again")
        found: Iterable[tuple[str, torch.Tensor]] = loader.get_all_weights(
            self.model_config, self.model
        )
        return found

    def _chosen(self) -> PackageSource:
        if self._source is None:
            raise UsageError(
                "no package was chosen", hint="Call init_weight_transfer_engine with its source"
            )
        return self._source


def _refuse_nan(staged: StagedVersion) -> None:
    """Discard a version that has NaN among the weights that it changes.

    Raises:
        IntegrityError: It has.
    """
    for name in staged.changed:
        tensor = view(staged, staged.tensor(name))
        if tensor.is_floating_point() and bool(tensor.isnan().any()):
            staged.discard()
            raise IntegrityError(
                f"{staged.version} has NaN among its weights",
                tensor=name,
                hint="The trainer has diverged. To load it all the same: allow_nan",
            )


def _tensors(
    memory: TensorMemory, chosen: list[tuple[str, Tensor]]
) -> Iterable[tuple[str, torch.Tensor]]:
    return ((name, view(memory, tensor)) for name, tensor in chosen)


def _base() -> type:
    from vllm.distributed.weight_transfer import WeightTransferEngine

    found: type = WeightTransferEngine
    return found


#: ``WeightEngine``, for vLLM's registry.
__getattr__ = lazy_class("WeightEngine", EngineMethods, _base)
