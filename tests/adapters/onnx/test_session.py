"""A live ONNX Runtime session: answers from the base on, and every answer is one state's."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import documents
import numpy as np
import pytest
from forking import in_child, raised

import p2u
from p2u.errors import P2UError, StoreError, UsageError
from p2u.serve import make_server
from p2u.stores.backoff import Retry

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

WIDTH, STATES = 192, ("base", "8bit", "exact")
X = np.random.default_rng(5).standard_normal((3, WIDTH)).astype(np.float32)
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


def write_model(path: Path, *, external: bool) -> None:
    """Three layers, one in float16, with a shape that must stay constant."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(1)

    def weight(name, dtype):
        array = (rng.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5).astype(dtype)
        return numpy_helper.from_array(array, name)

    tensors = [weight("w0", np.float32), weight("w1", np.float32), weight("w2", np.float16)]
    tensors.append(numpy_helper.from_array(rng.standard_normal(WIDTH).astype(np.float32), "b"))
    tensors.append(numpy_helper.from_array(np.array([-1, WIDTH], np.int64), "shape"))
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["x1"]),
        helper.make_node("MatMul", ["x1", "w0"], ["h0"]),
        helper.make_node("Relu", ["h0"], ["r0"]),
        helper.make_node("MatMul", ["r0", "w1"], ["h1"]),
        helper.make_node("Add", ["h1", "b"], ["r1"]),
        helper.make_node("Cast", ["w2"], ["w2f"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["r1", "w2f"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, [None, WIDTH])],
        [value("y", TensorProto.FLOAT, [None, WIDTH])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(
        model, str(path), save_as_external_data=external, location="model.data", size_threshold=999
    )


class Case:
    def __init__(self, folder: Path, external: bool) -> None:
        folder.mkdir()
        self.model, self.package = folder / "model", folder / "package"
        self.model.mkdir()
        write_model(self.model / "net.onnx", external=external)
        p2u.pack(self.model, self.package)
        self.answers = {}
        for label in STATES:
            p2u.pull(self.package, folder / label, until=label)
            session = ort.InferenceSession(str(folder / label / "net.onnx"))
            self.answers[label] = session.run(None, {"x": X})[0]

    def which(self, answer) -> str:
        """The state whose answer this is, bit for bit."""
        (label,) = (k for k, v in self.answers.items() if np.array_equal(v, answer))
        return label


@pytest.fixture(scope="module", params=[False, True], ids=["inline", "external"])
def case(request, tmp_path_factory) -> Case:
    return Case(tmp_path_factory.mktemp("onnx") / "case", request.param)


def rate(case: Case, seconds: float) -> float:
    return sum(f.stat().st_size for f in case.package.iterdir()) / seconds


@pytest.mark.parametrize("weights", ["session", "inputs"])
def test_every_run_answers_from_one_state_while_it_sharpens(case, weights):
    seen: list[str] = []
    done = threading.Event()

    def work():
        while not done.is_set():
            (answer,) = session.run(None, {"x": X})
            if weights == "session":
                seen.append(case.which(answer))
            else:  # other kernels, so other roundings: the nearest
                seen.append(min(STATES, key=lambda s: np.abs(case.answers[s] - answer).max()))

    with p2u.onnx.session(case.package, weights=weights, limit_rate=rate(case, 1.5)) as session:
        assert session.state == "base"
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        session.wait(timeout=30)
        time.sleep(0.05)
        done.set()
        for thread in threads:
            thread.join()
        assert session.state == "exact"
        (answer,) = session.run(["y"], {"x": X})
    assert set(seen) == set(STATES)
    assert np.allclose(answer, case.answers["exact"], atol=1e-4)
    if weights == "session":
        assert case.which(answer) == "exact"


def test_three_lines(case):
    session = p2u.onnx.session(case.package, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"x": X})
    assert case.which(answer) in STATES
    session.wait("exact", timeout=30)
    assert case.which(session.run(None, {"x": X})[0]) == "exact"
    assert [i.name for i in session.get_inputs()] == ["x"]
    session.cancel()


@pytest.mark.parametrize("weights", ["session", "inputs"])
def test_a_newest_version_without_a_base(case, weights, tmp_path):
    """The base of the version before answers; the end is the newest."""
    package, other = tmp_path / "pkg", tmp_path / "v2"
    shutil.copytree(case.package, package)
    shutil.copytree(case.model, other)
    net = onnx.load(str(other / "net.onnx"))
    (bias,) = (t for t in net.graph.initializer if t.name == "b")
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, "b"))
    onnx.save_model(net, str(other / "net.onnx"))
    p2u.publish(other, package)
    with p2u.onnx.session(package, weights=weights, limit_rate=rate(case, 1.5)) as session:
        assert session.state == "v1@base"
        (answer,) = session.run(None, {"x": X})
        assert np.allclose(answer, case.answers["base"], atol=1e-4)
        session.wait("8bit", timeout=30)
        session.wait(timeout=30)
        assert session.state == "exact"
        own = ort.InferenceSession(str(other / "net.onnx"))
        (answer,) = session.run(None, {"x": X})
        assert np.allclose(answer, own.run(None, {"x": X})[0], atol=1e-4)
        with pytest.raises(UsageError, match="does not pass through"):
            session.wait("4bit")


def test_readme(case):
    (block,) = documents.python_blocks((documents.ROOT / "README.md").read_text(), "onnx")
    with make_server(case.package, quiet=True) as server:
        found = {"x": X}
        exec(block.replace(documents.URL, server.url), found)
        assert case.which(found["answer"]) in STATES
        found["session"].wait(timeout=30)
    found["session"].cancel()


def test_a_block_holds_one_state(case):
    with p2u.onnx.session(case.package, limit_rate=rate(case, 1)) as session:
        with session.pinned() as label:
            first = session.run(None, {"x": X})[0]
            session.wait("exact", timeout=30)
            assert case.which(first) == case.which(session.run(None, {"x": X})[0]) == label
        assert case.which(session.run(None, {"x": X})[0]) == "exact"


def test_it_serves_on_when_the_server_dies_and_resumes(case, tmp_path):
    quick = Retry(attempts=4, base=0.05, cap=0.1)
    server = make_server(case.package, quiet=True, limit_rate=rate(case, 3)).start()
    port = urlsplit(server.url).port
    with p2u.onnx.session(server.url, directory=tmp_path / "kept", retry=quick) as session:
        server.shutdown()
        with pytest.raises(StoreError):
            session.wait(timeout=30)
        assert session.state == "base"
        assert case.which(session.run(None, {"x": X})[0]) == "base"
        with make_server(case.package, port=port, quiet=True):
            session.resume()
            session.wait(timeout=30)
        assert case.which(session.run(None, {"x": X})[0]) == "exact"
    # What is kept is there at the next start, without the server.
    assert (tmp_path / "kept" / "net.onnx").read_bytes() == (case.model / "net.onnx").read_bytes()


def test_a_wait_that_is_too_long_says_what_has_failed(case):
    patient = Retry(attempts=1000, base=0.01, cap=0.01)
    server = make_server(case.package, quiet=True, limit_rate=rate(case, 3)).start()
    with p2u.onnx.session(server.url, retry=patient) as session:
        server.shutdown()
        with pytest.raises(TimeoutError, match=r"'exact' not reached in 2 s; .*") as caught:
            session.wait(timeout=2)
        assert isinstance(caught.value.__cause__, StoreError)


def test_callbacks_progress_and_leftovers(case, tmp_path):
    seen = []
    with p2u.onnx.session(case.package, directory=tmp_path / "m", until="8bit") as session:
        session.on_state(seen.append)
        session.wait(timeout=30)
        assert session.progress.done == session.progress.total
    assert seen[-1] == "8bit"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_the_best_state_by_a_deadline(case):
    with p2u.onnx.session(case.package, state="best", deadline=30) as session:
        assert session.state == "exact"
    slow = rate(case, 3)
    with p2u.onnx.session(case.package, state="best", deadline=0.1, limit_rate=slow) as session:
        assert session.state == "base"


def test_session_options_made_anew_for_each_session(case):
    made = []

    def options():
        made.append(ort.SessionOptions())
        made[-1].intra_op_num_threads = 1
        return made[-1]

    with p2u.onnx.session(case.package, state="exact", sess_options=options) as session:
        assert session.get_session_options().intra_op_num_threads == 1
    assert made


def test_cancel_keeps_what_answers(case):
    session = p2u.onnx.session(case.package, limit_rate=rate(case, 5))
    session.cancel()
    assert case.which(session.run(None, {"x": X})[0]) == "base"
    with pytest.raises(P2UError):
        session.wait("exact")


def test_wrong_arguments(case, tmp_path):
    with pytest.raises(UsageError, match="weights"):
        p2u.onnx.session(case.package, weights="outputs")
    with pytest.raises(UsageError, match="deadline"):
        p2u.onnx.session(case.package, state="best")
    with pytest.raises(UsageError, match="no such file"):
        p2u.onnx.session(case.package, file="other.onnx")
    with pytest.raises(UsageError, match="state"):
        p2u.onnx.session(case.package, state="9bit")
    (tmp_path / "two").mkdir()
    for name in ("a.onnx", "b.onnx"):
        write_model(tmp_path / "two" / name, external=False)
    p2u.pack(tmp_path / "two", tmp_path / "package")
    with pytest.raises(UsageError, match=r"a\.onnx, b\.onnx"):
        p2u.onnx.session(tmp_path / "package")
    with p2u.onnx.session(tmp_path / "package", file="b.onnx") as session:
        assert session.run(None, {"x": X})[0].shape == X.shape


@pytest.mark.skipif(sys.platform != "linux", reason="forks with threads")
def test_a_forked_child_stays_at_its_state_and_leaves_the_files(case):
    with p2u.onnx.session(case.package, limit_rate=rate(case, 3)) as session:
        folder = session._directory

        def child() -> str:
            with session.pinned() as state:
                pass
            said = raised(lambda: session.wait("exact")), raised(session.resume)
            session.__exit__()
            return " ".join((state, *said))

        label = session.state
        said = in_child(child)
        assert said.startswith(label) and said.count("forked") == 2
        assert folder.is_dir()
        session.wait("exact", timeout=30)
        assert case.which(session.run(None, {"x": X})[0]) == "exact"
    assert not folder.parent.exists()


FORKS_AND_DROPS = """
import gc, os, sys
import numpy as np, onnxruntime, p2u
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 4
session = p2u.onnx.session(sys.argv[1], sess_options=options)
session.wait("exact", timeout=30)
session.cancel()
x = np.ones(np.load(sys.argv[2]).shape, "float32")
before = session.run(None, {"x": x})[0]
if os.fork() == 0:
    assert (session.run(None, {"x": x})[0] == before).all()
    del session
    gc.collect()
    os._exit(0)  # as multiprocessing does: onnxruntime itself hangs at the exit of a child
assert os.wait()[1] == 0
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks with threads")
def test_a_forked_child_may_drop_a_session_whose_threads_are_in_the_parent(case, tmp_path):
    np.save(tmp_path / "x.npy", X)
    command = [sys.executable, "-c", FORKS_AND_DROPS, case.package, tmp_path / "x.npy"]
    subprocess.run(command, check=True, timeout=60)
