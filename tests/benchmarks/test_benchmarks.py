"""Benchmarks measure what they say; how fast the machine is, no test asks."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.inputs import real_inputs
from benchmarks.latency.floor import Peaks, Work, count_costs, measure_peaks
from benchmarks.latency.machine import describe_bench_machine, device_memory_mb
from benchmarks.latency.measure import Job, Plan, Row, fastest, measure_all, measure_one, time_call
from benchmarks.latency.passes import count_passes
from benchmarks.latency.report import write_latency
from benchmarks.peers import PeerResult, write_peers
from daps_tokenizer.evaluation.timing import machine_line, peak_memory_mb
from daps_tokenizer.hub import ModelFolder, open_model
from tests.paths import ROOT
from tests.settings import MNIST, TINY_GRID, TINY_MOTION

SCHEMA = ROOT / "benchmarks" / "latency" / "latency.schema.json"
PEAKS = Peaks(1e10, 1e11)


@pytest.fixture(scope="module")
def folder(random_mnist_folder: Path) -> ModelFolder:
    return open_model(random_mnist_folder)


def job(folder: ModelFolder, tmp_path: Path, **changes: object) -> Job:
    images, _ = real_inputs(MNIST, 4, tmp_path)
    arrays = tmp_path / "images.npz"
    np.savez(arrays, inputs=images, codes=np.zeros((4, 8), np.int32))
    sizes = {"threads": 1, "batches": (1, 4), "seconds": 0.01, "longest_call": 60.0, "launched": 0.0}
    runtime = {"model": str(folder.path), "backend": "onnx", "device": "cpu", "precision": "float32"}
    return Job(**runtime | sizes | {"arrays": str(arrays), "peaks": PEAKS} | changes)  # type: ignore[arg-type]


def row(**changes: object) -> Row:
    return dataclasses.replace(
        Row("m", "onnx", "cpu", "float32", 1, "encode", 8),
        **{
            "calls": 10,
            "median_ms": 2.0,
            "slowest_round_ms": 2.5,
            "p95_ms": 3.0,
            "items_per_second": 4000.0,
            "passes": 2.25,
        }
        | changes,
    )


def write(folder: Path, rows: list[Row]) -> list[Path]:
    machine = describe_bench_machine()
    return write_latency(folder, rows, machine, {"m": "4 crops"}, PEAKS, "python -m benchmarks latency")


def test_latency_is_measured_for_every_action_and_batch(folder: ModelFolder, tmp_path: Path) -> None:
    rows = measure_one(job(folder, tmp_path))
    assert [(row.action, row.batch) for row in rows] == [("encode", 1), ("decode", 1), ("encode", 4), ("decode", 4)]
    for found in rows:
        assert found.median_ms is not None and found.p95_ms is not None and found.first_call_ms is not None
        assert found.batch is not None and found.items_per_second is not None and found.codes_per_second is not None
        assert 0 < found.median_ms <= found.p95_ms and found.first_call_ms > 0
        assert math.isclose(found.items_per_second, 1e3 * found.batch / found.median_ms)
        assert math.isclose(found.codes_per_second, 8 * found.items_per_second)
        assert (found.peak_memory_mb or 0) > 10 and found.calls is not None and found.calls >= 3
    assert all(2 <= (found.passes or 0) <= 9 for found in rows if found.action == "encode")
    content = json.loads(write(tmp_path, rows)[0].read_text())
    jsonschema.validate(content, json.loads(SCHEMA.read_text()))


def test_a_batch_whose_calls_would_take_too_long_is_left_out_and_says_so(folder: ModelFolder, tmp_path: Path) -> None:
    rows = measure_one(job(folder, tmp_path, longest_call=1e-9))
    (left_out,) = (row for row in rows if row.reason is not None)
    assert len(rows) == 3 and left_out.batch == 4 and "one call would take about" in (left_out.reason or "")


def test_what_the_machine_cannot_run_says_why(folder: ModelFolder, tmp_path: Path) -> None:
    runtimes = (("abacus", "cpu", "float32"),)
    plan = Plan((str(folder.path),), runtimes, (1,), (1,), 0.01, 60.0, tmp_path)
    rows, sources, peaks = measure_all(plan)
    assert [found.reason for found in rows] == [found.reason for found in rows if found.median_ms is None]
    assert "unknown backend 'abacus'" in (rows[0].reason or "")
    assert "1 crops of examples/cat.png" in sources[str(folder.path)]
    assert peaks.bytes_per_second > 0 and peaks.flops_per_second > 0


def test_a_row_is_of_its_fastest_round_and_says_what_the_slowest_took() -> None:
    refused = row(batch=64, median_ms=None, slowest_round_ms=None, reason="too long")
    rounds = [[row(median_ms=5.0), refused], [row(median_ms=3.0), row(batch=64, median_ms=9.0)], [row(median_ms=4.0)]]
    small, large = fastest(rounds)
    assert (small.batch, small.median_ms, small.slowest_round_ms) == (8, 3.0, 5.0)
    assert (large.batch, large.median_ms, large.reason) == (64, 9.0, None)  # measured once is measured
    assert fastest([[refused], [refused]]) == [refused]


def test_a_latency_report_is_json_by_its_schema_a_table_and_a_plot(tmp_path: Path) -> None:
    missing = Row("m", "tensorrt", "cuda", "float16", 1, "encode", reason="no GPU")
    paths = write(tmp_path, [row(), row(action="decode", passes=None), missing])
    schema = json.loads(SCHEMA.read_text())
    content = json.loads(paths[0].read_text())
    jsonschema.validate(content, schema)
    table = paths[1].read_text()
    assert "| m | encode | 8 | onnx, cpu | float32 | 1 | – | – | 2.00 | 2.50 | 3.00 | 4000 |" in table
    assert "- m: tensorrt, cuda, float16, threads 1: no GPU" in table
    assert machine_line(content["machine"]) in table
    assert paths[2].read_bytes().startswith(b"\x89PNG")
    content["rows"][0]["speed"] = "fast"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, schema)


def test_an_unknown_runtime_is_refused_with_those_there_are() -> None:
    result = CliRunner().invoke(main, ["latency", "--backend", "abacus"])
    assert result.exit_code == 2 and "onnx cpu float32" in result.output


def test_inputs_are_real_of_the_models_size_and_each_another(tmp_path: Path) -> None:
    for config in (MNIST, TINY_GRID):
        images, source = real_inputs(config, 5, tmp_path)
        assert images.shape == (5, *config.input_shape) and images.dtype == np.uint8
        assert len(np.unique(images.reshape(5, -1), axis=0)) == 5 and source == "5 crops of examples/cat.png"
    clips, source = real_inputs(TINY_MOTION, 5, tmp_path)
    assert clips.shape == (5, 4, 26) and source == "5 stretches of examples/walk.csv"


def test_the_work_of_encoding_is_counted_from_the_graphs(folder: ModelFolder) -> None:
    costs = count_costs(folder)
    # Of MNIST's step: four products of self-attention and two of cross-attention, the feed-forward layers, the head.
    hidden, mlp, vocab, positions = 64, 256, 256, 8
    products = 6 * hidden * hidden + 2 * hidden * mlp + hidden * vocab
    attention = 2 * hidden * (positions + positions / 2)
    assert costs.step.flops == 2 * (products + attention)
    steps, one, two = costs.encode_in_steps(3), *(costs.encode_in_passes(np.full((3, 1), count)) for count in (1, 2))
    assert one.flops == steps.flops and two.flops == 2 * one.flops - 3 * costs.context.flops
    assert costs.context.num_bytes < one.num_bytes < two.num_bytes < steps.num_bytes
    assert costs.decode(4).flops == 4 * costs.decode(1).flops > 0


def test_the_work_of_a_model_that_sees_surroundings_is_of_images_of_its_own_size(random_grid_folder: Path) -> None:
    costs, blind = count_costs(open_model(random_grid_folder)), 4 * 4 * 3 * 16  # a patch to its vector
    around = (2 + 4) ** 2 * 3 * 16
    assert costs.context.flops > 2 * 16 * (blind + around)


def test_the_floor_is_reading_or_computing_whichever_takes_longer() -> None:
    assert Work(1e8, 1e6).floor_ms(PEAKS) == 10.0 and Work(1e3, 1e9).floor_ms(PEAKS) == 10.0
    measured = measure_peaks(0.01)
    assert measured.bytes_per_second > 1e7 and measured.flops_per_second > 1e7


def test_passes_are_counted_per_window(folder: ModelFolder, tmp_path: Path) -> None:
    images, _ = real_inputs(MNIST, 3, tmp_path)
    passes = count_passes(folder, images, temperature=1.0)
    assert passes is not None and passes.shape == (3, 1) and passes.min() >= 2


def test_calls_are_timed_after_the_warm_up() -> None:
    calls: list[int] = []
    timed, result = time_call(lambda: calls.append(1) or len(calls), 0.0)  # type: ignore[func-returns-value]
    assert len(timed.times) == 3 and result is not None and len(calls) == 3 + result


def test_a_machine_without_a_gpu_says_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    machine = describe_bench_machine()
    assert "gpu" not in machine and {"processor", "date", "load, 1 min"} <= set(machine) and device_memory_mb() is None


def test_peers_are_a_table_of_what_each_gives_and_lacks(tmp_path: Path) -> None:
    result = PeerResult("another", "codes", "probabilities", {1: 4.0, 8: 16.0}, {1: 2.0, 8: 0.5})
    paths = write_peers(tmp_path, "m", [result], describe_bench_machine(), "8 crops", "python -m benchmarks peers")
    assert "| another | 4.00 | 2.00 | 2.00×, 0.50× | codes | probabilities |" in paths[1].read_text()
    assert json.loads(paths[0].read_text())["results"][0]["median_ms"] == {"1": 4.0, "8": 16.0}


@pytest.mark.slow
def test_peers_run_on_the_same_images(random_mnist_folder: Path, tmp_path: Path) -> None:
    arguments = ["peers", "--model", str(random_mnist_folder), "--batch", "2", "--seconds", "0.01", "--data", tmp_path]
    result = CliRunner().invoke(main, [*map(str, arguments), "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    names = [found["name"] for found in json.loads((tmp_path / "peers_random-mnist.json").read_text())["results"]]
    assert names[0] == "daps-tokenizer, ONNX Runtime" and len(names) == 7


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere getrusage is asked, which starts anew")
def test_memory_is_of_a_process_itself_and_not_of_what_started_it() -> None:
    held = np.ones(300 * 2**20, np.uint8)
    program = "from daps_tokenizer.evaluation.timing import peak_memory_mb; print(peak_memory_mb())"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 5 < float(child.stdout) < 250 < held.nbytes / 2**20 < peak_memory_mb()
