"""The uses of a model by clients, so that one client serves all; imports nothing heavy.

A client makes its user first. `User.follow` opens a package, imports what is needed while bytes
arrive, and uses the model from the first state on. Of a download, which the client begins itself,
`User.prepare` imports what is needed and `User.build` makes what needs no weights meanwhile;
`User.load` takes them. From then on `User.answer` uses the model.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from p2u import Replica


class User:
    """A program that uses a model.

    Args:
        options: Its own; JSON.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options
        self.replica: Replica | None = None

    def prepare(self) -> None:
        """Import what is needed."""

    def build(self) -> None:
        """Before `load`: do what needs no weights."""

    def follow(
        self,
        source: str,
        seen: Callable[[str], None] = lambda label: None,
        *,
        straight: bool | None = None,
    ) -> Replica:
        """Use a package from its first state on; returns when that is there.

        Args:
            source: Its URL or folder; the transfer begins at once.
            seen: Called with the label of each state that has arrived.
            straight: See ``p2u.open``.
        """
        import p2u

        self.replica = p2u.open(source, straight=straight)
        try:
            self.replica.on_state(seen)
            self.prepare()
            with self.replica.pinned():
                pass
        except BaseException:
            self.replica.cancel()
            raise
        return self.replica

    def load(self, folder: Path) -> None:
        """Use a complete folder; it goes away when the client ends."""
        raise NotImplementedError

    def answer(self) -> Any:
        """Use the model once; what comes out, as JSON."""
        raise NotImplementedError

    def item(self, number: int) -> float:
        """Answer a labelled item: 1 is right, 0 is wrong."""
        raise NotImplementedError

    def run(self, at: int, size: int = 1) -> Any:
        """The model's outputs for ``size`` items from item ``at`` on."""
        raise NotImplementedError

    @contextlib.contextmanager
    def held(self) -> Iterator[str]:
        """The state that answers in this block are of; ``"exact"`` of a complete folder."""
        if self.replica is None:
            yield "exact"
            return
        with self.replica.pinned(brief=True) as state:
            yield state


class Arrays(User):
    """Usable means: all tensors are NumPy arrays in memory. No framework, no task."""

    def prepare(self) -> None:
        """NumPy, and its further dtypes."""
        import ml_dtypes  # noqa: F401 - imported here, not when the weights are there
        import numpy  # noqa: F401

        from p2u.formats import scan_model  # noqa: F401
        from p2u_lab.tensorfiles import ST_DTYPES  # noqa: F401

    def load(self, folder: Path) -> None:
        """Read all files that have tensors."""
        import numpy as np

        from p2u.formats import scan_model
        from p2u_lab.tensorfiles import ST_DTYPES

        model = scan_model(str(folder))
        arrays: dict[str, np.ndarray[Any, Any]] = {}
        for file in model.files:
            if not file.spans:
                continue
            content = np.fromfile(model.locate(file.path), np.uint8)
            for span in file.spans:
                part = content[span.offset : span.offset + span.length]
                dtype = ST_DTYPES.get(span.dtype)
                whole = dtype is not None and span.length % dtype.itemsize == 0
                arrays[f"{file.path}:{span.name}"] = part.view(dtype) if whole else part
        self._arrays = arrays

    def answer(self) -> Any:
        """Number of tensors, and of bytes in them."""
        with self.held():
            arrays = self._arrays if self.replica is None else self.replica.tensors
            return [len(arrays), sum(array.nbytes for array in arrays.values())]


class Torch(User):
    """A PyTorch module, and labelled items.

    Options:
        build: ``"module:function"``; called with ``build_options`` it returns the module, whose
            state dict has the names of the folder's tensors. See `transformer`, `image_net`.
        build_options: For that function.
        items: An ``.npz`` file: inputs with a row per item, ``x``, or the keywords ``x_NAME`` with
            ``x_attention_mask``, padded at the end; ``label``, right answers; ``index``, if any,
            rows of unit length.
        output: ``"logits"``: the best class is the answer. ``"embedding"``: mean of the hidden
            states, unit length; the answer is the row of ``index`` that is nearest.
        dtype: The module's (``"float32"``); None: the file's.
        threads: Torch's; None: its default.
        load: More keyword arguments for ``p2u.torch.load``.
    """

    _ready = False

    def prepare(self) -> None:
        """Import torch; read the items."""
        if self._ready:
            return
        self._ready = True
        import numpy as np
        import torch

        if threads := self.options.get("threads"):
            torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self._make = _named(self.options["build"])
        with np.load(self.options["items"]) as items:
            arrays = dict(items)
        self.labels = arrays.pop("label", None)
        index = arrays.pop("index", None)
        self._index = None if index is None else torch.from_numpy(index)
        self.inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
        self.count = len(next(iter(self.inputs.values())))

    def _build(self) -> Any:
        self.prepare()
        return self._make(dict(self.options.get("build_options") or {})).eval()

    def follow(
        self,
        source: str,
        seen: Callable[[str], None] = lambda label: None,
        *,
        straight: bool | None = None,
    ) -> Replica:
        """Load a package with ``p2u.torch.load``, which builds the module while bytes arrive.

        It gives no replica before the first state is in the module: ``seen`` is called then.
        """
        import p2u

        more = {"strict": False, "dtype": self.options.get("dtype"), **self.options.get("load", {})}
        self.module = p2u.torch.load(source, self._build, straight=straight, **more).eval()
        self.replica = p2u.torch.replica(self.module)
        self.replica.on_state(seen)
        return self.replica

    def build(self) -> None:
        """Make the module, with weights that `load` replaces."""
        import safetensors.torch  # noqa: F401 - imported here, not when the weights are there

        self.module = self._build()

    def load(self, folder: Path) -> None:
        """Load the folder's safetensors files."""
        import torch
        from safetensors.torch import load_file

        given: dict[str, Any] = {}
        for path in sorted(folder.rglob("*.safetensors")):
            given.update(load_file(path))
        dtype = self.options.get("dtype")
        if dtype is not None:
            wanted = getattr(torch, dtype)
            given = {
                name: value.to(wanted) if value.is_floating_point() else value
                for name, value in given.items()
            }
        self.module.load_state_dict(given, strict=False, assign=True)

    def run(self, at: int, size: int = 1) -> Any:
        """Outputs of some items, a tensor with a row for each."""
        import torch

        part = {name: value[at : at + size] for name, value in self.inputs.items()}
        if "x" in part:
            return self.module(part["x"].to(next(self.module.parameters()).dtype))
        longest = int(part["x_attention_mask"].sum(1).max())
        part = {name.removeprefix("x_"): v[:, :longest] for name, v in part.items()}
        out = self.module(**part)
        if self.options.get("output") != "embedding":
            return out.logits
        hidden = out.last_hidden_state.float()
        mask = part["attention_mask"][..., None].float()
        pooled = (hidden * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(pooled, dim=1)

    def answer(self) -> Any:
        """The first output of the first item."""
        with self.held():
            return float(self.run(0).flatten()[0])

    def item(self, number: int) -> float:
        """Whether the best class, or the nearest row, is the label."""
        out = self.run(number)
        if self._index is not None:
            out = out @ self._index.T
        return float(int(out.argmax(1)[0]) == int(self.labels[number]))


def transformer(options: dict[str, Any]) -> Any:
    """A model of transformers, without weights.

    Args:
        options: ``config``: what ``config.json`` says; ``class``: ``"AutoModel"``.
    """
    import transformers

    made = getattr(transformers, options.get("class", "AutoModel"))
    config = dict(options["config"])
    return made.from_config(transformers.AutoConfig.for_model(config.pop("model_type"), **config))


def image_net(options: dict[str, Any]) -> Any:
    """One of the evaluation's own image classifiers, without weights.

    Args:
        options: ``model_type``, ``classes`` and ``size``, as in its ``config.json``.
    """
    from p2u_lab.vision.nets import NETS

    return NETS[options["model_type"]].build(options["classes"], options["size"])


def _named(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found


def make_user(name: str, options: Mapping[str, Any]) -> User:
    """A user by ``"arrays"``, ``"torch"``, or ``"module:Class"``."""
    own = {"arrays": Arrays, "torch": Torch}
    made: User = (own.get(name) or _named(name))(options)
    return made
