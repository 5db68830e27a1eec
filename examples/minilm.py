"""all-MiniLM-L6-v2 in NumPy: sentence embeddings from a model directory, without a framework.

BERT encoder (Devlin et al. 2019) with 6 layers and 12 heads, mean pooling, unit length.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes  # noqa: F401 - teaches NumPy the name "bfloat16"
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from tokenizers import Tokenizer

if TYPE_CHECKING:
    from typing_extensions import Self

Array = NDArray[np.float32]


class MiniLM:
    """The encoder; weights of any float dtype are used as float32.

    Args:
        weights: Name to array, as ``p2u.open(...).tensors`` has them.
        config: The text of ``config.json``.
        tokenizer: The text of ``tokenizer.json``.
    """

    #: Where a layer has query, key, value and output, and the norm behind them.
    ATTENTION = ("self.query", "self.key", "self.value", "output.dense", "output.LayerNorm")

    def __init__(self, weights: Mapping[str, NDArray[Any]], config: str, tokenizer: str) -> None:
        settings = json.loads(config)
        self.heads: int = settings["num_attention_heads"]
        self.layers: int = settings["num_hidden_layers"]
        self.eps: float = settings.get("layer_norm_eps", 1e-12)
        self.tokenizer = Tokenizer.from_str(tokenizer)
        self.tokenizer.enable_truncation(128)
        self.tokenizer.enable_padding()
        self.w = {
            name: np.asarray(array, np.float32)
            for name, array in weights.items()
            if "position_ids" not in name
        }

    @classmethod
    def from_directory(cls, directory: str | Path) -> Self:
        """Read ``model.safetensors``, ``config.json`` and ``tokenizer.json``."""
        root = Path(directory)
        with safe_open(str(root / "model.safetensors"), framework="numpy") as f:
            weights = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 - no dict
        return cls(
            weights, (root / "config.json").read_text(), (root / "tokenizer.json").read_text()
        )

    def embed(self, texts: list[str]) -> Array:
        """Unit-length sentence embeddings, shape (len(texts), 384)."""
        batch = self.tokenizer.encode_batch(texts)
        ids = np.array([e.ids for e in batch])
        mask = np.array([e.attention_mask for e in batch], np.float32)
        e = "embeddings."
        x = (
            self.w[e + "word_embeddings.weight"][ids]
            + self.w[e + "position_embeddings.weight"][: ids.shape[1]]
            + self.w[e + "token_type_embeddings.weight"][0]
        )
        x = self._norm(x, e + "LayerNorm")
        for i in range(self.layers):
            x = self._layer(x, (1 - mask)[:, None, None, :] * -1e9, f"encoder.layer.{i}.")
        return self._pool(x, mask)

    def _pool(self, x: Array, mask: Array) -> Array:
        pooled = (x * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        return np.asarray(pooled / np.linalg.norm(pooled, axis=1, keepdims=True), np.float32)

    def _linear(self, x: Array, name: str) -> Array:
        return x @ self.w[name + ".weight"].T + self.w[name + ".bias"]

    def _norm(self, x: Array, name: str) -> Array:
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps)
        return x * self.w[name + ".weight"] + self.w[name + ".bias"]

    def _layer(self, x: Array, bias: Array, p: str) -> Array:
        b, t, d = x.shape
        query, key, value, output, norm = (f"{p}attention.{name}" for name in self.ATTENTION)

        def split(name: str) -> Array:
            y = self._linear(x, name)
            return y.reshape(b, t, self.heads, -1).transpose(0, 2, 1, 3)

        q, k, v = split(query), split(key), split(value)
        scores = q @ k.transpose(0, 1, 3, 2) / math.sqrt(d / self.heads) + bias
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        context = (scores @ v).transpose(0, 2, 1, 3).reshape(b, t, d)
        x = self._norm(x + self._linear(context, output), norm)
        y = self._linear(x, p + "intermediate.dense")
        y = 0.5 * y * (1 + erf(y / math.sqrt(2)))
        return self._norm(x + self._linear(y, p + "output.dense"), p + "output.LayerNorm")


def erf(x: Array) -> Array:
    """Abramowitz and Stegun 7.1.26; error below 1.5e-7."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    poly = t * (
        0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))
    )
    return np.asarray(np.sign(x) * (1 - poly * np.exp(-x * x)), np.float32)
