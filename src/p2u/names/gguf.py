"""Translate names of tensors between Hugging Face's model families and llama.cpp.

Only a first guess at which tensors belong together; whoever uses it looks at the values, too. The
names of GGUF are those of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import re

#: Of modules within a layer; the longest that a name ends with counts.
_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.out_proj": "attn_output",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "attention.query_key_value": "attn_qkv",
    "attention.dense": "attn_output",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
#: Of modules outside of layers.
_REST = {
    "embed_tokens": "token_embd",
    "word_embeddings": "token_embd",
    "wte": "token_embd",
    "position_embeddings": "position_embd",
    "wpe": "position_embd",
    "token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "norm": "output_norm",
    "ln_f": "output_norm",
    "final_layernorm": "output_norm",
    "lm_head": "output",
}

_IN_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.([0-9]+)\.(.+)\Z")


def gguf_name(name: str) -> str:
    """The name that llama.cpp gives a tensor; the same name if it is GGUF's, or unknown."""
    module, _, kind = name.rpartition(".")
    if found := _IN_LAYER.search(module):
        known = _ending(found[2], _LAYER)
        return f"blk.{int(found[1])}.{known}.{kind}" if known else name
    known = _ending(module, _REST)
    return f"{known}.{kind}" if known else name


def _ending(module: str, table: dict[str, str]) -> str | None:
    """The entry for the longest ending of a dotted path."""
    parts = module.split(".")
    for first in range(len(parts)):
        if known := table.get(".".join(parts[first:])):
            return known
    return None
