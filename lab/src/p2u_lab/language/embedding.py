"""Sentence embeddings: an encoder of transformers, mean pooling, unit length."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from p2u_lab.base import Trainable
from p2u_lab.language.libraries import pretrained
from p2u_lab.libraries import imported

if TYPE_CHECKING:
    import torch

#: Texts per batch; those of a batch are about equally long.
BATCH = 32


def embeddings(folder: Path, texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Embed texts with the model in a folder, computing in float32 whatever its weights are.

    Returns:
        Shape (texts, width), of unit length; NaN becomes 0.

    Raises:
        MissingDataError: transformers or torch is not installed.
    """
    torch = imported("torch")
    module, tokens = encoder(folder), coder(folder)
    order = sorted(range(len(texts)), key=lambda n: (len(texts[n]), n))
    rows: list[Any] = [None] * len(texts)
    with torch.inference_mode():
        for at in range(0, len(order), BATCH):
            chosen = order[at : at + BATCH]
            out = module(**tokens([texts[n] for n in chosen])).numpy()
            for n, row in zip(chosen, out, strict=True):
                rows[n] = row
    return np.nan_to_num(np.stack(rows).astype(np.float32))


def encoder(folder: Path) -> torch.nn.Module:
    """The model in a folder; takes ``input_ids`` and ``attention_mask``, gives embeddings.

    The names in its state dict are those of the folder's ``model.safetensors``.
    """
    torch = imported("torch")
    whole = pretrained("AutoModel", folder)

    class Pooled(torch.nn.Module):  # type: ignore[name-defined,misc]
        """The encoder's own children, so that the names stay, and the mean behind them."""

        def __init__(self) -> None:
            super().__init__()
            for name, child in whole.named_children():
                self.add_module(name, child)
            # Not as a child of this one, or every name would be there twice.
            self.__dict__["whole"] = whole

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            hidden = whole(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            mask = attention_mask[..., None]
            pooled = (hidden * mask).sum(1) / mask.sum(1)
            return torch.nn.functional.normalize(pooled, dim=1)

    return Pooled().eval()


def coder(folder: Path) -> Callable[[Sequence[str]], dict[str, torch.Tensor]]:
    """The tokenizer of a model: from texts to the encoder's keywords.

    These are int64, of shape (texts, longest of them).
    """
    torch = imported("torch")
    tokenizer = imported("tokenizers").Tokenizer.from_file(str(folder / "tokenizer.json"))
    limits = json.loads((folder / "sentence_bert_config.json").read_text())
    config = json.loads((folder / "config.json").read_text())
    tokenizer.enable_truncation(limits["max_seq_length"])
    padding = config["pad_token_id"]
    tokenizer.enable_padding(pad_id=padding, pad_token=tokenizer.id_to_token(padding))

    def tokens(texts: Sequence[str]) -> dict[str, Any]:
        coded = tokenizer.encode_batch(list(texts))
        return {
            "input_ids": torch.tensor([c.ids for c in coded]),
            "attention_mask": torch.tensor([c.attention_mask for c in coded]),
        }

    return tokens


def trainable(folder: Path, texts: Sequence[str]) -> Trainable:
    """The encoder with texts to learn from."""
    tokens, ordered = coder(folder), sorted(texts, key=len)
    batches = [tokens(ordered[at : at + 16]) for at in range(0, len(ordered), 16)]
    return Trainable(encoder(folder), batches, "values")
