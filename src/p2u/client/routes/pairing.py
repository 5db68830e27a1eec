"""Pair the tensors of two releases that one live model may have after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from p2u.package.layout import ReleaseLayout, Tensor


def pair_tensors(old: ReleaseLayout, new: ReleaseLayout) -> tuple[int | None, ...]:
    """For each tensor of a release the number of the same one in an older release.

    The same tensor has the same name, dtype and shape. Where several files have one of that name,
    it is that of the same file, or the only one left. Files that hold no tensors, their sizes, and
    the places of tensors in files do not matter.

    Returns:
        The numbers; None for tensors that the older release does not have.
    """
    if old.release is new.release:
        return tuple(range(len(new.tensors)))
    return tuple(
        number if number is not None and _shape(old.tensors[number]) == _shape(tensor) else None
        for tensor, number in zip(new.tensors, _namesakes(old, new), strict=True)
    )


def misfit(
    old: ReleaseLayout, new: ReleaseLayout, used: Collection[int] | None = None
) -> str | None:
    """The reason why a release cannot take the place of an older one in a live model.

    Args:
        old: The older release.
        new: The other one.
        used: Numbers of the older release's tensors that somebody uses. All others may come, go
            and change. None: all tensors count, and none may be added.

    Returns:
        The reason, or None if it can.
    """
    if old.release is new.release:
        return None
    found = _namesakes(old, new)
    gone = set(range(len(old.tensors)) if used is None else used).difference(
        number for number in found if number is not None
    )
    if gone:
        tensor = old.tensors[min(gone)]
        where = sorted({_path(new, t) for t in new.tensors if t.name == tensor.name})
        now = f"in {' and '.join(where)}" if where else "not there"
        return f"tensor {tensor.name!r} was {_shape(tensor)} in {_path(old, tensor)}, now {now}"
    for tensor, number in zip(new.tensors, found, strict=True):
        was = None if number is None else old.tensors[number]
        if (used is None or number in used) and _shape(was) != _shape(tensor):
            return f"tensor {tensor.name!r} was {_shape(was)}, now {_shape(tensor)}"
    return None


def _namesakes(old: ReleaseLayout, new: ReleaseLayout) -> list[int | None]:
    """For each tensor the number of that of the same file and name, or of the only such name."""
    exact = {(_path(old, t), t.name): number for number, t in enumerate(old.tensors)}
    found = [exact.pop((_path(new, t), t.name), None) for t in new.tensors]
    # Other files, such as those of other shards.
    left = [t.name for t, number in zip(new.tensors, found, strict=True) if number is None]
    times = Counter(left), Counter(name for _, name in exact)
    alone = {name: n for (_, name), n in exact.items() if times[0][name] == times[1][name] == 1}
    return [
        alone.get(tensor.name) if number is None else number
        for tensor, number in zip(new.tensors, found, strict=True)
    ]


def _path(model: ReleaseLayout, tensor: Tensor) -> str:
    return model.files[tensor.file].path


def _shape(tensor: Tensor | None) -> str:
    if tensor is None:
        return "not there"
    return f"{tensor.dtype} {' x '.join(map(str, tensor.shape)) or 'scalar'}"
