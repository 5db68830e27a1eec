"""Rollout ranks of verl in a process of their own; needs verl."""

from __future__ import annotations

import asyncio
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from verl.checkpoint_engine.base import CheckpointEngineRegistry
from verl.utils.import_utils import import_external_libs

RANKS = 2

import_external_libs("p2u.adapters.verl")


def new(package: Path | str, **options: Any) -> Any:
    """A checkpoint engine as verl makes it."""
    kwargs = {"package": str(package), "timeout": 20, **options}
    return CheckpointEngineRegistry.new("p2u", bucket_size=1 << 20, **kwargs)


def rollout(pipe: Connection, package: Path) -> None:
    """A process with rollout ranks, which does what it is told by their method's names."""
    engines = [new(package) for _ in range(RANKS)]
    loaded: list[dict[str, Any]] = [{} for _ in engines]

    async def receive(engine: Any, into: dict[str, Any]) -> list[str]:
        names = []
        async for name, tensor in engine.receive_weights():
            into[name] = tensor.clone()
            names.append(name)
        return names

    async def receive_all() -> list[list[str]]:
        return list(await asyncio.gather(*map(receive, engines, loaded)))

    while (told := pipe.recv()) is not None:
        method, arguments = told
        try:
            if method == "receive":
                pipe.send(asyncio.run(receive_all()))
            elif method == "loaded":
                pipe.send([{n: t.view(torch.int16).numpy() for n, t in x.items()} for x in loaded])
            else:
                calls = zip(engines, arguments, strict=True)
                pipe.send([getattr(engine, method)(**kwargs) for engine, kwargs in calls])
        except Exception as error:
            pipe.send(f"{type(error).__name__}: {error}")
