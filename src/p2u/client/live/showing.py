"""Show live models in a few characters: a notebook prints what a cell gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from p2u.client.transfer.control import Progress

if TYPE_CHECKING:
    import numpy as np

#: Tensors that are shown.
_SHOWN = 3


class TensorDict(dict[str, Any]):
    """Tensors by name, as ``p2u.load`` gives them: a dict that is shown in one line."""

    def __repr__(self) -> str:
        return summary(self)


class TensorView(Mapping[str, Any]):
    """Tensors by name, read-only, as `Replica.tensors` gives them."""

    def __init__(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        self._arrays = arrays

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        return summary(self)


def summary(arrays: Mapping[str, np.ndarray[Any, Any]]) -> str:
    """Number, size, and the first few of some tensors."""
    size = sum(array.nbytes for array in arrays.values())
    some = [
        f"{name!r}: {array.dtype} {list(array.shape)}"
        for name, array in list(arrays.items())[:_SHOWN]
    ]
    more = ["..."] if len(arrays) > len(some) else []
    return f"<{len(arrays)} tensors, {size / 1e6:.1f} MB: {', '.join([*some, *more])}>"


def progress_html(title: str, progress: Progress) -> str:
    """A bar for notebooks; the last expression of a cell shows it."""
    from html import escape  # half a megabyte, for notebooks only

    done, total = progress.done, max(progress.total, progress.done, 1)
    here = f"{progress.state or 'nothing yet'}"
    if progress.target is not None:
        here += f" \N{RIGHTWARDS ARROW} {progress.target}"
    text = f"{here}, {done / 1e6:.1f} of {total / 1e6:.1f} MB"
    bar = f'<progress value="{done}" max="{total}"></progress>'
    return f"<div><code>{escape(title)}</code> {bar} {escape(text)}</div>"
