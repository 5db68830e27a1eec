"""Models of transformers from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from p2u.errors import FormatError
from p2u_lab.libraries import imported


def pretrained(kind: str, folder: Path) -> Any:
    """A model of transformers in evaluation mode, its weights as float32.

    Args:
        kind: The class: ``"AutoModel"``.
        folder: With ``config.json`` and ``model.safetensors``.

    Raises:
        FormatError: The folder lacks weights, which would be random then.
        MissingDataError: torch or transformers does not import.
    """
    torch, transformers = imported("torch"), imported("transformers")
    transformers.utils.logging.disable_progress_bar()
    module, report = getattr(transformers, kind).from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    if missing := report["missing_keys"]:
        raise FormatError(
            f"{len(missing)} weights are missing", file=str(folder), tensor=min(missing)
        )
    return module.eval()
