"""Match the tensors of a package with those of a module, by name."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from p2u.client.live.memory import ModelMemory
from p2u.errors import UsageError
from p2u.names.prefixes import find_renaming
from p2u.package.layout import Tensor

if TYPE_CHECKING:
    import torch


def choose_tensors(files: ModelMemory, weights: str | None) -> dict[str, Tensor]:
    """The package's tensors for a model, by the names in their file.

    Args:
        files: Of the package.
        weights: Pattern of paths; None: the safetensors files at the top, else all that there are,
            else every file that has tensors.

    Raises:
        UsageError: No file matches, or two files have a tensor of the same name.
    """
    tensors = list(files.tensors())
    holders = sorted({path for path, _ in tensors})
    if weights is not None:
        chosen = [path for path in holders if fnmatch.fnmatchcase(path, weights)]
    else:
        chosen = [path for path in holders if path.endswith(".safetensors")]
        chosen = [path for path in chosen if "/" not in path] or chosen or holders
    found: dict[str, Tensor] = {}
    places: dict[str, str] = {}
    for path, tensor in tensors:
        if path not in chosen:
            continue
        if tensor.name in found:
            raise UsageError(
                f"tensor {tensor.name!r} is in {places[tensor.name]} and in {path}",
                hint="Choose the model's files: weights='unet/*.safetensors'",
            )
        found[tensor.name], places[tensor.name] = tensor, path
    if not found:
        raise UsageError(
            f"no file with tensors matches {weights!r}; there are {', '.join(holders) or 'none'}"
        )
    return found


def rename(found: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """The tensors by a model's names, those of its state dict.

    A model and its file may differ by one prefix, see `find_renaming`.
    """
    wanted = set(names)
    best = find_renaming(found, wanted)
    renamed: dict[str, Tensor] = {}
    for name, tensor in found.items():
        new = best(name)
        if new not in wanted:
            # TensorFlow's names, which old files of transformers have.
            new = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", new))
        renamed[new if new in wanted and new not in renamed else name] = tensor
    return renamed


def tied_names(model: torch.nn.Module) -> list[list[str]]:
    """Groups of parameter names that are one parameter."""
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return [names for names in groups.values() if len(names) > 1]
