"""A trainer and two replicas that follow it: all-MiniLM-L6-v2 over a link of 20 Mbit/s.

This process trains the model for real (AdamW on fp32 masters, contrastive, pairs of neighbouring
sentences of Python's own documentation strings) and publishes it in bfloat16 every few steps. Two
more processes answer requests all the time:

- ``live``: the weights change in place between two calls;
- ``folder``: a Hugging Face directory is kept at the newest version, and the model is loaded from
  it again, as serving engines do.

``make demo-rl`` runs this for three minutes; `rl_measure` has the link and the table.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from demo import find_model
from rl_measure import Fleet, Teller
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

import p2u

PERIOD = 0.2  # seconds between two looks for a newer version


def sentences() -> list[tuple[str, str]]:
    """Pairs of neighbouring sentences of the standard library's documentation, shuffled."""
    found = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for text in re.findall(r'"""(.*?)"""', path.read_text(errors="ignore"), flags=re.S):
            parts = [re.sub(r"\s+", " ", s).strip() for s in re.split(r"(?<=[.!?])\s", text)]
            found += pairwise(part for part in parts if 40 < len(part) < 300)
    random.Random(1).shuffle(found)
    return found


def embed(model: torch.nn.Module, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """Sentence embeddings: mean over the tokens, unit length."""
    batch = tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
    hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None].to(hidden)
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def train(model: torch.nn.Module, tokenizer: Any) -> Iterator[tuple[int, float]]:
    """Train for ever; gives the step and the loss after each step of the optimizer."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=2e-6)
    pairs, size, step = sentences(), 8, 0
    while True:
        for at in range(0, len(pairs) - size, size):
            one, two = zip(*pairs[at : at + size], strict=True)
            scores = embed(model, tokenizer, list(one)) @ embed(model, tokenizer, list(two)).T
            loss = torch.nn.functional.cross_entropy(scores * 20, torch.arange(size))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            yield step, loss.item()


def answer(model: torch.nn.Module, tokenizer: Any, teller: Teller) -> Iterator[float]:
    """Answer requests until told to end; gives the seconds of each."""
    while not teller.ended.wait(0.5):
        begin = time.perf_counter()
        with torch.no_grad():
            vector = embed(model, tokenizer, ["How do I get my money back?"])
        if not torch.isfinite(vector).all():
            raise SystemExit("a wrong answer")
        yield time.perf_counter() - begin


def live(url: str, _: Path) -> None:
    """The replica whose weights change in place."""
    teller = Teller()
    model, tokenizer = p2u.torch.from_pretrained(
        url, AutoModel, AutoTokenizer, state="exact", follow=PERIOD
    )
    replica = model.p2u

    def tell(_: str) -> None:
        # The first state replaces nothing: nobody had to pause for it.
        pauses = [commit.pause for commit in replica.commits]
        teller.sync(replica.version, pauses[-1] if pauses else 0.0)

    replica.on_state(tell)
    times = list(answer(model, tokenizer, teller))
    teller.end(times, replica.files["model.safetensors"])
    replica.cancel()


def folder(url: str, directory: Path) -> None:
    """The replica that loads a directory again."""
    teller, changed = Teller(), threading.Event()
    subscriber = p2u.sync.Subscriber(url, directory=directory)
    subscriber.apply()

    def follow() -> None:
        while not teller.ended.wait(PERIOD):
            if subscriber.apply():
                changed.set()

    model = AutoModel.from_pretrained(directory, dtype="auto").eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    teller.sync(subscriber.version, 0.0)
    thread = threading.Thread(target=follow)
    thread.start()
    times = []
    for seconds in answer(model, tokenizer, teller):
        times.append(seconds)
        if changed.is_set():
            changed.clear()
            version, begin = subscriber.version, time.perf_counter()
            model.load_state_dict(load_file(directory / "model.safetensors"), strict=False)
            teller.sync(version, time.perf_counter() - begin)
    thread.join()
    teller.end(times, (directory / "model.safetensors").read_bytes())


ROLES = {"live": live, "folder": folder}


def run(options: argparse.Namespace, work: Path) -> None:
    """The trainer's process."""
    source = find_model()
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModel.from_pretrained(source, dtype=torch.float32)
    model = model.to(torch.bfloat16).float()  # masters that begin at the published weights
    with Fleet(work, options.mbit) as fleet:
        publisher = p2u.sync.Publisher(
            work / "site" / "minilm",
            files=source,
            dtype=torch.bfloat16,
            anchor_every=20,
            on_published=fleet.available,
        )
        with publisher:
            publisher.publish(model, 0)
            publisher.flush()
            fleet.start(ROLES, [sys.executable, __file__])
            fleet.wait("step0")
            print(f"both replicas answer; a version every {options.steps} steps; {fleet.link}")
            end, syncs = time.monotonic() + 60 * options.minutes, 0
            for step, loss in train(model, tokenizer):
                if step % options.steps == 0:
                    fleet.publish(publisher, model, step)
                    syncs += 1
                    print(f"step {step}: loss {loss:.3f}", flush=True)
                    if time.monotonic() > end or syncs == options.syncs:
                        break
            publisher.flush()
        fleet.wait(publisher.published[-1].version)
        p2u.pull(work / "site" / "minilm", work / "exact")
        fleet.finish((work / "exact" / "model.safetensors").read_bytes())
    fleet.report(publisher.skipped, options.csv)


def main() -> None:
    """Read the options."""
    torch.set_num_threads(1)  # three processes share the machine
    if sys.argv[1:2] and sys.argv[1] in ROLES:
        ROLES[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--syncs", type=int, help="end after so many")
    parser.add_argument("--steps", type=int, default=4, help="between two versions")
    parser.add_argument("--mbit", type=float, default=20.0)
    parser.add_argument("--csv", type=Path, help="write the table to a file")
    with tempfile.TemporaryDirectory(prefix="p2u-rl-") as work:
        run(parser.parse_args(), Path(work))


if __name__ == "__main__":
    main()
