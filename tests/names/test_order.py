"""forward_key on the real tensor names of well-known models."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2u.names.order import forward_key


def bert(prefix: str = "") -> list[str]:
    """all-MiniLM-L6-v2 without a prefix; BERT with its heads has one."""
    layers = [
        f"encoder.layer.{layer}.{part}.{kind}"
        for layer in range(12)
        for part in (
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
            "attention.output.LayerNorm",
            "intermediate.dense",
            "output.dense",
            "output.LayerNorm",
        )
        for kind in ("weight", "bias")
    ]
    embeddings = [
        "embeddings.position_embeddings.weight",
        "embeddings.token_type_embeddings.weight",
        "embeddings.word_embeddings.weight",
        "embeddings.LayerNorm.weight",
        "embeddings.LayerNorm.bias",
    ]
    pooler = ["pooler.dense.weight", "pooler.dense.bias"]
    return [prefix + name for name in embeddings + layers + pooler]


def llama(layers: int = 32) -> list[str]:
    parts = (
        "input_layernorm",
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "post_attention_layernorm",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    )
    body = [f"model.layers.{layer}.{part}.weight" for layer in range(layers) for part in parts]
    return ["model.embed_tokens.weight", *body, "model.norm.weight", "lm_head.weight"]


def llama_original(layers: int = 11) -> list[str]:
    parts = ("attention.wk", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3")
    body = [f"layers.{layer}.{part}.weight" for layer in range(layers) for part in parts]
    return ["tok_embeddings.weight", *body, "norm.weight", "output.weight"]


def gpt2(prefix: str = "") -> list[str]:
    parts = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    body = [
        f"h.{layer}.{part}.{kind}"
        for layer in range(12)
        for part in parts
        for kind in ("weight", "bias")
    ]
    return [prefix + name for name in ["wpe.weight", "wte.weight", *body, "ln_f.weight"]]


def resnet(head: str = "fc") -> list[str]:
    """torchvision's ResNet-50; the CIFAR ones call the head ``linear``."""
    norm = ("weight", "bias", "running_mean", "running_var")
    names = ["conv1.weight", *(f"bn1.{kind}" for kind in norm)]
    for layer in range(1, 5):
        for block in range(11):
            for part in range(1, 4):
                names.append(f"layer{layer}.{block}.conv{part}.weight")
                names += [f"layer{layer}.{block}.bn{part}.{kind}" for kind in norm]
            if block == 0:
                names.append(f"layer{layer}.0.downsample.0.weight")
                names += [f"layer{layer}.0.downsample.1.{kind}" for kind in norm]
    return [*names, f"{head}.weight", f"{head}.bias"]


def efficientnet_lite() -> list[str]:
    names = ["_conv_stem.weight", "_bn0.weight", "_bn0.bias"]
    for block in range(16):
        names += [
            f"_blocks.{block}._expand_conv.weight",
            f"_blocks.{block}._bn0.weight",
            f"_blocks.{block}._depthwise_conv.weight",
            f"_blocks.{block}._bn1.weight",
            f"_blocks.{block}._project_conv.weight",
            f"_blocks.{block}._bn2.weight",
        ]
    return [*names, "_conv_head.weight", "_bn1.weight", "_bn1.bias", "_fc.weight", "_fc.bias"]


def efficientnet_timm() -> list[str]:
    body = [
        f"blocks.{stage}.{block}.{part}.weight"
        for stage in range(7)
        for block in range(11)
        for part in ("bn1", "bn2", "bn3")
    ]
    head = ["conv_head.weight", "bn2.weight", "classifier.weight", "classifier.bias"]
    return ["conv_stem.weight", "bn1.weight", *body, *head]


def whisper() -> list[str]:
    def layer(prefix: str, cross: bool) -> list[str]:
        attention = ["q_proj", "k_proj", "v_proj", "out_proj"]
        names = ["self_attn_layer_norm", *(f"self_attn.{part}" for part in attention)]
        if cross:
            names += ["encoder_attn_layer_norm", *(f"encoder_attn.{part}" for part in attention)]
        names += ["fc1", "fc2", "final_layer_norm"]
        return [f"{prefix}.{name}.weight" for name in names]

    names = ["model.encoder.embed_positions.weight"]
    names += ["model.encoder.conv1.weight", "model.encoder.conv1.bias"]
    names += ["model.encoder.conv2.weight", "model.encoder.conv2.bias"]
    for number in range(12):
        names += layer(f"model.encoder.layers.{number}", cross=False)
    names += ["model.encoder.layer_norm.weight", "model.encoder.layer_norm.bias"]
    names += ["model.decoder.embed_positions.weight", "model.decoder.embed_tokens.weight"]
    for number in range(12):
        names += layer(f"model.decoder.layers.{number}", cross=True)
    return [*names, "model.decoder.layer_norm.weight", "proj_out.weight"]


def t5() -> list[str]:
    names = ["shared.weight"]
    for side in ("encoder", "decoder"):
        names += [f"{side}.block.{n}.layer.0.SelfAttention.q.weight" for n in range(12)]
        names.append(f"{side}.final_layer_norm.weight")
    return [*names, "lm_head.weight"]


def vit() -> list[str]:
    names = ["vit.embeddings.cls_token", "vit.embeddings.patch_embeddings.projection.weight"]
    for number in range(12):
        at = f"vit.encoder.layer.{number}"
        names += [f"{at}.layernorm_before.weight", f"{at}.attention.attention.query.weight"]
        names += [f"{at}.attention.output.dense.weight", f"{at}.layernorm_after.weight"]
        names += [f"{at}.intermediate.dense.weight", f"{at}.output.dense.weight"]
    return [*names, "vit.layernorm.weight", "classifier.weight"]


def gguf(architecture: str) -> list[str]:
    """llama.cpp's names."""
    if architecture == "llama":
        parts = ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output"]
        parts += ["ffn_norm", "ffn_gate", "ffn_up", "ffn_down"]
        body = [f"blk.{n}.{part}.weight" for n in range(32) for part in parts]
        return ["token_embd.weight", *body, "output_norm.weight", "output.weight"]
    if architecture == "qwen3moe":
        parts = ["attn_norm", "attn_q", "attn_q_norm", "attn_k", "attn_k_norm", "attn_v"]
        parts += ["attn_output", "ffn_norm", "ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps"]
        body = [f"blk.{n}.{part}.weight" for n in range(12) for part in [*parts, "ffn_down_exps"]]
        return ["token_embd.weight", *body, "output_norm.weight", "output.weight"]
    if architecture == "t5":
        sides = [
            [f"{side}.blk.{n}.{part}.weight" for n in range(12) for part in ("attn_q", "ffn_up")]
            + [f"{side}.output_norm.weight"]
            for side in ("enc", "dec")
        ]
        return ["token_embd.weight", *sides[0], *sides[1], "output.weight"]
    names = ["position_embd.weight", "token_embd.weight", "token_embd_norm.weight"]
    names.append("token_types.weight")
    parts = ["attn_q", "attn_k", "attn_v", "attn_output", "attn_output_norm", "ffn_up", "ffn_down"]
    parts.append("layer_output_norm")
    return names + [
        f"blk.{n}.{part}.{kind}" for n in range(12) for part in parts for kind in ("weight", "bias")
    ]


def onnx(exporter: str) -> list[str]:
    """What exporters call initializers."""
    if exporter == "paddle":
        return [f"conv2d_{n}.w_0" for n in range(120)] + ["linear_121.w_0"]
    # torch.onnx.export: transposed weights get numbers in the order of the graph.
    numbered = [f"onnx::MatMul_{n}" for n in (987, 990, 1001, 10234)]
    return ["embeddings.word_embeddings.weight", *numbered, "classifier.weight"]


MODELS = {
    **{f"gguf, {name}": gguf(name) for name in ("llama", "qwen3moe", "t5", "bert")},
    **{f"onnx, {name}": onnx(name) for name in ("paddle", "torch")},
    "minilm": bert(),
    "bert with heads": [*bert("bert."), "cls.seq_relationship.weight", "cls.predictions.bias"],
    "llama": llama(),
    "llama, original names": llama_original(),
    "gpt2": gpt2(),
    "gpt2 with head": [*gpt2("transformer."), "lm_head.weight"],
    "resnet50": resnet(),
    "resnet20": resnet("linear"),
    "efficientnet-lite": efficientnet_lite(),
    "efficientnet, timm": efficientnet_timm(),
    "whisper": whisper(),
    "t5": t5(),
    "vit": vit(),
}


@pytest.mark.parametrize("model", MODELS)
def test_order_of_real_models(model: str) -> None:
    expected = MODELS[model]
    shuffled = expected[:]
    random.Random(7).shuffle(shuffled)
    assert shuffled != expected
    assert sorted(shuffled, key=forward_key) == expected


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("layer.2.weight", "layer.10.weight"),
        ("model.layers.9.mlp.down_proj.weight", "model.layers.10.input_layernorm.weight"),
        ("model.encoder.layers.31.fc2.weight", "model.decoder.layers.0.fc1.weight"),
        ("model.vision_tower.x.weight", "model.language_model.x.weight"),
        ("encoder/layer_2/kernel", "encoder/layer_10/kernel"),
        ("features.0.weight", "classifier.0.weight"),
        ("a" + "9" * 5000, "classifier"),
    ],
)
def test_pairs(earlier: str, later: str) -> None:
    assert forward_key(earlier) < forward_key(later)


SEGMENT = st.sampled_from(["layers", "conv1", "_bn1", "bn2", "h", "0", "10", "2", "norm", "head"])
NAME = st.lists(SEGMENT | st.text(max_size=4), max_size=5).map(".".join) | st.text(max_size=30)


@given(st.lists(NAME, max_size=12))
def test_any_names_have_one_order(names: list[str]) -> None:
    # Comparing never fails, and the order does not depend on the order of the input.
    ordered = sorted(names, key=forward_key)
    backwards = list(reversed(names))
    assert sorted(backwards, key=forward_key) == ordered
    assert sorted(ordered) == sorted(names)


@given(NAME, NAME)
def test_equal_keys_are_equal_names(left: str, right: str) -> None:
    assert (forward_key(left) == forward_key(right)) is (left == right)
