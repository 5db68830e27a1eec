"""``p2u.torch.from_pretrained``: open a packed Hugging Face directory with transformers."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2u.adapters.torch.loading import Options, attach, start
from p2u.adapters.torch.names import choose_tensors
from p2u.client.live.memory import ModelMemory
from p2u.client.live.replica import Replica
from p2u.disk.errors import disk_errors
from p2u.errors import UnsupportedError
from p2u.stores import Store
from p2u.types import NUMPY_NAMES, PROGRESSIVE

if TYPE_CHECKING:
    import torch

#: Larger files without tensors are not written: no configuration or tokenizer is like that.
_LARGEST = 64 << 20


def from_pretrained(
    source: str | os.PathLike[str] | Store,
    model_class: Any,
    *others: Any,
    folder: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Any:
    """A model of transformers that works from the base on, and what belongs to it.

    ``model, tokenizer = from_pretrained(url, AutoModelForCausalLM, AutoTokenizer)``. The model is
    one of `load`, in ``eval`` mode; its configuration, tokenizer and generation settings travel
    with the base and are written to a folder, ``model.name_or_path``.

    Args:
        source: Path or URL of a package, or an open store.
        model_class: ``AutoModel...`` or a class of transformers' models.
        others: Classes with ``from_pretrained(folder)``: tokenizers, processors.
        folder: For the files without tensors; by default one that goes with the model.
        options: Those of `load`, with ``strict=False`` by default: parameters that the package
            lacks are new, others are left out, both with a warning. Further ones are for the
            configuration (``output_attentions``) and the model (``attn_implementation``).

    Returns:
        The model, or a tuple of the model and an instance of each further class.

    Raises:
        UnsupportedError: transformers is not installed.
        The errors of `load`, of transformers, and DiskError.
    """
    chosen = Options.take(options, strict=False)
    replica = start(source, chosen)
    try:
        transformers = _transformers()
        replica.wait(chosen.state, chosen.timeout)
        place = _write(replica, folder)
        config, rest = _config(transformers, model_class, place, options)
        rest[_dtype_word(transformers)] = _main_dtype(replica.memory, chosen)
        make = getattr(model_class, "from_config", None) or model_class._from_config
        model: torch.nn.Module = attach(replica, lambda: make(config, **rest), chosen)
        model.eval()
        if (place / "generation_config.json").is_file() and hasattr(model, "generation_config"):
            model.generation_config = transformers.GenerationConfig.from_pretrained(place)
        made = [other.from_pretrained(place) for other in others]
    except BaseException:
        replica.cancel()
        raise
    return (model, *made) if others else model


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise UnsupportedError(
            "from_pretrained needs the library transformers",
            hint="Install it: pip install transformers; p2u.torch.load works without",
        ) from error
    return transformers


def _write(replica: Replica, folder: str | os.PathLike[str] | None) -> Path:
    """Write the files that hold no tensors; a temporary folder is removed with the replica."""
    if folder is None:
        temporary = tempfile.TemporaryDirectory(prefix="p2u-")
        weakref.finalize(replica, temporary.cleanup)
        place = Path(temporary.name)
    else:
        place = Path(folder)
    memory = replica.memory
    holders = {memory.release.files[tensor.file].path for tensor in memory.layout.tensors}
    for name, content in replica.files.items():
        if name in holders or len(content) > _LARGEST:
            continue
        path = place / name
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return place


def _config(
    transformers: Any, model_class: Any, place: Path, options: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The configuration, and the options that are not for it."""
    kind = getattr(model_class, "config_class", None) or transformers.AutoConfig
    config, rest = kind.from_pretrained(place, return_unused_kwargs=True, **options)
    if "trust_remote_code" in options:
        rest["trust_remote_code"] = options["trust_remote_code"]
    return config, rest


def _dtype_word(transformers: Any) -> str:
    return "dtype" if int(transformers.__version__.partition(".")[0]) >= 5 else "torch_dtype"


def _main_dtype(memory: ModelMemory, options: Options) -> torch.dtype:
    """The dtype of most weights, so that buffers that the package lacks suit them."""
    import torch

    dtype, _ = options.target()
    if dtype is not None:
        return dtype
    sizes: dict[str, int] = {}
    for tensor in choose_tensors(memory, options.weights).values():
        if tensor.dtype in PROGRESSIVE:
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.elems
    return getattr(torch, NUMPY_NAMES[max(sizes, key=sizes.__getitem__, default="F32")])
