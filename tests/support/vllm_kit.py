"""Tiny random models for vLLM, and what an engine answers with them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

#: Of the engines: no network, little memory, the same kernels for every batch.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "OMP_NUM_THREADS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
#: The last one is longer than a block of the prefix cache.
PROMPTS = ("the cat sat on the mat and", "a trainer publishes weights", "one two three four " * 40)
OPTIONS = {"max_model_len": 384, "enforce_eager": True, "seed": 0}


def make_model(folder: Path, *, tied: bool = False) -> dict[str, Any]:
    """Write a Llama of two layers with random weights and a tokenizer; returns its tensors."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    words = _tokenizer(folder)
    torch.manual_seed(7)
    config = LlamaConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=64, vocab_size=words, tie_word_embeddings=tied,
        max_position_embeddings=512, bos_token_id=0, eos_token_id=1, initializer_range=0.1,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    state = model.state_dict()
    return {n: t.clone() for n, t in state.items() if not (tied and n == "lm_head.weight")}


def _tokenizer(folder: Path) -> int:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(PROMPTS, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    folder.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(folder)
    return -(-len(fast) // 64) * 64


def train(tensors: dict[str, Any], seed: int) -> dict[str, Any]:
    """Something like a step of training: a few elements of each tensor change."""
    import torch

    random = torch.Generator().manual_seed(seed)
    found = {}
    for name, tensor in tensors.items():
        mask = torch.rand(tensor.shape, generator=random) < 0.05
        noise = torch.randn(tensor.shape, generator=random) * 0.2
        found[name] = (tensor.float() + mask * noise).to(tensor.dtype)
    return found


def save(model: Path, tensors: dict[str, Any], folder: Path) -> Path:
    """A model directory with other weights."""
    import shutil

    from safetensors.torch import save_file

    shutil.copytree(model, folder)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def engine(model: Path, **options: Any) -> Any:
    """An engine of vLLM."""
    from vllm import LLM

    return LLM(str(model), **OPTIONS, **options)


def answers(llm: Any) -> list[Any]:
    """Tokens and all of their log probabilities, greedily."""
    from vllm import SamplingParams

    wanted = SamplingParams(temperature=0.0, max_tokens=12, logprobs=5, ignore_eos=True)
    found = llm.generate(list(PROMPTS), wanted, use_tqdm=False)
    return [
        [
            list(request.outputs[0].token_ids),
            [{str(k): v.logprob for k, v in step.items()} for step in request.outputs[0].logprobs],
        ]
        for request in found
    ]


def end(llm: Any) -> None:
    """End an engine of this process, so that another one can begin."""
    import gc

    from vllm.distributed import cleanup_dist_env_and_memory

    llm.llm_engine.engine_core.shutdown()
    del llm
    gc.collect()
    cleanup_dist_env_and_memory()


def fresh_answers(*models: Path) -> list[Any]:
    """What engines of another process answer, each of which has loaded a directory."""
    done = subprocess.run(
        [sys.executable, __file__, *map(str, models)], capture_output=True, text=True, timeout=540
    )
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("[[")]
    return [json.loads(line) for line in lines]


if __name__ == "__main__":
    import os

    os.environ.update(ENVIRONMENT)
    for path in sys.argv[1:]:
        found = engine(Path(path))
        print(json.dumps(answers(found)), flush=True)
        end(found)
        del found
    os._exit(0)
