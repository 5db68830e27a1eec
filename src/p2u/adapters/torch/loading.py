"""``p2u.torch.load``: open a package as a live module, usable from the base on."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass, fields
from inspect import signature
from typing import TYPE_CHECKING, Any

from p2u.adapters.torch import hooks, plain
from p2u.adapters.torch.binding import Binding
from p2u.adapters.torch.build import build, fill
from p2u.adapters.torch.dtypes import floating_dtype
from p2u.adapters.torch.names import choose_tensors, rename, tied_names
from p2u.adapters.torch.tensors import all_copied, own_or_view
from p2u.client.live.plan import LivePlan
from p2u.client.live.replica import Replica
from p2u.client.live.waiting import BEST
from p2u.client.transfer.options import DEFAULT_OPTIONS, TransferOptions
from p2u.errors import UnsupportedError, UsageError
from p2u.package.layout import Layout, Tensor
from p2u.stores import Store
from p2u.stores.backoff import Retry
from p2u.types import NUMPY_NAMES, PROGRESSIVE

if TYPE_CHECKING:
    import torch

    from p2u.adapters.torch.build import Source

_log = logging.getLogger("p2u")


def load(
    source: str | os.PathLike[str] | Store,
    model_or_factory: Source,
    state: str = "base",
    *,
    background: bool = True,
    until: str = "exact",
    deadline: float | None = None,
    mode: str = "atomic",
    staging: str = "auto",
    patience: float = 5.0,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    strict: bool = True,
    weights: str | None = None,
    timeout: float | None = None,
    jobs: int | None = None,
    limit_rate: float | str | None = None,
    check: str = "exact",
    retry: Retry | None = None,
    straight: bool | None = None,
    follow: float | None = None,
    cache: bool | str | os.PathLike[str] = True,
) -> torch.nn.Module:
    """Load a package into a module; return as soon as a state is there.

    Parameters and buffers are views of one memory in the package's dtypes. In the background
    updates refine it in place: addresses, and what holds on to them, stay the same. Each call of
    the module sees exactly one state; so does ``generate`` as a whole, and everything within
    ``with model.p2u.pinned():``. ``model.p2u`` is the `Replica`: ``state``, ``wait``, ``pinned``,
    ``on_state``, ``progress``, ``resume``, ``close``. Type checkers do not know attributes that a
    module gets at run time: ``p2u.torch.replica(model)`` is the same object, with its type.

    Args:
        source: Path or URL of a package, or an open store.
        model_or_factory: A module (its parameters are replaced; they may be on the meta device),
            or a callable that makes it, which is run without memory for its parameters while the
            first bytes arrive.
        state: Label or id of the state to wait for; ``"best"`` with a deadline.
        background: Go on to ``until``; else the module stays at ``state``.
        until: Label or id of the last state.
        deadline: Seconds, with ``state="best"``: begin with the best state that the bandwidth
            measured can deliver by then.
        mode: ``"atomic"`` or, for the lowest memory and mixed states, ``"eager"``.
        staging: How atomic mode prepares a state, see ``p2u.open``.
        patience: See ``p2u.open``.
        dtype: Of floating-point tensors. Those that differ get memory of their own, and are cast
            anew for each state. None: the package's.
        device: Where tensors go. Other than ``"cpu"`` they get memory of their own.
        strict: As in ``load_state_dict``. If not, parameters that the package lacks keep their
            initial values.
        weights: Pattern of paths of the files to load, where a package has several models.
        timeout: Most seconds to wait for ``state``.
        jobs: Threads; see `p2u.TransferOptions`.
        limit_rate: Most bytes per second; see `p2u.TransferOptions`.
        retry: When to try again; see `p2u.TransferOptions`.
        straight: Leave out the states before ``until``: see ``p2u.open``. They are also left out
            where ``state`` is the last one.
        check: Which whole files to check, see ``p2u.open``.
        follow: Go on to newer versions as they are published, see ``p2u.open``.
        cache: Keep what comes for the next start, see ``p2u.open``.

    Raises:
        UsageError: An argument is wrong, or tensors of the model would be left without values.
        RuntimeError: Names or shapes differ: torch's own message.
        UnsupportedError: Torch lacks a dtype, or a module does not take tensors as they are.
        TimeoutError: The state did not come in time.
        P2UError: What ended the transfer.
    """
    options = Options(
        state=state, background=background, until=until, deadline=deadline, mode=mode,
        staging=staging, patience=patience, dtype=dtype, device=device, strict=strict,
        weights=weights, timeout=timeout, check=check, follow=follow,
        transfer=TransferOptions(
            jobs=jobs, limit_rate=limit_rate, retry=retry, straight=straight, cache=cache
        ),
    )  # fmt: skip
    return attach(start(source, options), model_or_factory, options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The keyword arguments of `load`; those for the transfer are together."""

    state: str = "base"
    background: bool = True
    until: str = "exact"
    deadline: float | None = None
    mode: str = "atomic"
    staging: str = "auto"
    patience: float = 5.0
    dtype: torch.dtype | str | None = None
    device: torch.device | str | None = None
    strict: bool = True
    weights: str | None = None
    timeout: float | None = None
    check: str = "exact"
    follow: float | None = None
    transfer: TransferOptions = DEFAULT_OPTIONS

    @classmethod
    def take(cls, keywords: dict[str, Any], **defaults: Any) -> Options:
        """Take the keyword arguments of `load` out of others.

        Args:
            keywords: Those that are taken are removed.
            defaults: Where they differ from those of `load`.
        """
        known = {p.name for p in signature(load).parameters.values() if p.default is not p.empty}
        mine = {**defaults, **{name: keywords.pop(name) for name in known & keywords.keys()}}
        fetching = {f.name for f in fields(TransferOptions)} & mine.keys()
        transfer = TransferOptions(**{name: mine.pop(name) for name in fetching})
        return cls(**mine, transfer=transfer)

    def target(self) -> tuple[torch.dtype | None, torch.device]:
        """The dtype for floating-point tensors (None: unchanged), and the device of all tensors."""
        import torch

        return floating_dtype(self.dtype), torch.device(self.device or "cpu")


def start(source: str | os.PathLike[str] | Store, options: Options) -> Replica:
    """Let the transfer begin; torch is imported meanwhile.

    Raises:
        UsageError: An option is wrong.
    """
    if options.follow is not None and not options.background:
        raise UsageError("follow and background=False contradict each other")
    best = options.state == BEST
    if best != (options.deadline is not None) or (best and not options.background):
        raise UsageError("state='best', a deadline and background=True need each other")

    def choose(layout: Layout) -> str:
        # Where the module's tensors are all copies, the memory itself may be between states.
        copied = options.staging == "auto" and all_copied(layout, *options.target())
        return "direct" if copied else options.staging

    until = options.until if options.background else options.state
    plan = LivePlan(
        until=until,
        mode=options.mode,
        staging=options.staging,
        patience=options.patience,
        check=options.check,
        choose=choose,
        deadline=options.deadline,
        follow=options.follow,
        each_state=options.state != until,
        transfer=options.transfer,
    )
    replica = Replica(source, plan)
    try:
        options.target()
    except BaseException:
        replica.cancel()
        raise
    return replica


def attach(replica: Replica, source: Source, options: Options) -> torch.nn.Module:
    """Build the module, and let it follow the replica, which is cancelled if that fails."""
    try:
        model = build(source)
        with replica.pinned(options.state, options.timeout):
            binding = _bind(model, source, replica, options)
            if options.background:
                replica.on_commit(lambda label: binding.refresh(), check=binding.check)
    except BaseException:
        replica.cancel()
        raise
    model.p2u = replica
    installed: frozenset[int] = frozenset()
    if options.background and options.mode == "atomic":
        installed = hooks.install(model, replica)
    plain.install(model, replica, installed)
    return model


def replica(model: torch.nn.Module) -> Replica:
    """The replica that feeds a module: ``model.p2u``, also if it was compiled.

    Raises:
        UsageError: The module was not made by `load`.
    """
    found = getattr(model, "p2u", None)
    if not isinstance(found, Replica):
        raise UsageError("this module was not loaded by p2u.torch.load")
    return found


def _bind(
    model: torch.nn.Module,
    source: Source,
    replica: Replica,
    options: Options,
) -> Binding:
    """Put the tensors into the module, and see to what the package does not have."""
    import torch

    dtype, device = options.target()
    names = model.state_dict(keep_vars=True)
    tensors = rename(choose_tensors(replica.memory, options.weights), names)
    ties = tied_names(model)
    files = replica.memory
    given = {name: own_or_view(files, tensor, dtype, device) for name, tensor in tensors.items()}
    used = dict(tensors)
    masters = {}
    for names in ties:
        # The file may have one of them, or all. The last one counts, as in load_state_dict.
        have = [name for name in names if name in given]
        if have:
            masters[have[-1]] = names
            given.update(dict.fromkeys(names, given[have[-1]]))
            used.update(dict.fromkeys(names, tensors[have[-1]]))
    with torch.no_grad():
        left = model.load_state_dict(given, strict=options.strict, assign=True)
    for master, names in masters.items():
        parameter = model.get_parameter(master)
        for name in names:
            path, _, key = name.rpartition(".")
            setattr(model.get_submodule(path), key, parameter)
    _check(model, given, tensors)
    unused = [tensors[name].length for name in left.unexpected_keys]
    if 2 * sum(unused) > sum(tensor.length for tensor in tensors.values()):
        raise UsageError(
            f"most of the package does not fit {type(model).__name__}: it has no "
            f"{', '.join(left.unexpected_keys[:4])}",
            hint="Choose another class, or other files with weights=",
        )
    fresh = fill(model, source, keep=not options.strict)
    _report(model, left.unexpected_keys, fresh)
    if device.type != "cpu":
        model.to(device)  # what is not the package's; the rest is there already
        _check(model, given, tensors)
    has = model.state_dict(keep_vars=True).keys()
    used = {name: tensor for name, tensor in used.items() if name in has}
    files.use(used.values())
    return Binding(model, files, used)


def _report(model: torch.nn.Module, unused: list[str], fresh: list[str]) -> None:
    """Warn, as transformers does, of tensors that only one side has."""
    ignore = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    unused = [name for name in unused if not any(re.search(pattern, name) for pattern in ignore)]
    kind = type(model).__name__
    if unused:
        _log.warning("%s does not use %s of the package", kind, ", ".join(unused[:8]))
    if fresh:
        _log.warning("%s of %s are new: the package does not have them", ", ".join(fresh[:8]), kind)


def _check(model: torch.nn.Module, given: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Make sure that the module's tensors are those that follow the replica.

    Raises:
        UnsupportedError: A module has made something else of them.
    """
    for name, value in model.state_dict(keep_vars=True).items():
        if name not in tensors or tensors[name].dtype not in PROGRESSIVE:
            continue
        if value.data_ptr() != given[name].data_ptr():
            raise UnsupportedError(
                f"{type(model).__name__} does not use this tensor as it is in the package "
                f"({NUMPY_NAMES[tensors[name].dtype]}), so it cannot be refined in place",
                tensor=name,
                hint="Pull the model with p2u.pull and load the directory",
            )
