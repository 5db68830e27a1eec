"""Collect the sidecar files of a Hugging Face model: configuration, tokenizer and so on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2u.disk.errors import disk_errors
from p2u.errors import UsageError
from p2u.formats import npy, npz, suffixes
from p2u.formats.walk import is_left_out

if TYPE_CHECKING:
    import torch

#: Endings of weights that P2U has no format for: those of Keras and of Flax.
_FOREIGN = (".h5", ".msgpack")
#: Endings of arrays that a processor may need, such as the voices of a speech model.
_ARRAYS = (*npy.SUFFIXES, *npz.SUFFIXES)
#: Larger files are none of configuration or tokenizer.
_LARGEST = 256 << 20


def _weight_suffixes() -> tuple[str, ...]:
    """Endings of the names of weights and of their shard indices; they come from the trainer."""
    known = tuple(suffix for suffix in suffixes() if suffix not in _ARRAYS)
    return (*known, *(f"{suffix}.index.json" for suffix in known), *_FOREIGN)


def read_folder(folder: str | os.PathLike[str]) -> dict[str, bytes]:
    """Path to content of all files of a model directory but its weights and those of tools.

    Raises:
        UsageError: It is no folder, or a file is too large.
        DiskError: One cannot be read.
    """
    top = Path(folder)
    found: dict[str, bytes] = {}
    weights = _weight_suffixes()
    with disk_errors(top, "read"):
        if not top.is_dir():
            raise UsageError("is not a folder", file=str(folder), hint="Check files=")
        for path in sorted(top.rglob("*")):
            below = path.relative_to(top)
            left_out = any(is_left_out(part) for part in below.parts)
            if left_out or not path.is_file() or path.name.lower().endswith(weights):
                continue
            if path.stat().st_size > _LARGEST:
                raise UsageError(
                    f"has more than {_LARGEST >> 20} MiB, too much for a sidecar file",
                    file=str(path),
                    hint="Remove it from the folder given as files=",
                )
            found[below.as_posix()] = path.read_bytes()
    return found


def of_model(source: Any, dtype: torch.dtype | None) -> dict[str, bytes]:
    """``config.json`` and ``generation_config.json`` of a model of transformers; else nothing.

    Args:
        source: What was given to publish.
        dtype: What the weights were cast to, which is what the configuration says then.
    """
    found = {}
    for attribute in ("config", "generation_config"):
        config = getattr(source, attribute, None)
        if config is None or not hasattr(config, "to_json_string"):
            continue
        tree = json.loads(config.to_json_string())
        if attribute == "config":
            tree.setdefault("architectures", [type(source).__name__])
            for word in ("dtype", "torch_dtype"):
                if dtype is not None and word in tree:
                    tree[word] = str(dtype).removeprefix("torch.")
        text = json.dumps(tree, indent=2, sort_keys=True, ensure_ascii=False)
        found[f"{attribute}.json"] = text.encode() + b"\n"
    return found
