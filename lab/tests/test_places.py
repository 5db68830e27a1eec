import pytest

from p2u_lab.base import MissingDataError
from p2u_lab.places import cache_dir, data_dir, data_path


def test_the_data_folder_must_be_named(monkeypatch):
    monkeypatch.delenv("P2U_EVAL_DATA", raising=False)
    with pytest.raises(MissingDataError, match="--data-dir"):
        data_dir()
    with pytest.raises(MissingDataError, match=r"x\.npz is needed.*get it from there, MIT"):
        data_path("x.npz", "there, MIT")


def test_the_data_folder_must_be_there(monkeypatch, tmp_path):
    monkeypatch.setenv("P2U_EVAL_DATA", str(tmp_path / "no"))
    with pytest.raises(MissingDataError, match="not a folder"):
        data_dir()


def test_a_missing_file_says_where_it_comes_from_and_goes(monkeypatch, tmp_path):
    monkeypatch.setenv("P2U_EVAL_DATA", str(tmp_path))
    with pytest.raises(MissingDataError) as caught:
        data_path("a/x.npz", "https://example.org")
    assert f"put it at {tmp_path / 'a' / 'x.npz'}" in str(caught.value)
    assert "https://example.org" in str(caught.value)
    (tmp_path / "x").write_bytes(b"")
    assert data_path("x", "nowhere") == tmp_path / "x"


def test_the_cache_is_made_where_it_should_be(monkeypatch, tmp_path):
    monkeypatch.setenv("P2U_EVAL_CACHE", str(tmp_path / "mine"))
    assert cache_dir("a", "b") == tmp_path / "mine" / "a" / "b"
    assert (tmp_path / "mine" / "a" / "b").is_dir()
    monkeypatch.delenv("P2U_EVAL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert cache_dir() == tmp_path / "user" / "p2u-eval"
