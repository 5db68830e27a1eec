"""CTranslate2's Whisper under the names of transformers, so that transformers loads it.

CTranslate2 stacks the rows of query, key and value in one matrix, and gives the keys a bias,
which is always zero; transformers has them apart, and no bias. Nothing else differs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from p2u.errors import FormatError
from p2u_lab.tensorfiles import Array

#: The parts of a layer: CTranslate2's name -> transformers', or several whose rows are stacked.
_LAYER: dict[str, tuple[str, ...]] = {
    "self_attention/layer_norm": ("self_attn_layer_norm",),
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "attention/layer_norm": ("encoder_attn_layer_norm",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
    "ffn/layer_norm": ("final_layer_norm",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
}

_TOP = {
    "embeddings": "embed_tokens",
    "position_encodings": "embed_positions",
    "conv1": "conv1",
    "conv2": "conv2",
    "layer_norm": "layer_norm",
}

_LEAF = {"gamma": "weight", "beta": "bias", "encodings": "weight"}


def renamed(tensors: dict[str, Array]) -> dict[str, Array]:
    """The tensors under transformers' names; CTranslate2's settings (integers) are left out.

    Raises:
        FormatError: A name is not Whisper's, or a bias that should be zero is not.
    """
    out: dict[str, Array] = {}
    for name, array in tensors.items():
        if array.ndim == 0 or "alignment" in name:
            continue
        for target, part in _targets(name, array):
            if target.endswith("k_proj.bias"):
                if part.any():
                    raise FormatError("a key's bias that is not zero", tensor=name)
                continue
            out[target] = part
    return out


def _targets(name: str, array: Array) -> Iterator[tuple[str, Array]]:
    """What one variable is in transformers."""
    side, *middle, leaf = name.split("/")
    leaf = _LEAF.get(leaf, leaf)
    first = middle[0] if middle else ""
    if first.startswith("layer_") and first[6:].isdigit():
        parts = _LAYER.get("/".join(middle[1:]), ())
        prefix = f"model.{side}.layers.{first[6:]}."
    else:
        parts = (_TOP[first],) if first in _TOP else ()
        prefix = f"model.{side}."
    if not parts:
        raise FormatError("not a variable of Whisper", tensor=name)
    rows = len(array) // len(parts)
    for n, part in enumerate(parts):
        yield f"{prefix}{part}.{leaf}", array[n * rows : (n + 1) * rows]


def config(tensors: dict[str, Array], heads: int) -> dict[str, Any]:
    """config.json for transformers' Whisper, sizes from the renamed tensors."""
    vocabulary, width = tensors["model.decoder.embed_tokens.weight"].shape
    layers = {
        side: 1 + max(int(n.split(".")[3]) for n in tensors if n.startswith(f"model.{side}.layers"))
        for side in ("encoder", "decoder")
    }
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "vocab_size": vocabulary,
        "d_model": width,
        "num_mel_bins": tensors["model.encoder.conv1.weight"].shape[1],
        "encoder_layers": layers["encoder"],
        "decoder_layers": layers["decoder"],
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": len(tensors["model.encoder.layers.0.fc1.bias"]),
        "decoder_ffn_dim": len(tensors["model.decoder.layers.0.fc1.bias"]),
        "max_source_positions": len(tensors["model.encoder.embed_positions.weight"]),
        "max_target_positions": len(tensors["model.decoder.embed_positions.weight"]),
        # The same in every multilingual Whisper up to large-v2.
        "bos_token_id": 50257,
        "eos_token_id": 50257,
        "pad_token_id": 50257,
        "decoder_start_token_id": 50258,
        "tie_word_embeddings": True,
    }


def generation(source: Path) -> dict[str, Any]:
    """generation_config.json out of CTranslate2's config.json: what may not be said."""
    settings = json.loads(source.read_text())
    return {
        "suppress_tokens": settings["suppress_ids"],
        "begin_suppress_tokens": settings["suppress_ids_begin"],
    }
