"""Benchmarks measure what they say; how fast the machine is, no test asks."""

import json
import math
from pathlib import Path

import pytest

from benchmarks.latency import Row, measure_all, measure_one
from benchmarks.report import write_latency
from daps_tokenizer.errors import BackendError
from daps_tokenizer.measure import describe_machine, machine_line


def test_latency_is_measured_for_every_action_and_batch(random_mnist_folder: Path) -> None:
    rows = measure_one(str(random_mnist_folder), "onnx", 1, [1, 4], seconds=0.01)
    assert [(row.action, row.batch) for row in rows] == [("encode", 1), ("decode", 1), ("encode", 4), ("decode", 4)]
    for row in rows:
        assert 0 < row.median_ms <= row.p95_ms and row.calls >= 5 and row.peak_memory_mb > 10
        assert math.isclose(row.items_per_second, 1e3 * row.batch / row.median_ms)


@pytest.mark.slow
def test_each_backend_is_measured_in_a_process_of_its_own(random_mnist_folder: Path) -> None:
    rows = measure_all([str(random_mnist_folder)], ["onnx", "torch"], [1], [1], seconds=0.01)
    assert [(row.backend, row.action) for row in rows] == [
        (backend, action) for backend in ("onnx", "torch") for action in ("encode", "decode")
    ]


def test_a_backend_that_cannot_run_says_why(random_mnist_folder: Path) -> None:
    with pytest.raises(BackendError, match=r"on abacus with 1 threads could not be .*unknown backend 'abacus'"):
        measure_all([str(random_mnist_folder)], ["abacus"], [1], [1], seconds=0.01)


def test_a_latency_report_is_json_a_table_and_a_plot(tmp_path: Path) -> None:
    row = Row("m", "onnx", 1, "encode", 8, 10, 2.0, 3.0, 4000.0, 99.0)
    rows = [row, Row("m", "onnx", 1, "decode", 8, 10, 1.0, 2.0, 8000.0, 99.0)]
    machine = describe_machine()
    paths = write_latency(tmp_path, rows, machine, "python -m benchmarks latency")
    content = json.loads(paths[0].read_text())
    assert content["rows"][0]["median_ms"] == 2.0 and content["machine"] == machine
    assert "| m | encode | 8 | 1 | onnx | 2.00 | 3.00 | 4000 | 99 |" in paths[1].read_text()
    assert machine_line(machine) in paths[1].read_text()
    assert paths[2].read_bytes().startswith(b"\x89PNG")
