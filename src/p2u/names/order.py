"""Guess from their names the order in which a forward pass needs a model's tensors.

Chunks are stored in this order, so that whoever computes while the rest still arrives (layer by
layer) waits least. It is a guess that costs nothing when wrong: any order decodes.

A name is compared segment by segment (``model`` . ``layers`` . ``10`` . ``mlp``). Each segment
gets a stage among its siblings (stem, body, final norm, head), then a number, then a kind.
"""

from __future__ import annotations

import re
from functools import lru_cache

#: Numbers and words of a segment: ``(1, 10, "")`` for a number, ``(2, 0, "text")`` for a word.
NaturalKey = tuple[tuple[int, int, str], ...]
#: Stage, number, kind, then the segment itself in natural order.
SegmentKey = tuple[int, int, int, NaturalKey]
ForwardKey = tuple[tuple[SegmentKey, ...], str]

STEM, FIRST, BODY, STACK, BRIDGE, LAST, NORM, HEAD = range(8)

#: For segments without a number: behind all that have one (a ResNet's ``downsample``).
UNNUMBERED = 10**9
#: Where a feed-forward part lies in its layer: behind attention and all numbered norms.
FEED_FORWARD = 100

# Stages of whole segments, lower case and without leading underscores.
STAGES: tuple[tuple[int, re.Pattern[str]], ...] = tuple(
    (stage, re.compile(rf"(?:{pattern})\Z"))
    for stage, pattern in (
        (STEM, r"\w*embed(?:ding|dings|s|_tokens|_positions|_in|_out_of)?|embed_\w+"),
        (STEM, r"wte|wpe|shared|stem|conv_stem|\w+_token|patch_embed\w*|pos_embed\w*"),
        (STEM, r"\w*_embd(?:_norm)?|token_types|rope_freqs"),  # GGUF
        (FIRST, r"enc|encoder|vision_tower|vision_model|visual|image_encoder"),
        (BRIDGE, r"multi_modal_projector|mm_projector|connector|enc_to_dec_proj|mm"),
        (LAST, r"dec|decoder|language_model|text_decoder"),
        (STACK, r"layers?\d*|h|blk|blocks?\d*|stages?\d*|resblocks|block_group\d*"),
        (NORM, r"norm|ln|ln_f|ln_post|layer_?norm|rms_?norm|(?:final|post)_(?:layer_?)?norm"),
        (NORM, r"output_norm"),
        (HEAD, r"heads?|\w+_head|pooler|classifier|cls|score|fc|linear|outputs?|qa_outputs"),
        (HEAD, r"proj_out|output_layer|predictions|logits|logit_scale|logit_bias|generator"),
        (HEAD, r"final_logits_bias|visual_projection|text_projection|embed_out"),
    )
)

# (number, kind) of the parts of one layer that have no number of their own, or whose number
# counts something else. Kinds: 0 a norm before, 1 the work itself, 2 a norm after, 3 the rest.
PLACES: dict[str, tuple[int, int]] = {
    "weight": (0, 0),
    "bias": (0, 1),
    # a transformer layer
    "input_layernorm": (1, 0),
    "self_attn_layer_norm": (1, 0),
    "layernorm_before": (1, 0),
    "attn": (1, 1),
    "attention": (1, 1),
    "self_attn": (1, 1),
    "self_attention": (1, 1),
    "selfattention": (1, 1),
    "encoder_attn_layer_norm": (1, 2),
    "encoder_attn": (1, 3),
    "crossattention": (1, 3),
    "cross_attn": (1, 3),
    "post_attention_layernorm": (2, 0),
    "layernorm_after": (2, 0),
    "intermediate": (FEED_FORWARD, 1),
    "mlp": (FEED_FORWARD, 1),
    "ffn": (FEED_FORWARD, 1),
    "feed_forward": (FEED_FORWARD, 1),
    # a transformer layer as GGUF names it
    "attn_norm": (1, 0),
    "attn_qkv": (1, 1),
    "attn_q": (1, 1),
    "attn_q_norm": (1, 2),
    "attn_k": (1, 3),
    "attn_k_norm": (1, 4),
    "attn_v": (1, 5),
    "attn_output": (1, 6),
    "attn_output_norm": (1, 7),
    "post_attention_norm": (1, 7),
    "ffn_norm": (FEED_FORWARD, 0),
    "ffn_gate_inp": (FEED_FORWARD, 1),
    "ffn_gate": (FEED_FORWARD, 2),
    "ffn_gate_exps": (FEED_FORWARD, 2),
    "ffn_up": (FEED_FORWARD, 3),
    "ffn_up_exps": (FEED_FORWARD, 3),
    "ffn_down": (FEED_FORWARD, 4),
    "ffn_down_exps": (FEED_FORWARD, 4),
    "post_ffw_norm": (FEED_FORWARD, 5),
    "layer_output_norm": (FEED_FORWARD, 5),
    # attention
    "q": (1, 0),
    "query": (1, 0),
    "q_proj": (1, 0),
    "k": (2, 0),
    "key": (2, 0),
    "k_proj": (2, 0),
    "v": (3, 0),
    "value": (3, 0),
    "v_proj": (3, 0),
    "o": (4, 0),
    "o_proj": (4, 0),
    "out_proj": (4, 0),
    # a gated feed-forward part
    "gate_proj": (1, 0),
    "up_proj": (2, 0),
    "down_proj": (3, 0),
    # an inverted residual block
    "expand_conv": (0, 1),
    "depthwise_conv": (1, 1),
    "se_reduce": (1, 3),
    "se_expand": (1, 4),
    "project_conv": (2, 1),
    # heads
    "conv_head": (0, 1),
    "pooler": (0, 1),
}

# Batch norms of the final convolution: next to the blocks, but needed behind them.
ROOT_HEADS = {"_bn1": (0, 2), "bn2": (0, 2)}

FEED_FORWARD_NAME = re.compile(r"(?:fc|lin|linear)_?(\d+)\Z", re.ASCII)
NUMBER = re.compile(r"([0-9]+)")
TRAILING_NUMBER = re.compile(r"([0-9]+)\Z")


def _integer(digits: str) -> int:
    """Bounded: a name may have any number of digits, and ``int`` refuses beyond 4300."""
    return int(digits) if len(digits) <= 9 else UNNUMBERED


def _natural(text: str) -> NaturalKey:
    return tuple(
        (1, _integer(part), "") if part[0] in "0123456789" else (2, 0, part)
        for part in NUMBER.split(text)
        if part
    )


def _place(word: str) -> tuple[int, int]:
    """The number and the kind of a lower-case segment among its siblings."""
    if word in PLACES:
        return PLACES[word]
    if match := FEED_FORWARD_NAME.match(word):
        return FEED_FORWARD + _integer(match[1]), 1
    match = TRAILING_NUMBER.search(word)
    number = _integer(match[1]) if match else UNNUMBERED
    if word.startswith(("ln", "norm", "layer_norm")):
        kind = 0
    elif word.startswith("bn"):
        kind = 2
    else:
        kind = 1
    return number, kind


@lru_cache(maxsize=4096)
def _segment_key(segment: str, root: bool) -> SegmentKey:
    lower = segment.lower()
    if root and lower in ROOT_HEADS:
        return HEAD, *ROOT_HEADS[lower], _natural(lower)
    word = lower.lstrip("_")
    number, kind = _place(word)
    stage = next((stage for stage, pattern in STAGES if pattern.match(word)), BODY)
    return stage, number, kind, _natural(segment)


def forward_key(name: str) -> ForwardKey:
    """Return a sort key for a tensor's name: what a forward pass needs first comes first.

    Embeddings and stem, then the layers in the order of their numbers (2 before 10, encoder
    before decoder), then the final norm, pooler and heads. Equal keys mean equal names.

    Args:
        name: Any string; segments are separated by ``.`` or ``/``.

    Returns:
        A tuple to compare with other results of this function, good for nothing else.
    """
    segments = re.split(r"[./]", name)
    keys = tuple(_segment_key(segment, at == 0) for at, segment in enumerate(segments))
    return keys, name
