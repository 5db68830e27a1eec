"""Measure the second moments of layers' inputs, for a calibration file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2u.adapters.torch.evaluating import call, evaluating
from p2u.errors import UsageError
from p2u.packing.rounding.calibration import MAX_COLUMNS, FactorEntry, Writer, make_factor

if TYPE_CHECKING:
    import torch

#: Elements that a convolution's input is unfolded to at once.
UNFOLDED = 1 << 25
#: Inputs that are remembered to see who shares one.
RECENT = 8


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """The layers that were calibrated, and those that were left out.

    Attributes:
        path: The file.
        bytes: Its size.
        tensors: Names of the tensors that it knows.
        skipped: Layers that it does not know, and why.
        inputs: Different inputs; layers like q, k and v share one.
        passes: Times that all batches went through the model.
    """

    path: str
    bytes: int
    tensors: tuple[str, ...]
    skipped: dict[str, str]
    inputs: int
    passes: int


@dataclass(slots=True, eq=False)
class _Weight:
    """A parameter, and the layers that use it.

    Attributes:
        names: In the model's state dict.
        groups: Of its input.
        columns: Of its input, per group.
        axis: See `FactorEntry`.
        seen: Which inputs its layers got, in order.
        leader: The first weight with the same inputs.
    """

    names: tuple[str, ...]
    groups: int
    columns: int
    axis: int
    unfolding: tuple[Any, ...]
    seen: list[int] = field(default_factory=list)
    leader: _Weight | None = None


def calibrate(
    model: torch.nn.Module,
    batches: Iterable[Any],
    path: str | os.PathLike[str],
    *,
    damping: float = 0.01,
    memory: int = 2 << 30,
    progress: Callable[[int, int], None] | None = None,
) -> CalibrationReport:
    """Learn how the inputs of a model's layers hang together, for ``p2u pack --calibration``.

    Covers ``nn.Linear``, ``nn.Conv1d`` to ``nn.Conv3d`` and transformers' ``Conv1D``. One pass over
    the batches finds who shares an input, then each pass collects as many inputs as the memory
    holds: an input of ``d`` columns takes ``4 d^2`` bytes then, ``32 d^2`` when its factor is made,
    and ``d^2 / 2`` in the file. A hundred batches of what the model is used for are plenty. The
    model is left as it was.

    Args:
        model: Its parameters have the names of the tensors in the file that will be packed, but
            for a prefix.
        batches: Inputs: mappings are passed as keywords, tuples and lists as positional arguments.
            They must fit into memory together. Padding is left out where it is known: where the
            model, or a module in it, gets a keyword ``attention_mask`` of shape (batch, tokens).
        path: The file to write.
        damping: Added to the diagonals, as a fraction of their mean.
        memory: Bytes for second moments; at least those of one input are taken.
        progress: Told how many passes are through, and of how many.

    Raises:
        UsageError: There are no batches, the model has no such layers or they do not run, an
            input is not finite, or the damping is not positive.
        DiskError: The file cannot be written.
    """
    if not damping > 0:
        raise UsageError(f"damping is {damping:g}", hint="Use a small positive number like 0.01")
    if not isinstance(batches, Sequence):
        batches = list(batches)
    if not batches:
        raise UsageError("there are no batches", hint="Give at least one")
    layers, skipped = _layers(model)
    inputs = _inputs(model, batches, layers, skipped)
    if not inputs:
        raise UsageError(
            "no linear or convolution layer ran, and only these are calibrated",
            hint="Give the whole model, and batches that run through it",
        )
    entries = [
        FactorEntry(weight.names, number, weight.axis)
        for number, weights in enumerate(inputs)
        for weight in weights
    ]
    passes = list(_passes(inputs, memory))
    writer = Writer(os.fspath(path), entries, [(w[0].groups, w[0].columns) for w in inputs])
    complete = False
    try:
        for done, leaders in enumerate(passes, 1):
            moments = _collect(model, batches, layers, leaders)
            for leader in leaders:
                moment = moments.pop(leader)
                if not bool(moment.isfinite().all()):
                    raise UsageError(
                        f"the input of {leader.names[0]!r} is not finite",
                        hint="Calibrate in float32 or bfloat16, with inputs that the model can use",
                    )
                writer.add(make_factor(moment.double().cpu().numpy(), damping))
            if progress:
                progress(done + 1, len(passes) + 1)
        complete = True
    finally:
        writer.close(complete=complete)
    return CalibrationReport(
        os.fspath(path),
        Path(path).stat().st_size,
        tuple(entry.names[0] for entry in entries),
        skipped,
        len(inputs),
        len(passes) + 1,
    )


def _layers(model: torch.nn.Module) -> tuple[dict[torch.nn.Module, _Weight], dict[str, str]]:
    """The layers that can be calibrated with their weights, and those that cannot be."""
    names: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    shapes: dict[torch.nn.Module, tuple[int, int, int]] = {}
    skipped: dict[str, str] = {}
    others: set[int] = set()  # weights that are used in another way, too
    for name, module in model.named_modules():
        shape = _shape(module)
        own = getattr(module, "weight", None)
        if shape is not None and id(own) in names:
            if shape[1] <= MAX_COLUMNS:
                shapes[module] = shape
            else:
                skipped[name] = f"{shape[1]} columns; at most {MAX_COLUMNS} can be"
        else:
            others.update(id(p) for p in module.parameters(recurse=False))
    weights: dict[int, _Weight] = {}
    layers: dict[torch.nn.Module, _Weight] = {}
    for module, (groups, columns, axis) in shapes.items():
        key = id(module.weight)
        alias = tuple(names[key])
        if key in others:
            # A tied embedding: what is good for one use may be bad for the other.
            skipped[alias[0]] = "its weight is used by another kind of layer, too"
            continue
        new = _Weight(alias, groups, columns, axis, _unfolding(module))
        layers[module] = weights.setdefault(key, new)
    return layers, skipped


def _shape(module: torch.nn.Module) -> tuple[int, int, int] | None:
    """Groups, columns per group and axis of a layer's input; None if it is of no kind known."""
    from torch import nn

    weight = getattr(module, "weight", None)
    if isinstance(module, nn.Linear) and weight is not None:
        return 1, module.in_features, 1
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and weight is not None:
        return module.groups, weight[0].numel(), 1
    # transformers' own; to import it for the sake of its name would take seconds
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf") and weight is not None:
        return 1, weight.shape[0], 0
    return None


def _unfolding(module: torch.nn.Module) -> tuple[Any, ...]:
    """The settings that decide how an input becomes columns."""
    keys = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return tuple(getattr(module, key, None) for key in keys)


def _inputs(
    model: torch.nn.Module,
    batches: Sequence[Any],
    layers: Mapping[torch.nn.Module, _Weight],
    skipped: dict[str, str],
) -> list[list[_Weight]]:
    """Weights by input: those that got the same tensors throughout are together."""
    recent: list[tuple[torch.Tensor, int, int]] = []
    count = 0

    def look(module: torch.nn.Module, x: torch.Tensor) -> None:
        nonlocal count
        version = 0 if x.is_inference() else x._version  # it counts changes in place
        same = [n for known, before, n in recent if known is x and before == version]
        if not same:
            count += 1
            same = [count]
            recent.append((x, version, count))
            del recent[:-RECENT]
        layers[module].seen += same

    with _hooked(model, layers, look):
        for batch in batches:
            call(model, batch)
            recent.clear()
    found: dict[Any, list[_Weight]] = {}
    for weight in dict.fromkeys(layers.values()):
        if not weight.seen:
            skipped[weight.names[0]] = "it did not run"
            continue
        key = (tuple(weight.seen), weight.groups, weight.columns, weight.unfolding)
        found.setdefault(key, []).append(weight)
        weight.seen = []
    return list(found.values())


def _passes(inputs: list[list[_Weight]], memory: int) -> Iterator[list[_Weight]]:
    """One weight of each input, as many at a time as the memory holds."""
    taken = 0
    leaders: list[_Weight] = []
    for weights in inputs:
        size = 4 * weights[0].groups * weights[0].columns ** 2
        if leaders and taken + size > memory:
            yield leaders
            leaders, taken = [], 0
        leaders.append(weights[0])
        taken += size
    yield leaders


def _collect(
    model: torch.nn.Module,
    batches: Sequence[Any],
    layers: Mapping[torch.nn.Module, _Weight],
    leaders: Sequence[_Weight],
) -> dict[_Weight, torch.Tensor]:
    """Sums of ``x x^T`` over all batches, float32, ``(groups, columns, columns)``."""
    moments: dict[_Weight, torch.Tensor] = {}

    def add(module: torch.nn.Module, x: torch.Tensor) -> None:
        weight = layers[module]
        for part in _columns(module, x, mask.found):
            rows = part.float()
            if weight not in moments:
                moments[weight] = rows.new_zeros(weight.groups, weight.columns, weight.columns)
            moments[weight].baddbmm_(rows.transpose(1, 2), rows)

    wanted = set(leaders)
    chosen = {module: weight for module, weight in layers.items() if weight in wanted}
    with _hooked(model, chosen, add), _Mask(model) as mask:
        for batch in batches:
            mask.found = None
            call(model, batch)
    return moments


class _Mask:
    """Sees which tokens are padding, wherever a module of the model is told."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.found: torch.Tensor | None = None
        self._handles = [
            module.register_forward_pre_hook(self._look, with_kwargs=True)
            for module in model.modules()
        ]

    def _look(self, _: Any, __: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        mask = kwargs.get("attention_mask")
        if mask is not None and mask.dim() == 2:
            self.found = mask

    def __enter__(self) -> _Mask:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


@contextmanager
def _hooked(
    model: torch.nn.Module,
    layers: Iterable[torch.nn.Module],
    hook: Callable[[torch.nn.Module, torch.Tensor], None],
) -> Iterator[None]:
    """The model in evaluation mode, without gradients, and with a look at these layers' inputs."""
    import torch

    def note(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hook(module, args[0] if args else next(iter(kwargs.values())))

    handles = [m.register_forward_pre_hook(note, with_kwargs=True) for m in layers]
    try:
        with evaluating(model), torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()


def _columns(
    module: torch.nn.Module, x: torch.Tensor, mask: torch.Tensor | None
) -> Iterator[torch.Tensor]:
    """A layer's input as rows of columns, ``(groups, n, columns)``, some at a time."""
    if hasattr(module, "kernel_size"):
        yield from _unfolded(module, x)
        return
    if mask is not None and x.shape[:-1] == mask.shape:
        x = x[mask.to(x.device, bool)]  # what stands in padding is noise
    yield x.reshape(1, -1, x.shape[-1])


def _unfolded(module: Any, x: torch.Tensor) -> Iterator[torch.Tensor]:
    """A convolution's input, unfolded in the order of its weights."""
    import torch

    dims = len(module.kernel_size)
    if x.dim() == dims + 1:
        x = x[None]
    # Per dimension from the last one, below and above: what PyTorch itself pads with.
    padding = module._reversed_padding_repeated_twice
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = torch.nn.functional.pad(x, padding, mode=mode)
    for i, (size, step, gap) in enumerate(
        zip(module.kernel_size, module.stride, module.dilation, strict=True)
    ):
        x = x.unfold(2 + i, (size - 1) * gap + 1, step)[..., ::gap]
    # (n, channels, places..., kernel...) -> (groups, n * places, channels / groups * kernel)
    groups = module.groups
    each = max(1, UNFOLDED // max(1, x[0].numel()))
    for part in x.split(each):
        part = part.unflatten(1, (groups, -1))
        places = list(range(3, 3 + dims))
        part = part.permute(1, 0, *places, 2, *range(3 + dims, 3 + 2 * dims))
        yield part.reshape(groups, -1, part.shape[2 + dims :].numel())
