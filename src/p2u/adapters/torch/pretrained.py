"""``p2u.torch.from_pretrained``: open a packed Hugging Face directory with transformers."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2u.adapters.torch.loading import Options, attach, start
from p2u.adapters.torch.names import choose_tensors
from p2u.client.live.memory import ModelMemory
from p2u.client.live.replica import Replica
from p2u.disk.errors import TRY_AGAIN, disk_errors
from p2u.disk.scratch import TemporaryFolder
from p2u.errors import UnsupportedError, UsageError
from p2u.stores import Store
from p2u.types import NUMPY_NAMES, PROGRESSIVE

if TYPE_CHECKING:
    import torch

#: Options of transformers' ``from_pretrained`` that choose where files come from and how they are
#: read. A package is read in one way, so they have nothing to choose.
_NEEDLESS = frozenset(
    {
        *(
            "low_cpu_mem_usage",
            "use_safetensors",
            "cache_dir",
            "force_download",
            "local_files_only",
        ),
        *("token", "use_auth_token", "proxies", "resume_download", "mirror", "_fast_init"),
        *("weights_only", "adapter_kwargs", "from_tf", "from_flax"),
    }
)
#: Those that change what is loaded, and what to do instead.
_REFUSED = {
    "device_map": "Use device='cuda' for a whole model on one device",
    "max_memory": "Use device='cuda' for a whole model on one device",
    "offload_folder": "Use device='cuda' for a whole model on one device",
    "offload_state_dict": "Use device='cuda' for a whole model on one device",
    "offload_buffers": "Use device='cuda' for a whole model on one device",
    "tp_plan": "Use device='cuda' for a whole model on one device",
    "quantization_config": "The package has its own low-precision states: until='8bit'",
    "load_in_8bit": "The package has its own low-precision states: until='8bit'",
    "load_in_4bit": "The package has its own low-precision states: until='base'",
    "revision": "A package has versions: until='v1'",
    "code_revision": "Pack the directory with the code that you want",
    "variant": "Choose files of the package with weights='*.fp16.safetensors'",
    "subfolder": "Choose files of the package with weights='unet/*.safetensors'",
    "gguf_file": "Pack the model in safetensors: GGUF's block types are not torch's",
    "state_dict": "Use p2u.torch.load for a model of your own",
    "ignore_mismatched_sizes": "Use strict=False, which leaves out what the model does not have",
    "output_loading_info": "The log, logging.getLogger('p2u'), names tensors that do not fit",
    "key_mapping": "Use p2u.torch.load with a model whose names are those of the package",
}

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
            configuration (``output_attentions``) and the model (``attn_implementation``). Options
            of transformers about downloads have no meaning here and are ignored.

    Returns:
        The model, or a tuple of the model and an instance of each further class.

    Raises:
        UsageError: An option is unknown, or belongs to transformers' own way of loading
            (``device_map``); the hint says what to use.
        UnsupportedError: transformers is not installed.
        The errors of `load`, of transformers, and DiskError.
    """
    options = _without_transformers_loading(options)
    chosen = Options.take(options, strict=False)
    replica = start(source, chosen)
    try:
        transformers = _transformers()
        replica.wait(chosen.state, chosen.timeout)
        place = _write(replica, folder)
        config, rest = _config(transformers, model_class, place, options)
        rest[_dtype_word(transformers)] = _main_dtype(replica.memory, chosen)
        make = getattr(model_class, "from_config", None) or model_class._from_config
        model: torch.nn.Module = attach(replica, lambda: _made(make, config, rest), chosen)
        model.eval()
        if (place / "generation_config.json").is_file() and hasattr(model, "generation_config"):
            model.generation_config = transformers.GenerationConfig.from_pretrained(place)
        made = [other.from_pretrained(place) for other in others]
    except BaseException:
        replica.cancel()
        raise
    return (model, *made) if others else model


def _without_transformers_loading(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options for `load`, the configuration and the model.

    Raises:
        UsageError: One asks for something that only transformers' own way of loading does.
    """
    found = dict(options)
    if "torch_dtype" in found:  # the word of older transformers
        found.setdefault("dtype", found.pop("torch_dtype"))
    if found.get("dtype") == "auto":
        del found["dtype"]
    where = found.get("device_map")
    if where is not None and "device" not in found and not isinstance(where, Mapping):
        import torch

        with contextlib.suppress(RuntimeError, TypeError):  # "auto" is no device
            found["device"] = torch.device(where)
            del found["device_map"]
    for name in found.keys() & _REFUSED.keys():
        if found[name] not in (None, False, "main" if name == "revision" else None):
            raise UsageError(
                f"{name} belongs to transformers' own way of loading", hint=_REFUSED[name]
            )
    return {k: v for k, v in found.items() if k not in _NEEDLESS and k not in _REFUSED}


def _made(make: Callable[..., torch.nn.Module], config: Any, rest: Mapping[str, Any]) -> Any:
    """The model; an option that nobody knows is named."""
    try:
        return make(config, **rest)
    except TypeError as error:
        found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if found is None or found[1] not in rest:
            raise
        raise UsageError(
            f"neither from_pretrained nor {config.__class__.__name__} knows the option {found[1]}",
            hint="Leave it out",
        ) from error


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise UnsupportedError(
            "from_pretrained needs the library transformers",
            hint="Install it: pip install 'p2u-models[torch]'; p2u.torch.load works without",
        ) from error
    return transformers


def _write(replica: Replica, folder: str | os.PathLike[str] | None) -> Path:
    """Write the files that hold no tensors; a temporary folder is removed with the replica."""
    if folder is None:
        with disk_errors(tempfile.gettempdir(), "write", TRY_AGAIN):
            scratch = TemporaryFolder("p2u-files").__enter__()
        weakref.finalize(replica, scratch.remove)
        place = scratch.path
    else:
        place = Path(folder)
    memory = replica.memory
    holders = {path for path, _ in memory.tensors()}
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
