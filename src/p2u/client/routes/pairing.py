"""Pair the tensors of two releases that one live model may have after the other."""

from __future__ import annotations

from collections import Counter

from p2u.package.layout import ReleaseLayout, Tensor


def pair_tensors(old: ReleaseLayout, new: ReleaseLayout) -> tuple[int, ...] | str:
    """For each tensor of a release the number of the same one in an older release.

    The same tensor has the same name, dtype and shape. Where several files have one of that name,
    it is that of the same file, or the only one left. Files that hold no tensors, their sizes, and
    the places of tensors in files do not matter.

    Returns:
        The numbers, or else a reason why they are not the same tensors.
    """
    if old.release is new.release:
        return tuple(range(len(new.tensors)))
    exact = {(_path(old, t), t.name): number for number, t in enumerate(old.tensors)}
    found = [exact.pop((_path(new, t), t.name), None) for t in new.tensors]
    # Other files, such as those of other shards.
    left = [t.name for t, number in zip(new.tensors, found, strict=True) if number is None]
    times = Counter(left), Counter(name for _, name in exact)
    alone = {name: n for (_, name), n in exact.items() if times[0][name] == times[1][name] == 1}
    for place, tensor in enumerate(new.tensors):
        if found[place] is None:
            found[place] = alone.get(tensor.name)
    gone = set(range(len(old.tensors))).difference(n for n in found if n is not None)
    if gone:
        tensor = old.tensors[min(gone)]
        return f"tensor {tensor.name!r} was {_shape(tensor)}, now not there"
    pairs = []
    for tensor, number in zip(new.tensors, found, strict=True):
        was = None if number is None else old.tensors[number]
        if number is None or _shape(was) != _shape(tensor):
            return f"tensor {tensor.name!r} was {_shape(was)}, now {_shape(tensor)}"
        pairs.append(number)
    return tuple(pairs)


def _path(model: ReleaseLayout, tensor: Tensor) -> str:
    return model.files[tensor.file].path


def _shape(tensor: Tensor | None) -> str:
    if tensor is None:
        return "not there"
    return f"{tensor.dtype} {' x '.join(map(str, tensor.shape)) or 'scalar'}"
