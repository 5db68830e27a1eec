"""``--metrics``: the same numbers in the file, over HTTP and in the result of a pull."""

from __future__ import annotations

import importlib.util
import socket
import threading
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
from command_line import p2u as command
from kit import QUICK, Made
from store_kit import FlakyStore

import p2u
from p2u.cli.metrics import Exporter, exported
from p2u.client.transfer.control import Meter
from p2u.errors import DiskError, UnsupportedError, UsageError
from p2u.stores import LocalStore

parser = pytest.importorskip("prometheus_client.parser")


def parsed(text: str) -> dict[str, float]:
    """The samples of a text, labels included: ``name{a=b}``."""
    found = {}
    for family in parser.text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_a_pull_leaves_its_numbers_in_a_file(made: Made, tmp_path: Path) -> None:
    file = tmp_path / "p2u.prom"
    said = command("pull", made.package, tmp_path / "m", "--no-straight", "--metrics", file)
    assert said.status == 0, said.err
    found = parsed(file.read_text())
    assert found["p2u_fetched_bytes_total"] > 0
    assert found["p2u_state_info{state=exact,version=v1}"] == 1
    assert found["p2u_states_total{state=base}"] == 1
    assert found["p2u_state_seconds{state=base}"] <= found["p2u_state_seconds{state=exact}"]
    assert [path.name for path in tmp_path.iterdir() if "prom" in path.name] == ["p2u.prom"]

    command("pull", made.package, tmp_path / "m", "--metrics", file)
    again = parsed(file.read_text())
    assert again["p2u_state_info{state=exact,version=v1}"] == 1
    assert "p2u_states_total{state=exact}" not in again  # it was there


def test_an_error_is_counted_by_kind(tmp_path: Path) -> None:
    file = tmp_path / "p2u.prom"
    assert command("pull", tmp_path / "none", tmp_path / "m", "--metrics", file).status == 1
    assert parsed(file.read_text())["p2u_errors_total{kind=NotFoundError}"] == 1


def test_a_file_that_cannot_be_written_fails_before_anything_is_fetched(
    made: Made, tmp_path: Path
) -> None:
    said = command("pull", made.package, tmp_path / "m", "--metrics", tmp_path / "no" / "x.prom")
    assert said.status == 1
    assert not (tmp_path / "m").exists()
    with pytest.raises(DiskError), exported(str(tmp_path)):
        pass


def test_numbers_are_served_while_the_command_runs(made: Made, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    seen, stop = [], threading.Event()
    with exported(address) as exporter:

        def event(found) -> None:
            exporter.watched(found)
            with urlopen(f"http://{address}/metrics") as answer:
                seen.append(parsed(answer.read().decode()))
            stop.set()

        p2u.watch(
            made.package, tmp_path / "m", every=0.05, stop=stop, on_event=event,
            meter=exporter.metrics.meter,
        )  # fmt: skip
        with pytest.raises(UsageError, match="cannot listen"):
            Exporter(address)
    assert seen[0]["p2u_state_info{state=exact,version=v1}"] == 1
    assert seen[0]["p2u_fetched_bytes_total"] > 0
    with pytest.raises(OSError):
        urlopen(f"http://{address}/metrics")


def test_the_development_server_counts_answers(made: Made, tmp_path: Path) -> None:
    pytest.importorskip("werkzeug")
    from p2u.serve import make_server

    file = tmp_path / "served.prom"
    with make_server(made.package, quiet=True) as server, exported(str(file)) as exporter:
        exporter.metrics.answers = server.answers
        with urlopen(f"{server.url}/p2u.json") as answer:
            size = len(answer.read())
        command("pull", f"{server.url}/nothing", tmp_path / "m")
    found = parsed(file.read_text())
    assert found["p2u_served_requests_total{status=200}"] == 1
    assert found["p2u_served_requests_total{status=404}"] >= 1
    assert found["p2u_served_bytes_total"] >= size


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "p2u.adapters.extras.find_spec",
        lambda name: None if name == "prometheus_client" else find(name),
    )
    with pytest.raises(UnsupportedError, match=r"p2u-models\[metrics\]"), exported("x.prom"):
        pass


def test_retries_and_wrong_chunks_are_counted(made: Made, tmp_path: Path) -> None:
    class Damaged(LocalStore):
        """A store whose first range is wrong once."""

        left = 1

        def stream(self, key, start, length):
            for piece in super().stream(key, start, length):
                if self.left and length > 100:
                    self.left = 0
                    yield bytes([piece[0] ^ 1]) + piece[1:]
                else:
                    yield piece

    store = FlakyStore(Damaged(made.package), lambda key, start, n: n == 2)
    total = Meter()
    result = p2u.pull(store, tmp_path / "m", retry=QUICK, straight=False)
    assert (result.retries, result.hash_failures) == (1, 1)
    assert [label for label, _ in result.reached][-1] == "exact"
    assert sorted(s for _, s in result.reached) == [s for _, s in result.reached]
    assert total.retries == 0  # a meter of somebody else's


def test_a_total_counts_all_meters() -> None:
    total = Meter()
    for meter in (Meter(total), Meter(total)):
        meter.receive(10)
        meter.hit(4)
        meter.request()
        meter.retry()
        meter.hash_failure()
        assert (meter.fetched, meter.cached) == (6, 4)
    assert (total.fetched, total.cached, total.requests) == (12, 8, 2)
    assert (total.retries, total.hash_failures) == (2, 2)


def test_bytes_of_the_cache_are_told_from_those_of_the_store(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("werkzeug")
    monkeypatch.delenv("P2U_CACHE_SIZE")
    from p2u.serve import make_server

    with make_server(made.package, quiet=True) as server:
        first = p2u.pull(server.url, tmp_path / "a", cache=tmp_path / "cache")
        begin = server.answers.bytes
        second = p2u.pull(server.url, tmp_path / "b", cache=tmp_path / "cache")
        for _ in range(100):  # the server counts a piece after it was sent
            if server.answers.bytes - begin >= second.fetched:
                break
            time.sleep(0.01)
        assert server.answers.bytes - begin == second.fetched
    assert first.cached == 0
    assert second.fetched == (Path(made.package) / "p2u.json").stat().st_size
    assert second.cached > second.fetched
