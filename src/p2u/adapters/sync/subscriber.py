"""``p2u.sync.Subscriber``: bring a model to the newest version that a trainer published."""

from __future__ import annotations

import mmap
import os
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2u.adapters.sync.newest import NewestVersion
from p2u.adapters.sync.steps import step_of
from p2u.adapters.torch.dtypes import torch_shape
from p2u.adapters.torch.names import choose_tensors, rename
from p2u.adapters.torch.tensors import synchronizer, view
from p2u.client.folder import state_file
from p2u.client.folder.pull import run_pull
from p2u.client.folder.pull_task import PullTask
from p2u.client.live.memory import ModelMemory
from p2u.client.live.plan import LivePlan
from p2u.client.live.replica import Replica
from p2u.client.live.staged_version import StagedVersion
from p2u.client.routes.live_routes import same_state
from p2u.client.transfer.checking import EXACT
from p2u.client.transfer.options import TransferOptions
from p2u.client.transfer.package_reader import PackageReader
from p2u.disk.errors import disk_errors
from p2u.errors import UnsupportedError, UsageError
from p2u.one_process import OneProcess
from p2u.package.manifest import MAX_MANIFEST, Manifest, State
from p2u.package.paths import MANIFEST_KEY
from p2u.stores import Store, open_store
from p2u.stores.backoff import Retry

if TYPE_CHECKING:
    import torch


class Subscriber(OneProcess):
    """Follows the package of a `Publisher`, or any other package with versions.

    `apply` looks for the newest version and copies it into a model; versions between are left out.
    Any number of subscribers may follow one package, each at its own pace.

    Args:
        source: Path or URL of the package.
        directory: Keep the model here as well: a directory as Hugging Face's libraries read it,
            with what the package has besides the weights, always one whole version. After a restart
            the subscriber goes on from there. Without it the model is kept in memory next to the
            one that it is applied to, and a restart begins anew.
        every: Seconds in which `apply` does not look again.
        weights: Pattern of paths of the files to load, where a package has several models.
        in_place: Of the directory, see ``p2u.pull``.
        jobs: Threads; see `p2u.TransferOptions`.
        limit_rate: Most bytes per second; see `p2u.TransferOptions`.
        retry: When to try again; see `p2u.TransferOptions`.
        cache: Several subscribers on this machine follow one package on another machine: fetch each
            version once; see `p2u.TransferOptions`.

    Raises:
        UsageError: An argument is wrong. Nothing is read yet.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        directory: str | os.PathLike[str] | None = None,
        every: float = 0.0,
        weights: str | None = None,
        in_place: bool = False,
        jobs: int | None = None,
        limit_rate: float | str | None = None,
        retry: Retry | None = None,
        cache: bool | str | os.PathLike[str] = False,
    ) -> None:
        if in_place and directory is None:
            raise UsageError("in_place needs a directory")
        options = TransferOptions(jobs=jobs, limit_rate=limit_rate, retry=retry, cache=cache)
        self._copy: _Memory | _Folder
        if directory is None:
            self._copy = _Memory(source, options)
        else:
            self._copy = _Folder(source, Path(directory), options, in_place)
        self._newest = NewestVersion(source, options)
        self._every = every
        self._weights = weights
        self._looked = -float("inf")
        #: The state of each module, the tensors given last and what they have, and the directory.
        self._has: weakref.WeakKeyDictionary[Any, State] = weakref.WeakKeyDictionary()
        self._tensors: tuple[dict[str, torch.Tensor], State] | None = None
        self._told: State | None = None
        self.register_forks()

    def after_fork(self, *, child: bool) -> None:
        """See `OneProcess.after_fork`: a child's next `apply` opens the package anew."""
        if child:
            self._copy.fork()
            self._newest.fork()

    @property
    def version(self) -> str | None:
        """Name of the newest version that is here; None before the first `apply`."""
        state = self._copy.state
        return None if state is None else state.version

    @property
    def step(self) -> int | None:
        """The trainer's step of it; None also for versions of other names than a publisher's."""
        version = self.version
        return None if version is None else step_of(version)

    def apply(
        self,
        model: torch.nn.Module | Mapping[str, torch.Tensor] | None = None,
        *,
        timeout: float | None = None,
    ) -> int:
        """Bring the newest version here and into a model, in place; cheap if there is none.

        Call it between two uses of the model: its tensors change one after the other. They are
        changed only once all of the version is here and checked.

        Args:
            model: A module, or names and tensors, on any device and of any floating-point dtype.
                A tensor that the package lacks stays as it is if it is tied to one that it has.
                None: only the directory is renewed.
            timeout: Most seconds to wait for a version.

        Returns:
            How many versions the model is further than before; 0 if it has the newest. The first
            time 1.

        Raises:
            UsageError: The model has other tensors.
            TimeoutError: It took longer; what has come is kept.
            P2UError: The package cannot be read, or its newest version is broken. The model stays
                as it is; call again.
        """
        now = time.monotonic()
        if now - self._looked >= self._every or self._copy.state is None:
            self._copy.renew(timeout)
            self._looked = now
        state = self._copy.state
        assert state is not None
        before = self._before(model)
        if before is not None and before.digest == state.digest:
            return 0
        if model is None:
            self._told = state
        else:
            self._copy.load(model, self._weights)
            if isinstance(model, Mapping):
                self._tensors = dict(model), state
            else:
                self._has[model] = state
        return _between(self._copy.manifest, before, state)

    def latest(self) -> str | None:
        """Name of the newest version; asks for ``p2u.json`` only, and only whether it is new.

        Returns:
            The name; None if the package has none yet.

        Raises:
            P2UError: The package cannot be read.
        """
        return self._newest.version()

    def wait_after(self, version: str | None, timeout: float) -> str:
        """Return the name of the newest version when it is another one than this.

        Args:
            version: What `latest` said.
            timeout: Most seconds.

        Raises:
            TimeoutError: None was published by then.
            P2UError: The package cannot be read.
        """
        return self._newest.wait_after(version, timeout)

    def fetch(
        self, version: str | None = None, *, timeout: float | None = None
    ) -> StagedVersion | None:
        """Fetch, decode and check a version, and touch nothing; for engines that load it.

        Args:
            version: Its name; it may be older than the one here. None: the newest.
            timeout: Most seconds to wait, also for a version that is not published yet. None: wait
                as long as it takes, but not for its publication.

        Returns:
            The version, for its `StagedVersion.commit`; None if it was committed already.

        Raises:
            UsageError: The package has no such version, or the subscriber has a directory.
            TimeoutError: It took longer; what has come is kept for the same call again.
            UnsupportedError: Its tensors are others than those here.
            P2UError: What keeps the version away; all stays as it is. Call again.
        """
        if not isinstance(self._copy, _Memory):
            raise UsageError(
                "a subscriber with a directory stages nothing", hint="Leave directory= out"
            )
        end = None if timeout is None else time.monotonic() + timeout
        if version is not None:
            self._newest.wait(version, timeout)
        left = None if end is None else max(0.0, end - time.monotonic())
        return self._copy.fetch(version, left)

    def _before(self, model: torch.nn.Module | Mapping[str, torch.Tensor] | None) -> State | None:
        """The state that an earlier `apply` gave a model; None if that is not known."""
        if model is None:
            return self._told
        if not isinstance(model, Mapping):
            return self._has.get(model)
        if self._tensors is None:
            return None
        # A state dict is made anew by each call: its memory tells. It is held, so it is no other's.
        held, state = self._tensors
        same = held.keys() == model.keys() and all(
            held[name].data_ptr() == tensor.data_ptr() for name, tensor in model.items()
        )
        return state if same else None

    def close(self) -> None:
        """End what runs; the model stays as it is."""
        self._copy.close()
        self._newest.close()

    def __repr__(self) -> str:
        return f"<p2u.sync.Subscriber at {self.version or 'nothing yet'}>"

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Memory:
    """The newest version in memory."""

    def __init__(self, source: str | os.PathLike[str], options: TransferOptions) -> None:
        self._source, self._options = source, options
        self._replica: Replica | None = None

    @property
    def state(self) -> State | None:
        """The state that is here."""
        replica = self._replica
        if replica is None or replica.id is None:
            return None
        return replica.memory.manifest.state(replica.id)

    @property
    def manifest(self) -> Manifest:
        """The one that `state` is of."""
        assert self._replica is not None
        return self._replica.memory.manifest

    def fetch(self, version: str | None, timeout: float | None) -> StagedVersion | None:
        """See `Subscriber.fetch`."""
        if self._replica is None:
            self._replica = self._open(version)
        return self._replica.fetch(version, timeout)

    def renew(self, timeout: float | None) -> None:
        """Go on to the newest version."""
        try:
            staged = self.fetch(None, timeout)
        except UnsupportedError:
            if self.state is None:
                raise
            # Its tensors are others: begin anew. If that fails, the old ones are still there.
            other = self._open(None)
            try:
                staged = other.fetch(None, timeout)
            except BaseException:
                other.cancel()
                raise
            assert self._replica is not None
            self._replica.cancel()
            self._replica = other
        if staged is not None:
            staged.commit()

    def _open(self, version: str | None) -> Replica:
        plan = LivePlan(until=version or EXACT, staging="copy", hold=True, transfer=self._options)
        return Replica(self._source, plan)

    def load(self, model: Any, weights: str | None) -> None:
        """Copy it into a model."""
        assert self._replica is not None
        with self._replica.pinned():
            _load(model, self._replica.memory, weights)

    def fork(self) -> None:
        """Leave what runs to the parent."""
        self._replica = None

    def close(self) -> None:
        """See `Subscriber.close`."""
        if self._replica is not None:
            self._replica.cancel()


class _Folder:
    """The newest version in a directory."""

    def __init__(
        self,
        source: str | os.PathLike[str],
        target: Path,
        options: TransferOptions,
        in_place: bool,
    ) -> None:
        self._source, self._target, self._options = source, target, options
        self._in_place = in_place
        self._store: Store | None = None
        self._mark = ""
        self._due = True
        self._files: ModelMemory | None = None
        self.state: State | None = None

    @property
    def manifest(self) -> Manifest:
        """The one that `state` is of."""
        assert self._files is not None
        return self._files.manifest

    def renew(self, timeout: float | None) -> None:
        """Pull the newest version."""
        try:
            if self._store is None:
                self._store = open_store(self._source)
            data, self._mark = self._store.poll(MANIFEST_KEY, limit=MAX_MANIFEST, mark=self._mark)
        except BaseException:
            self.close()
            raise
        self._due = self._due or data is not None
        if not self._due:
            return
        end = None if timeout is None else time.monotonic() + timeout

        def tick(_: object) -> None:
            if end is not None and time.monotonic() > end:
                raise TimeoutError(f"no version is complete after {timeout} s")

        task = PullTask(in_place=self._in_place, progress=tick)
        state = None
        while state is None:
            run_pull(self._source, self._target, task, self._options)
            found = state_file.read(self._target)
            assert found is not None
            with PackageReader(self._source, self._options) as package:
                # By its digest: a new manifest may have come meanwhile. If that one does not have
                # the state any more, it has a newer one.
                version, _, label = found.state.partition("@")
                have = State(version, label, found.digest, None, None, 0.0)
                state = same_state(package.manifest, have)
                if state is not None:
                    self._files = _Mapped(package, state, self._target)
        self.state, self._due = state, False

    def load(self, model: Any, weights: str | None) -> None:
        """Copy it into a model."""
        assert self._files is not None
        _load(model, self._files, weights)

    def fork(self) -> None:
        """Leave what is open to the parent."""
        self._store = None

    def close(self) -> None:
        """See `Subscriber.close`."""
        store, self._store = self._store, None
        if store is not None:
            store.close()


class _Mapped(ModelMemory):
    """The files of a directory, mapped."""

    def __init__(self, package: PackageReader, state: State, folder: Path) -> None:
        release = package.manifest.release(state)
        super().__init__(
            package, release, [_mapped(folder / f.path, f.size) for f in release.files]
        )


def _mapped(path: Path, size: int) -> memoryview:
    if not size:
        return memoryview(bytearray())
    with disk_errors(path, "read"), open(path, "rb") as file:
        # Private: torch wants memory that it could write to.
        return memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY))


def _between(manifest: Manifest, before: State | None, now: State) -> int:
    """The number of versions from one state to a later one; 1 if that is unknown."""
    versions = [release.version for release in manifest.releases if not release.foreign]
    have = same_state(manifest, before) if before is not None else None
    if have is None or have.version not in versions:
        return 1
    return max(1, versions.index(now.version) - versions.index(have.version))


def _load(model: Any, files: ModelMemory, weights: str | None) -> None:
    """Copy tensors into those of a model.

    Raises:
        UsageError: Names or shapes differ; nothing was changed.
    """
    import torch

    own = dict(model) if isinstance(model, Mapping) else model.state_dict(keep_vars=True)
    found = rename(choose_tensors(files, weights), own)
    given = {name: own[name].data_ptr() for name in own if name in found}
    missing = [
        name
        for name, tensor in own.items()
        if name not in found and tensor.numel() and tensor.data_ptr() not in given.values()
    ]
    if missing:
        raise UsageError(
            f"the package does not have {', '.join(missing[:8])}",
            hint="Give the model, or the part of its tensors, that was published",
        )
    for name in given:
        shape = torch_shape(found[name])
        if tuple(own[name].shape) != shape:
            raise UsageError(
                f"the package has the shape {shape}, the model {tuple(own[name].shape)}",
                tensor=name,
                hint="Make the model from the configuration of this version",
            )
    with torch.no_grad():
        for name in given:
            own[name].copy_(view(files, found[name]), non_blocking=True)
    for device in {own[name].device for name in given}:
        synchronizer(device)()
