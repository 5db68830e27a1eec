"""Packed Hugging Face directories as transformers' objects: MiniLM, and a small decoder."""

from __future__ import annotations

import logging
from pathlib import Path

import documents
import kit
import pytest
from kit import STATES
from store_kit import GatedStore

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import nets  # noqa: E402

import p2u  # noqa: E402
from p2u.errors import UsageError  # noqa: E402
from p2u.stores import LocalStore  # noqa: E402


def states_of(model: Path, folder: Path) -> nets.Packed:
    """As the model is packed by default."""
    p2u.pack(model, folder / "pkg")
    for label in STATES:
        p2u.pull(folder / "pkg", folder / label, until=label)
    return nets.Packed(model, folder / "pkg", {label: folder / label for label in STATES})


@pytest.fixture(scope="module")
def minilm(tmp_path_factory) -> nets.Packed:
    folder = tmp_path_factory.mktemp("minilm")
    return states_of(kit.minilm(folder / "model"), folder)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory) -> nets.Packed:
    """A small Llama with random weights: tied embeddings, rotary buffers that no file has."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=500, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    model.generation_config.max_new_tokens = 12
    folder = tmp_path_factory.mktemp("decoder")
    model.save_pretrained(folder / "model")
    return states_of(folder / "model", folder)


def test_minilm_with_its_tokenizer(minilm: nets.Packed) -> None:
    store = GatedStore(LocalStore(minilm.package), "base")
    model, tokenizer = p2u.torch.from_pretrained(
        store, transformers.AutoModel, transformers.AutoTokenizer
    )
    assert not model.training
    batch = tokenizer(["Live models answer early.", "And then better."], padding=True,
                      return_tensors="pt")  # fmt: skip
    place = Path(model.name_or_path)
    assert (place / "tokenizer.json").is_file()
    assert not list(place.rglob("*.safetensors"))
    with torch.no_grad():
        for label in STATES:
            store.open(label)
            plain = transformers.AutoModel.from_pretrained(minilm.states[label]).eval()
            with model.p2u.pinned(require=label, timeout=60) as state:
                assert state == label
                answer = model(**batch).last_hidden_state
            assert torch.equal(answer, plain(**batch).last_hidden_state)


def test_generation_from_the_base_on(decoder: nets.Packed) -> None:
    store = GatedStore(LocalStore(decoder.package), "base")
    model = p2u.torch.from_pretrained(
        store, transformers.AutoModelForCausalLM, attn_implementation="eager"
    )
    assert model.config._attn_implementation == "eager"
    assert model.generation_config.max_new_tokens == 12
    assert model.lm_head.weight is model.model.embed_tokens.weight
    prompt = torch.tensor([[1, 7, 42, 99]])
    for label in STATES:
        store.open(label)
        model.p2u.wait(label, timeout=30)
        plain = transformers.AutoModelForCausalLM.from_pretrained(
            decoder.states[label], attn_implementation="eager"
        )
        out = model.generate(prompt, do_sample=False)
        assert out.shape == (1, 16)
        assert torch.equal(out, plain.generate(prompt, do_sample=False))
        with torch.no_grad():
            assert torch.equal(model(prompt).logits, plain(prompt).logits)


def test_a_class_a_folder_a_dtype_and_a_new_head(
    decoder: nets.Packed, tmp_path: Path, caplog
) -> None:
    with caplog.at_level(logging.WARNING, "p2u"):
        model = p2u.torch.from_pretrained(
            decoder.package, transformers.LlamaForSequenceClassification, folder=tmp_path / "f",
            dtype=torch.bfloat16, num_labels=3, jobs=2,
        )  # fmt: skip
    assert (tmp_path / "f" / "config.json").is_file()
    assert "score.weight" in caplog.text
    assert model.score.weight.shape == (3, 64)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    model.p2u.wait(timeout=30)
    exact = decoder.tensors("exact")["model.norm.weight"]
    assert torch.equal(model.model.norm.weight, exact.bfloat16())
    with pytest.raises(RuntimeError, match=r"score\.weight"):
        p2u.torch.from_pretrained(
            decoder.package, transformers.LlamaForSequenceClassification, strict=True
        )


def test_the_folder_goes_with_the_model(decoder: nets.Packed) -> None:
    import gc

    model = p2u.torch.from_pretrained(
        decoder.package, transformers.AutoModelForCausalLM, background=False
    )
    place = Path(model.name_or_path)
    assert (place / "config.json").is_file()
    del model
    gc.collect()
    assert not place.exists()


def test_old_names_of_norms(tmp_path: Path) -> None:
    state = nets.net_weights()
    state["norm.gamma"], state["norm.beta"] = state.pop("norm.weight"), state.pop("norm.bias")
    packed = nets.pack_tensors(tmp_path, {"model.safetensors": state})
    model = p2u.torch.load(packed.package, nets.Net)
    model.p2u.wait(timeout=20)
    assert torch.equal(model.norm.weight, state["norm.gamma"])
    assert torch.equal(model.norm.bias, state["norm.beta"])


def test_the_readme(tmp_path: Path) -> None:
    """The README's block, with a small BERT and its tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    from p2u.serve import make_server

    words = ["[UNK]", "Ready", "before", "the", "download", "is", "."]
    tokenizer = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")
    fast.save_pretrained(tmp_path / "model")
    config = transformers.BertConfig(
        vocab_size=7, hidden_size=64, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=128,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(tmp_path / "model")
    p2u.pack(tmp_path / "model", tmp_path / "pkg")
    (block,) = documents.python_blocks((documents.ROOT / "README.md").read_text(), "torch")
    server = make_server(tmp_path / "pkg", quiet=True).start()
    try:
        found: dict[str, object] = {}
        exec(block.replace(documents.URL, server.url), found)
        found["model"].p2u.wait(timeout=30)
    finally:
        server.shutdown()
    assert found["answer"].last_hidden_state.shape == (1, 6, 64)
    assert found["model"].p2u.state == "exact"


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"device_map": "auto"}, "device='cuda'"),
        ({"device_map": {"": 0}}, "device='cuda'"),
        ({"load_in_8bit": True}, "until='8bit'"),
        ({"revision": "refs/pr/1"}, "until='v1'"),
        ({"subfolder": "encoder"}, "weights="),
        ({"attn_implementatoin": "eager"}, "attn_implementatoin"),
    ],
)
def test_options_of_transformers_own_way_of_loading(decoder, options, remedy: str) -> None:
    with pytest.raises(UsageError) as caught:
        p2u.torch.from_pretrained(decoder.package, transformers.AutoModelForCausalLM, **options)
    assert next(iter(options)) in str(caught.value) and remedy in str(caught.value)


def test_options_about_downloads_and_of_older_transformers(decoder) -> None:
    model = p2u.torch.from_pretrained(
        decoder.package, transformers.AutoModelForCausalLM, low_cpu_mem_usage=True,
        cache_dir="/nowhere", token=None, use_safetensors=True, revision="main",
        device_map="cpu", torch_dtype=torch.float64,
    )  # fmt: skip
    model.p2u.wait(timeout=20)
    assert model.dtype == torch.float64 and model.device.type == "cpu"
