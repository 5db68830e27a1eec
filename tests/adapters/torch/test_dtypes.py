"""Every dtype that torch and files share, and true reasons where they do not."""

from __future__ import annotations

from pathlib import Path

import kit
import pytest

torch = pytest.importorskip("torch")

from nets import nn  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

import p2u  # noqa: E402
from p2u.errors import UnsupportedError, UsageError  # noqa: E402
from p2u.types import ELEMENT_TYPES  # noqa: E402

SHARED = [t for t in ELEMENT_TYPES if t.torch and hasattr(torch, t.torch)]


def values(name: str):
    """A tensor of a dtype, whatever its bits mean."""
    if name == "bool":
        return torch.arange(64).view(8, 8) % 3 == 0
    dtype = getattr(torch, name)
    size = torch.empty(0, dtype=dtype).element_size()
    raw = torch.randint(0, 127, (8, 8 * size), dtype=torch.uint8)
    return raw.view(dtype)


def raw(tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


class Two(nn.Module):
    def __init__(self, like) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.empty(64, 64))
        self.register_buffer("x", torch.empty_like(like))


@pytest.mark.parametrize("kind", SHARED, ids=lambda t: t.name)
def test_a_dtype_is_that_of_safetensors_everywhere(tmp_path: Path, kind) -> None:
    model = tmp_path / "model"
    model.mkdir()
    tensors = {"w": torch.randn(64, 64), "x": values(kind.torch)}
    save_file(tensors, model / "model.safetensors")
    want = load_file(model / "model.safetensors")["x"]
    p2u.pack(model, tmp_path / "pkg")
    live = p2u.torch.load(tmp_path / "pkg", lambda: Two(want), "exact").x
    assert (live.dtype, live.shape) == (want.dtype, want.shape) and raw(live) == raw(want)
    array = p2u.load(tmp_path / "pkg")["x"]
    assert array.shape == want.shape and array.tobytes() == raw(want)
    assert str(array.dtype) == (kind.numpy or "uint8")
    with p2u.sync.Publisher(tmp_path / "sync") as publisher:
        publisher.publish(tensors, 1)
        publisher.flush(60)
        p2u.pull(tmp_path / "sync", tmp_path / "got")
        got = load_file(tmp_path / "got" / "model.safetensors")["x"]
        assert (got.dtype, got.shape) == (want.dtype, want.shape) and raw(got) == raw(want)
        mine = {"w": torch.zeros(64, 64), "x": torch.zeros_like(want.view(torch.uint8))}
        mine["x"] = mine["x"].view(want.dtype)
        with p2u.sync.Subscriber(tmp_path / "sync") as subscriber:
            subscriber.apply(mine)
        assert raw(mine["x"]) == raw(want)


def test_packed_elements_are_not_cast(tmp_path: Path) -> None:
    if not hasattr(torch, "float4_e2m1fn_x2"):
        pytest.skip("torch lacks it")
    tensors = {"w": torch.randn(64, 64), "x": values("float4_e2m1fn_x2")}
    save_file(tensors, tmp_path / "m.safetensors")
    p2u.pack(tmp_path / "m.safetensors", tmp_path / "pkg")
    model = p2u.torch.load(tmp_path / "pkg", lambda: Two(tensors["x"]), "exact", dtype="BF16")
    assert model.w.dtype == torch.bfloat16 and model.x.dtype == torch.float4_e2m1fn_x2


def load_one(tmp_path: Path, dtype: str, shape: tuple[int, ...], data: bytes) -> None:
    kit.write_safetensors(tmp_path / "m.safetensors", [("w", dtype, shape, data)])
    p2u.pack(tmp_path / "m.safetensors", tmp_path / "pkg")
    p2u.torch.load(tmp_path / "pkg", lambda: Two(torch.empty(2)), strict=False)


def test_the_reasons_why_a_dtype_cannot_be_used_are_true(tmp_path: Path, monkeypatch) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    with pytest.raises(UnsupportedError, match=r"no dtype for .* F6_E2M3") as caught:
        load_one(tmp_path / "a", "F6_E2M3", (4,), b"abc")
    assert "Update" not in str(caught.value) and caught.value.tensor == "w"
    monkeypatch.delattr(torch, "float8_e8m0fnu")
    with pytest.raises(UnsupportedError, match=r"has no dtype float8_e8m0fnu yet\. Update torch"):
        load_one(tmp_path / "b", "F8_E8M0", (4,), b"abcd")
    with pytest.raises(UnsupportedError, match="P2U does not know") as caught:
        load_one(tmp_path / "c", "F9_FUTURE", (4,), b"abcd")
    assert "Update" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["complex128", "int4"])
def test_dtypes_that_cannot_be_published(tmp_path: Path, dtype: str) -> None:
    if not hasattr(torch, dtype):
        pytest.skip("torch lacks it")
    tensor = torch.empty(4, dtype=getattr(torch, dtype))
    with (
        p2u.sync.Publisher(tmp_path / "pkg") as publisher,
        pytest.raises(UnsupportedError, match=f"no dtype for torch.{dtype}") as caught,
    ):
        publisher.publish({"x": tensor}, 1)
    assert caught.value.tensor == "x" and caught.value.hint


def test_dtypes_to_cast_to(tmp_path: Path) -> None:
    save_file({"w": torch.randn(64, 64)}, tmp_path / "m.safetensors")
    p2u.pack(tmp_path / "m.safetensors", tmp_path / "pkg")

    def loaded(dtype):
        make = lambda: Two(torch.empty(2))  # noqa: E731
        return p2u.torch.load(tmp_path / "pkg", make, "exact", dtype=dtype, strict=False).w.dtype

    for dtype in ("F16", "float16", "torch.float16", torch.float16):
        assert loaded(dtype) == torch.float16
    for dtype in ("fp17", "int8", "I8", torch.int32):
        with pytest.raises(UsageError, match="floating-point"):
            loaded(dtype)
        with pytest.raises(UsageError, match="floating-point"):
            p2u.sync.Publisher(tmp_path / "sync", dtype=dtype)
    if hasattr(torch, "float4_e2m1fn_x2"):
        with pytest.raises(UsageError, match="cannot cast"):
            loaded("float4_e2m1fn_x2")
