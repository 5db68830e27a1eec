"""all-mpnet-base-v2 in NumPy: MPNet's encoder (Song et al. 2020) next to the demo's MiniLM."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples"))

from minilm import Array, MiniLM

#: Of the relative position bias, as transformers' MPNet has them.
BUCKETS, FURTHEST = 32, 128


class MPNet(MiniLM):
    """BERT with a relative position bias, positions counted from 2, and names of its own."""

    ATTENTION = ("attn.q", "attn.k", "attn.v", "attn.o", "LayerNorm")

    def embed(self, texts: list[str]) -> Array:
        """Unit-length sentence embeddings, shape (len(texts), 768)."""
        batch = self.tokenizer.encode_batch(texts)
        ids = np.array([e.ids for e in batch])
        mask = np.array([e.attention_mask for e in batch], np.float32)
        length = ids.shape[1]
        places = np.cumsum(mask, 1).astype(int) * mask.astype(int) + 1
        x = (
            self.w["embeddings.word_embeddings.weight"][ids]
            + self.w["embeddings.position_embeddings.weight"][places]
        )
        x = self._norm(x, "embeddings.LayerNorm")
        table = self.w["encoder.relative_attention_bias.weight"][_buckets(length)]
        bias = table.transpose(2, 0, 1)[None] + (1 - mask)[:, None, None, :] * np.float32(-1e9)
        for i in range(self.layers):
            x = self._layer(x, bias, f"encoder.layer.{i}.")
        return self._pool(x, mask)


def _buckets(length: int) -> np.ndarray:
    """Bucket of each pair (query, key): T5's rule (Raffel et al. 2020)."""
    places = np.arange(length)
    back = places[:, None] - places[None, :]
    half = BUCKETS // 2
    sign = (back < 0) * half
    back = np.abs(back)
    exact = half // 2
    far = exact + np.log(np.maximum(back, 1) / exact) / math.log(FURTHEST / exact) * (half - exact)
    return sign + np.where(back < exact, back, np.minimum(far.astype(int), half - 1))
