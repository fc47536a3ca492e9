"""How long encoding and decoding take, on every backend that the machine has.

Each model, backend, device, precision and number of threads has a process of its own, so that its start and its peak
memory are its own too and no runtime's threads disturb another's. The clock is the processor's monotonic one around
whole calls of the Tokenizer, whose results are numpy arrays: whatever a device computes is done when a call returns.

A shared machine changes its speed within minutes, by more than backends differ. So everything is measured in rounds,
each of which takes every runtime in turn, and a row is of its fastest round: what others do on the machine only adds.
"""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inputs import real_inputs
from benchmarks.latency.floor import ModelCosts, Peaks, Work, count_costs, measure_peaks
from benchmarks.latency.machine import device_memory_mb
from benchmarks.latency.passes import count_passes
from daps_tokenizer import DapsError, Tokenizer
from daps_tokenizer.errors import BackendError
from daps_tokenizer.evaluation.timing import peak_memory_mb
from daps_tokenizer.hub import ModelFolder, open_model
from daps_tokenizer.inputs import InputOptions
from daps_tokenizer.modalities import open_modality

_WARM_UP_CALLS = 2
_FEWEST_CALLS = 3
_REFERENCE_ITEMS = 32

# What is tried, on every machine: (backend, device, precision).
RUNTIMES = (
    ("onnx", "cpu", "float32"),
    ("torch", "cpu", "float32"),
    ("torch", "cpu", "bfloat16"),
    ("onnx", "cuda", "float32"),
    ("torch", "cuda", "float32"),
    ("torch", "cuda", "bfloat16"),
    ("torch", "cuda", "float16"),
    ("tensorrt", "cuda", "float32"),
    ("tensorrt", "cuda", "bfloat16"),
    ("tensorrt", "cuda", "float16"),
)


@dataclass(frozen=True)
class Row:
    """One measurement, or why it is missing.

    Times are of one call on a whole batch. ``open_ms`` is from the start of an interpreter to a loaded Tokenizer,
    ``first_call_ms`` of the first call with this batch. A row is of the round with the least median;
    ``slowest_round_ms`` is the largest median of all rounds. ``floor_ms`` is the least time the machine needs to read
    the weights and caches, or to compute, on one thread at its speed in that round (:mod:`benchmarks.latency.floor`),
    and None on a GPU;
    ``gb_per_second`` counts the same bytes. ``codes_equal`` is the share of codes equal to the float32 reference.
    ``passes`` is the mean over windows. Memory is the process's peak, in MB. Everything but the first six fields is
    None where ``reason`` says why there is no measurement.
    """

    model: str
    backend: str
    device: str
    precision: str
    threads: int
    action: str
    batch: int | None = None
    reason: str | None = None
    open_ms: float | None = None
    first_call_ms: float | None = None
    calls: int | None = None
    median_ms: float | None = None
    slowest_round_ms: float | None = None
    p95_ms: float | None = None
    items_per_second: float | None = None
    codes_per_second: float | None = None
    gb_per_second: float | None = None
    gflop_per_second: float | None = None
    floor_ms: float | None = None
    share_of_floor: float | None = None
    peak_memory_mb: float | None = None
    peak_device_memory_mb: float | None = None
    codes_equal: float | None = None
    passes: float | None = None


@dataclass(frozen=True)
class Plan:
    """What to measure: every combination; see the options of ``python -m benchmarks latency``."""

    models: tuple[str, ...]
    runtimes: tuple[tuple[str, str, str], ...]
    threads: tuple[int, ...]
    batches: tuple[int, ...]
    seconds: float
    longest_call: float
    data: Path | None
    rounds: int = 1


@dataclass(frozen=True)
class Job:
    """What one process measures; ``launched`` is when it was started, in seconds of ``time.time()``."""

    model: str
    backend: str
    device: str
    precision: str
    threads: int
    batches: tuple[int, ...]
    seconds: float
    longest_call: float
    arrays: str
    peaks: Peaks
    launched: float

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Read what :func:`measure_all` hands to its processes."""
        content = json.loads(text)
        return cls(**content | {"batches": tuple(content["batches"]), "peaks": Peaks(**content["peaks"])})


def measure_all(
    plan: Plan, *, on_progress: Callable[[str], None] = lambda line: None
) -> tuple[list[Row], dict[str, str], Peaks]:
    """Measure every combination in every round, one process after the other.

    Args:
        plan: what to measure.
        on_progress: told what is being measured.

    Returns:
        The rows; for each model what its inputs are and which codes are the reference; the machine's speeds, each of
        the round where it was highest.
    """
    sources: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        arrays = {model: str(Path(folder) / f"{index}.npz") for index, model in enumerate(plan.models)}
        for model in plan.models:
            sources[model] = _prepare(model, max(plan.batches), plan.data, arrays[model])
        peaks: list[Peaks] = []
        rounds: list[list[Row]] = []
        for _ in range(plan.rounds):
            peaks.append(measure_peaks())
            rounds.append(_measure_round(plan, peaks[-1], arrays, on_progress))
    highest = Peaks(max(found.bytes_per_second for found in peaks), max(found.flops_per_second for found in peaks))
    return fastest(rounds), sources, highest


def _measure_round(plan: Plan, peaks: Peaks, arrays: dict[str, str], on_progress: Callable[[str], None]) -> list[Row]:
    """Every combination once; ``peaks`` are the machine's at the time."""
    rows: list[Row] = []
    missing: dict[tuple[str, str, str], str] = {}  # a GPU that one model has not found no other need look for
    for model in plan.models:
        for runtime in plan.runtimes:
            for threads in plan.threads if runtime[1] == "cpu" else plan.threads[:1]:
                on_progress(f"{model}: {', '.join(runtime)}, threads {threads}")
                job = Job(
                    model, *runtime, threads, plan.batches, plan.seconds, plan.longest_call, arrays[model], peaks,
                    time.time(),
                )  # fmt: skip
                found = [_unmeasured(job, missing[runtime])] if runtime in missing else _run(job)
                if runtime[1] != "cpu" and found[0].batch is None:
                    missing[runtime] = found[0].reason or ""
                rows += found
    return rows


def fastest(rounds: Sequence[Sequence[Row]]) -> list[Row]:
    """Of each measurement that some round has, the round with the least median; for others, why they are missing."""
    by_measurement: dict[tuple[Any, ...], list[Row]] = {}
    for row in itertools.chain(*rounds):
        key = (row.model, row.backend, row.device, row.precision, row.threads, row.action, row.batch)
        by_measurement.setdefault(key, []).append(row)
    rows = []
    for same in by_measurement.values():
        medians = [row.median_ms for row in same if row.median_ms is not None]
        best = next((row for row in same if medians and row.median_ms == min(medians)), same[0])
        rows.append(replace(best, slowest_round_ms=max(medians, default=None)))
    return rows


def _prepare(model: str, count: int, data: Path | None, path: str) -> str:
    """Write inputs and their reference codes to a file for the processes; returns what both are."""
    folder = open_model(model)
    inputs, source = real_inputs(folder.config, count, data)
    try:
        tokenizer, reference = Tokenizer.from_pretrained(model, backend="torch", device="cpu"), "torch"
    except BackendError:
        tokenizer, reference = Tokenizer.from_pretrained(model, backend="onnx", device="cpu"), "ONNX Runtime"
    np.savez(path, inputs=inputs, codes=tokenizer.encode(inputs[:_REFERENCE_ITEMS]).numpy())
    return f"{source}; reference codes: {reference}, float32, on the CPU, of the first {min(count, _REFERENCE_ITEMS)}"


def _run(job: Job) -> list[Row]:
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.latency.measure", json.dumps(asdict(job))],
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode != 0:
        reason = (finished.stderr.strip().splitlines() or [f"ended with exit code {finished.returncode}"])[-1]
        return [_unmeasured(job, reason)]
    return [Row(**row) for row in json.loads(finished.stdout)]


def _unmeasured(job: Job, reason: str) -> Row:
    return Row(**_identity(job), action="encode", reason=reason)


def _identity(job: Job) -> dict[str, Any]:
    return {name: getattr(job, name) for name in ("model", "backend", "device", "precision", "threads")}


def measure_one(job: Job) -> list[Row]:
    """Measure in this process; encode is greedy."""
    tokenizer = Tokenizer.from_pretrained(
        job.model,
        backend=job.backend,  # type: ignore[arg-type]
        device=job.device,
        dtype=job.precision,
        num_threads=job.threads,
    )
    open_ms = 1e3 * (time.time() - job.launched)
    with np.load(job.arrays) as arrays:
        inputs, reference = arrays["inputs"], arrays["codes"]
    measured: list[tuple[str, int, Timed, dict[str, Any]]] = []
    rows: list[Row] = []
    per_item = 0.0
    for batch in sorted(job.batches):
        if per_item * batch > job.longest_call:
            reason = f"one call would take about {per_item * batch:.0f} s; --longest-call is {job.longest_call:g} s"
            rows.append(Row(**_identity(job), action="encode", batch=batch, reason=reason))
            continue
        timed, codes = time_call(partial(tokenizer.encode, inputs[:batch]), job.seconds)
        equal = codes.numpy()[: len(reference)] == reference[:batch]
        measured.append(("encode", batch, timed, _memory() | {"codes_equal": float(equal.mean())}))
        per_item = timed.median / batch
        timed, _ = time_call(partial(tokenizer.decode, codes), job.seconds)
        measured.append(("decode", batch, timed, _memory()))
    # Counted last: what that needs is no part of the memory that encoding takes.
    folder = open_model(job.model)
    costs = count_costs(folder)
    for action, batch, timed, found in measured:
        if action == "encode":
            passes, work = _work_of_encoding(costs, folder, inputs[:batch])
            found |= {"passes": passes}
        else:
            work = costs.decode(batch)
        rates = _rates(timed, batch, tokenizer.num_tokens, work)
        if job.device == "cpu":
            floor_ms = work.floor_ms(job.peaks)
            rates |= {"floor_ms": floor_ms, "share_of_floor": floor_ms / (1e3 * timed.median)}
        rows.append(Row(**_identity(job), action=action, batch=batch, open_ms=open_ms, **rates, **found))
    return rows


@dataclass(frozen=True)
class Timed:
    """Seconds: of the first call, and of those after the warm-up."""

    first: float
    times: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.times)


def time_call(call: Callable[[], Any], seconds: float) -> tuple[Timed, Any]:
    """Two calls to warm up, or one that takes longer than ``seconds``; then as many as fit, at least three."""
    warm_up: list[float] = []
    result = None
    while len(warm_up) < _WARM_UP_CALLS and sum(warm_up) <= seconds:
        started = time.perf_counter()
        result = call()
        warm_up.append(time.perf_counter() - started)
    times: list[float] = []
    while len(times) < _FEWEST_CALLS or sum(times) < seconds:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return Timed(warm_up[0], times), result


def _work_of_encoding(costs: ModelCosts, folder: ModelFolder, inputs: np.ndarray) -> tuple[float | None, Work]:
    """Mean number of passes that ``encoder.onnx`` makes of these inputs, and what encoding costs."""
    prepared = open_modality(folder.config).prepare(inputs[:_REFERENCE_ITEMS], InputOptions()).pieces
    passes = count_passes(folder, prepared, temperature=0.0)
    if passes is None:
        return None, costs.encode_in_steps(len(inputs))
    return float(passes.mean()), costs.encode_in_passes(np.resize(passes, (len(inputs), passes.shape[1])))


def _rates(timed: Timed, batch: int, num_tokens: int, work: Work) -> dict[str, Any]:
    median = timed.median
    return {
        "first_call_ms": 1e3 * timed.first,
        "calls": len(timed.times),
        "median_ms": 1e3 * median,
        "p95_ms": 1e3 * float(np.quantile(timed.times, 0.95)),
        "items_per_second": batch / median,
        "codes_per_second": batch * num_tokens / median,
        "gb_per_second": work.num_bytes / median / 1e9,
        "gflop_per_second": work.flops / median / 1e9,
    }


def _memory() -> dict[str, float | None]:
    """The process's peak so far, and what is in use on the device."""
    return {"peak_memory_mb": peak_memory_mb(), "peak_device_memory_mb": device_memory_mb()}


if __name__ == "__main__":
    try:
        measured = measure_one(Job.from_json(sys.argv[1]))
    except DapsError as error:
        sys.exit(str(error))
    print(json.dumps([asdict(row) for row in measured]))
