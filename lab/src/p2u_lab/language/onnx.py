"""ONNX models on one thread of the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from p2u.errors import FormatError
from p2u_lab.libraries import imported


def session(folder: Path) -> Any:
    """Open the one ONNX model in a folder with onnxruntime.

    Raises:
        FormatError: There is none, or more than one.
        MissingDataError: onnxruntime is not installed.
    """
    runtime = imported("onnxruntime")
    found = sorted(folder.glob("*.onnx"))
    if len(found) != 1:
        raise FormatError(f"{len(found)} ONNX models, expected one", file=str(folder))
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1  # several would add up in another order
    options.log_severity_level = 3
    return runtime.InferenceSession(
        str(found[0]), sess_options=options, providers=["CPUExecutionProvider"]
    )
