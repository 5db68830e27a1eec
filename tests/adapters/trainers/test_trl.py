"""TRL's ``AsyncGRPOTrainer`` trains a tiny model for a few steps, and publishes its policy."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loopback import LoopbackServers
from noting import Noting
from trainers import trainer

import p2u
from p2u.adapters.trl import WeightTransfer
from p2u.errors import UsageError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
trainer("trl")
from datasets import Dataset  # noqa: E402
from trl.experimental.async_grpo import AsyncGRPOConfig, AsyncGRPOTrainer  # noqa: E402
from trl.experimental.async_grpo import async_grpo_trainer as module  # noqa: E402
from trl.experimental.async_grpo.async_rollout_worker import RolloutSample  # noqa: E402
from trl.experimental.async_grpo.vllm_client import VLLMClient  # noqa: E402

STEPS = 3


def causal(
    layer: Any, query: Any, key: Any, value: Any, *_: object, scaling: float, **__: object
) -> Any:
    """Attention without TRL's kernel, which only GPUs have; each row of ours is one sample."""
    groups = layer.num_key_value_groups
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    found = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scaling
    )
    return found.transpose(1, 2).contiguous(), None


class Endless:
    """A queue that always has another made-up sample of the newest policy."""

    def __init__(self) -> None:
        self.version = 0
        self._made = 0
        self._rng = np.random.default_rng(1)

    def get(self, timeout: float | None = None) -> RolloutSample:
        self._made += 1
        return RolloutSample(
            prompt=[], completion=[], input_ids=self._rng.integers(3, 60, 12),
            completion_mask=np.array([0] * 4 + [1] * 8),
            old_log_probs=np.full(12, -4.0, np.float32),
            advantage=1.0 if self._made % 2 else -1.0, model_version=self.version,
            group_id=self._made // 2, metrics={},
        )  # fmt: skip

    def qsize(self) -> int:
        return 1


class Rollouts:
    """A rollout worker, and what the trainer said of its versions."""

    def __init__(self) -> None:
        self.rollout_buffer = Endless()
        self.metrics_queue: queue.Queue[dict[str, float]] = queue.Queue()
        self.versions: list[int] = []

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def update_model_version(self, model_version: int) -> None:
        self.versions.append(model_version)
        self.rollout_buffer.version = model_version

    def check_health(self, stale_after_s: float) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = transformers.Qwen2Config(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        tie_word_embeddings=True,
    )  # fmt: skip
    transformers.set_seed(1)
    transformers.Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models

    words = {f"w{n}": n for n in range(3, 64)} | {"<pad>": 0, "<eos>": 1, "<unk>": 2}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>",
        chat_template="{% for m in messages %}{{ m.content }}{% endfor %}",
    )  # fmt: skip


def test_a_short_run_publishes_its_policy(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention = transformers.AttentionInterface
    monkeypatch.setattr(
        module, "register_tree_attention", lambda: attention.register("tree_fa3", causal)
    )
    monkeypatch.setattr(module, "get_peak_flops_per_device", lambda *_: 1e9)  # asks for a GPU
    # Of a server that generates, which this trainer does not have.
    monkeypatch.setattr(VLLMClient, "wait_for_server_ready", lambda _: None)
    monkeypatch.setattr(VLLMClient, "get_max_model_len", lambda _: 64)
    package, rollouts = tmp_path / "policy.p2u", Rollouts()
    args = AsyncGRPOConfig(
        str(tmp_path / "out"), max_steps=STEPS, per_device_train_batch_size=4, learning_rate=1e-3,
        dtype="bfloat16", use_cpu=True, report_to=[], weight_sync_steps=1, num_generations=2,
        activation_checkpointing=False, save_strategy="no", bf16=False,
    )  # fmt: skip
    made = AsyncGRPOTrainer(
        str(folder), reward_funcs=[lambda **_: [0.0]], args=args, processing_class=tokenizer(),
        train_dataset=Dataset.from_dict({"prompt": ["w3 w4"] * 8}),
        rollout_worker=rollouts, weight_transfer=WeightTransfer(package),
    )  # fmt: skip
    made.train()
    policy = dict(made.model.state_dict())
    with p2u.sync.Subscriber(package) as subscriber:
        served = transformers.Qwen2ForCausalLM.from_pretrained(folder)
        before = served.model.embed_tokens.weight.clone()
        assert subscriber.apply(served) == 1 and subscriber.step == len(rollouts.versions) - 1
        assert not torch.equal(before, served.model.embed_tokens.weight)
        assert all(torch.equal(t, policy[name]) for name, t in served.state_dict().items())


def test_a_server_loads_each_version_as_soon_as_it_is_published(tmp_path: Path) -> None:
    calls: list[tuple[str, Any]] = []
    broken = {"/collective_rpc"}  # a server without our worker extension
    with LoopbackServers() as servers:
        client = VLLMClient(servers.serve(Noting, calls=calls, broken=broken))
        transfer = WeightTransfer(tmp_path / "policy.p2u", client, source="http://trainer/p")
        with pytest.raises(UsageError, match="init_weight_transfer"):
            transfer.send_weights([])
        transfer.init_weight_transfer()
        info = {"init_info": {"source": "http://trainer/p", "timeout": 1800.0}}
        assert calls == [("/init_weight_transfer_engine", info)]
        calls.clear()

        transfer.pause()
        transfer.send_weights(iter([("w", torch.ones(4, 4))]))
        transfer.resume()
        assert calls == [
            ("/collective_rpc", {"method": "p2u_fetch", "args": ["step0"]}),
            ("/pause?mode=keep", None),
            ("/start_weight_update", {"is_checkpoint_format": True}),
            ("/update_weights", {"update_info": {"version": "step0"}}),
            ("/finish_weight_update", None),
            ("/reset_prefix_cache?reset_running_requests=true", None),
            ("/resume", None),
        ]

        broken.add("/update_weights")
        with pytest.raises(Exception, match="500"):
            transfer.send_weights(iter([("w", torch.zeros(4, 4))]))
        assert calls[-1] == ("/resume", None)
        assert transfer.published is not None and transfer.published.version == "step1"
        transfer.destroy()
        transfer.destroy()
