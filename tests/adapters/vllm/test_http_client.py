"""The trainer's side over HTTP, against a stand-in for vLLM's server that notes the calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

import documents
import torch
from loopback import LoopbackServers
from noting import Noting
from vllm.distributed.weight_transfer import (
    ModuleSource,
    WeightTransferTrainerFactory,
)

import p2u
from p2u.adapters.vllm.plugin import register


def test_a_sync_over_http(tmp_path: Path) -> None:
    register()
    calls: list[tuple[str, Any]] = []
    broken: set[str] = set()
    package = str(tmp_path / "policy.p2u")
    model = torch.nn.Linear(4, 3)
    with LoopbackServers() as servers:
        client = p2u.vllm.HttpClient(servers.serve(Noting, calls=calls, broken=broken))
        info = p2u.vllm.TrainerInfo(package, source="http://trainer/policy.p2u", timeout=5.0)
        trainer = WeightTransferTrainerFactory.trainer_init(
            info, client=client, source=ModuleSource(model)
        )
        (first,) = calls
        assert first[0] == "/init_weight_transfer_engine"
        assert first[1] == {"init_info": {"source": info.source, "timeout": 5.0}}
        calls.clear()

        assert trainer.send_weights(7).version == "step7"
        assert calls == [
            ("/collective_rpc", {"method": "p2u_fetch", "args": ["step7"]}),
            ("/pause?mode=keep", None),
            ("/start_weight_update", None),
            ("/update_weights", {"update_info": {"version": "step7"}}),
            ("/finish_weight_update", {"weight_version": "step7"}),
            ("/reset_prefix_cache?reset_running_requests=true", None),
            ("/resume", None),
        ]
        assert torch.equal(torch.from_numpy(p2u.load(package)["weight"]), model.weight)

        # A worker that fails is reported, and the server goes on.
        broken.add("/update_weights")
        calls.clear()
        with pytest.raises(Exception, match="500"):
            trainer.send_weights(8)
        assert [path for path, _ in calls[-2:]] == ["/update_weights", "/resume"]

        other = WeightTransferTrainerFactory.trainer_init(
            p2u.vllm.TrainerInfo(package, rank=1), client=client, source=ModuleSource(model)
        )
        calls.clear()
        assert other.send_weights() is None and not calls
        trainer.shutdown()


def test_the_block_of_the_document_runs(tmp_path: Path, monkeypatch) -> None:
    text = (documents.ROOT / "docs" / "rl.md").read_text()
    (block,) = (b for b in documents.python_blocks(text) if "p2u.vllm" in b)
    monkeypatch.chdir(tmp_path)
    calls: list[tuple[str, Any]] = []
    model = torch.nn.Linear(4, 3)
    names: dict[str, Any] = {"model": model}
    with LoopbackServers() as servers:
        url = servers.serve(Noting, calls=calls, broken=set())
        exec(block.replace("http://vllm:8000", url), names)
    names["engine"].shutdown()
    assert [path for path, _ in calls][-1] == "/resume"
    assert torch.equal(torch.from_numpy(p2u.load("policy.p2u")["bias"]), model.bias)
