"""Check a shard index (``model.safetensors.index.json``) against the files that are there."""

from __future__ import annotations

import re
from collections.abc import Mapping

from p2u.disk.errors import disk_error
from p2u.errors import FormatError
from p2u.formats.reader import open_structure
from p2u.package.strict_json import parse_object
from p2u.types import ModelFile

#: With a variant, too: ``model.safetensors.index.fp16.json``.
INDEX_NAME = re.compile(r"\.(safetensors|bin|pt|pth)\.index(?:\.[^./]+)?\.json\Z")
#: Bytes.
MAX_INDEX = 100_000_000
#: How many missing names a message lists.
SHOWN = 5


def is_index(path: str) -> bool:
    """Whether a path is that of a shard index."""
    return INDEX_NAME.search(path) is not None


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"


def read_weight_map(path: str, file: str) -> dict[str, str]:
    """Read which tensor is in which shard.

    Args:
        path: Where the index is.
        file: What to call it in messages.

    Returns:
        Shard file by tensor name, as written in the index.

    Raises:
        DiskError: It cannot be read.
        FormatError: It is not a shard index.
    """
    try:
        with open_structure(path) as stream:
            raw = stream.read(MAX_INDEX + 1)
    except OSError as error:
        raise disk_error(error, file, "read") from error
    hint = "Fetch the index again, or remove it if the model is not sharded"
    if len(raw) > MAX_INDEX:
        raise FormatError(f"a shard index has at most {MAX_INDEX} bytes", file=file, hint=hint)
    weight_map = parse_object(raw, file=file, what="shard index", hint=hint).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(shard, str) for shard in weight_map.values()
    ):
        raise FormatError("weight_map must map tensor names to file names", file=file, hint=hint)
    return weight_map


def check_index(path: str, index: str, files: Mapping[str, ModelFile]) -> None:
    """Check that all shards and tensors that an index names are there.

    An index of PyTorch's files may be left over from a repository that has the model twice: it
    counts if one of its shards is there. Its tensors can have other names in the files.

    Args:
        path: Where the index is.
        index: Its path in the model directory.
        files: All files of the model directory by their path in it.

    Raises:
        DiskError: The index cannot be read.
        FormatError: It is malformed, or names files or tensors that are missing.
    """
    folder = index.rpartition("/")[0]
    tensors: dict[str, list[str]] = {}
    for tensor, shard in read_weight_map(path, index).items():
        tensors.setdefault(shard, []).append(tensor)
    # Shards lie next to their index; one that lies elsewhere is as good as missing.
    located = {shard: files.get(f"{folder}/{shard}" if folder else shard) for shard in tensors}
    missing = sorted(shard for shard, file in located.items() if file is None)
    match = INDEX_NAME.search(index)
    strict = match is not None and match[1] == "safetensors"
    if missing and (strict or len(missing) < len(tensors)):
        raise FormatError(
            f"{len(missing)} of {len(tensors)} shards are missing: {_listed(missing)}",
            file=index,
            hint=f"Fetch the missing files into {folder or 'the model directory'}",
        )
    if not strict:
        return
    absent = []
    for shard, file in located.items():
        held = {span.name for span in file.spans} if file else set()
        absent += [f"{name} (in {shard})" for name in tensors[shard] if name not in held]
    if absent:
        raise FormatError(
            f"{len(absent)} tensors are not in the shard named for them: {_listed(sorted(absent))}",
            file=index,
            hint="The index and the shards are of different models or incomplete: fetch them again",
        )
