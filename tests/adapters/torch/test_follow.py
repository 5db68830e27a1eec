"""A module that goes from version to version while it answers."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import later
import pytest
from waiting import until

torch = pytest.importorskip("torch")

import nets  # noqa: E402
from kit import QUICK  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

import p2u  # noqa: E402
from p2u.errors import IntegrityError, UsageError  # noqa: E402

pytestmark = pytest.mark.usefixtures("few_threads")


def trained(model: Path, folder: Path, seed: int) -> Path:
    """The model after a training step: floats, batch norm's statistics, an integer."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    state = load_file(model / "model.safetensors")
    for value in state.values():
        if value.is_floating_point():
            value += 1e-3 * torch.randn(value.shape, generator=generator)
        else:
            value += seed
    save_file(state, folder / "model.safetensors")
    return folder


@pytest.fixture
def package(net: nets.Packed, tmp_path: Path) -> Path:
    return Path(shutil.copytree(net.package, tmp_path / "pkg"))


@pytest.fixture
def models(net: nets.Packed, tmp_path: Path) -> dict[str, Path]:
    """Three versions of a model."""
    return {"v1": net.model} | {f"v{n}": trained(net.model, tmp_path / f"m{n}", n) for n in (2, 3)}


def plain(folder: Path) -> torch.nn.Module:
    model = nets.Net().eval()
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    return model


def test_every_answer_is_that_of_one_version(package: Path, models) -> None:
    """Four threads, v1 to v2 to v3, and a broken v2 between: bitwise, at the same addresses."""
    inputs = nets.requests(10)
    with torch.no_grad():
        expected = {v: [plain(f)(x) for x in inputs] for v, f in models.items()}
    model = p2u.torch.load(package, nets.Net, "exact", follow=0.02, retry=QUICK).eval()
    places = [p.data_ptr() for p in (*model.parameters(), *model.buffers())]
    ended = threading.Event()
    seen: set[str] = set()

    def serve(number: int) -> int:
        count = 0
        while not ended.is_set():
            at = (number + count) % len(inputs)
            with torch.no_grad():
                answer = model(inputs[at])
            found = [v for v, all_ in expected.items() if torch.equal(answer, all_[at])]
            assert len(found) == 1, found
            seen.add(found[0])
            count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        callers = [pool.submit(serve, n) for n in range(4)]
        try:
            later.add(package, models["v3"], "broken", wrong="file")
            with pytest.raises(IntegrityError):
                model.p2u.wait("broken", timeout=20)
            assert model.p2u.version == "v1"
            later.add(package, models["v2"], "v2", parent="v1")
            # Not wait(): the broken version's error is there still.
            until(lambda: model.p2u.version == "v2")
            later.add(package, models["v3"], "v3", parent="v2")
            model.p2u.wait("v3", timeout=20)
        finally:
            ended.set()
        assert sum(caller.result(timeout=30) for caller in callers) > 50
    assert {"v1", "v3"} <= seen <= set(models)
    assert nets.same(model, plain(models["v3"]))
    assert model.head.weight is model.embed.weight
    assert [p.data_ptr() for p in (*model.parameters(), *model.buffers())] == places
    model.p2u.cancel()


@pytest.mark.parametrize(
    "options", [{}, {"dtype": "float64"}, {"dtype": "float64", "device": "cpu"}]
)
def test_casts_and_integers_follow(package: Path, models, options) -> None:
    model = p2u.torch.load(package, nets.Net, "exact", follow=float("inf"), **options).eval()
    for version in ("v2", "v3"):
        later.add(package, models[version], version)
        model.p2u.refresh()
        model.p2u.wait(timeout=20)
        with model.p2u.pinned():
            assert model.p2u.version == version
            want = plain(models[version])
            want = want.double() if options else want
            assert nets.same(model, want)
            assert model.norm.num_batches_tracked == want.norm.num_batches_tracked
    model.p2u.cancel()


def test_refresh_without_following(package: Path, models) -> None:
    model = p2u.torch.load(package, nets.Net, "exact").eval()
    later.add(package, models["v2"], "v2")
    model.p2u.refresh()
    model.p2u.wait(timeout=20)
    assert nets.same(model, plain(models["v2"]))


def test_a_label_is_that_of_the_newest_version(package: Path, models) -> None:
    """Also where the way comes by the same label of an older one, and nothing goes on behind it."""
    later.add(package, models["v2"], "v2")
    for background in (False, True):
        model = p2u.torch.load(package, nets.Net, state="exact", background=background)
        assert model.p2u.id == "v2@exact"
        model.p2u.cancel()


def test_following_needs_the_background(package: Path) -> None:
    with pytest.raises(UsageError, match="background"):
        p2u.torch.load(package, nets.Net, follow=1.0, background=False)


@pytest.mark.parametrize("form", ["more files", "shards", "another name"])
def test_files_of_another_form_are_followed(package: Path, models, form: str) -> None:
    """The module's tensors stay where they are; they are paired by name."""
    model = p2u.torch.load(package, nets.Net, "exact", follow=float("inf")).eval()
    places = [p.data_ptr() for p in (*model.parameters(), *model.buffers())]
    new, path = models["v2"], models["v2"] / "model.safetensors"
    if form == "more files":
        (new / "README.md").write_text("A second version")
        (new / "tokenizer.json").write_text("{}")
    elif form == "another name":
        path.rename(new / "net.safetensors")
    else:
        weights = load_file(path)
        path.unlink()
        for number in range(2):
            part = dict(sorted(weights.items())[number::2])
            save_file(part, new / f"model-{number + 1:05}-of-00002.safetensors")
    p2u.publish(new, package)
    model.p2u.refresh()
    model.p2u.wait(timeout=20)
    want = nets.Net().eval()
    for file in new.glob("*.safetensors"):
        want.load_state_dict(load_file(file), strict=False)
    assert model.p2u.version == "v2" and nets.same(model, want)
    assert [p.data_ptr() for p in (*model.parameters(), *model.buffers())] == places
    later = p2u.torch.load(package, nets.Net, "exact").eval()
    assert nets.same(later, want)
    model.p2u.cancel()


@pytest.mark.parametrize("names", ["other names", "the same names"])
def test_weights_that_the_model_does_not_use_come_change_and_leave(
    package: Path, models, names: str
) -> None:
    """An adapter, or an average of the weights, next to the model's file."""
    weights = "model*" if names == "the same names" else None
    model = p2u.torch.load(package, nets.Net, "exact", follow=float("inf"), weights=weights).eval()
    places = [p.data_ptr() for p in (*model.parameters(), *model.buffers())]
    for number, (version, rows) in enumerate((("v2", 8), ("v3", 16), ("v2", 0)), 2):
        new = models[version]
        other = new / "other.safetensors"
        if names == "the same names":
            extra = {k: v.clone() + 1 for k, v in load_file(new / "model.safetensors").items()}
        else:
            extra = {"lora.a": torch.randn(rows, 32)}
        other.unlink(missing_ok=True)
        if rows:
            save_file(extra, other)
        p2u.publish(new, package, force=True)
        model.p2u.refresh()
        model.p2u.wait(timeout=20)
        assert model.p2u.version == f"v{number}" and nets.same(model, plain(new))
        assert [p.data_ptr() for p in (*model.parameters(), *model.buffers())] == places
    model.p2u.cancel()
