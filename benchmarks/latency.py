"""How long encoding and decoding take.

Each model, backend and number of threads has a process of its own, so that peak memory is its own too and no runtime's
threads disturb another's. The torch backend is the baseline: an eager loop with a key-value cache.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from daps_tokenizer import DapsError, Tokenizer
from daps_tokenizer.errors import BackendError

WARM_UP_CALLS = 2


@dataclass(frozen=True)
class Row:
    """One measurement. Times are of one call on a whole batch, in milliseconds; memory is the process's peak, in MB."""

    model: str
    backend: str
    threads: int
    action: str
    batch: int
    calls: int
    median_ms: float
    p95_ms: float
    items_per_second: float
    peak_memory_mb: float


def measure_all(
    models: list[str], backends: list[str], threads: list[int], batches: list[int], *, seconds: float
) -> list[Row]:
    """Measure every combination, one process after the other.

    Args:
        seconds: time spent on each action and batch size, after the warm-up.

    Raises:
        BackendError: a process failed; its last line of output is in the message.
    """
    rows: list[Row] = []
    for model in models:
        for count in threads:
            for backend in backends:
                job = {"model": model, "backend": backend, "threads": count, "batches": batches, "seconds": seconds}
                command = [sys.executable, "-m", "benchmarks.latency", json.dumps(job)]
                finished = subprocess.run(command, capture_output=True, text=True, check=False)
                if finished.returncode != 0:
                    reason = (finished.stderr.strip().splitlines() or ["no output"])[-1]
                    raise BackendError(f"{model} on {backend} with {count} threads could not be measured: {reason}")
                rows += [Row(**row) for row in json.loads(finished.stdout)]
    return rows


def measure_one(model: str, backend: str, threads: int, batches: list[int], seconds: float) -> list[Row]:
    """Measure one model on one backend in this process; encode is greedy, on uint8 images of the model's size."""
    tokenizer = Tokenizer.from_pretrained(model, backend=backend, num_threads=threads)  # type: ignore[arg-type]
    timings = []
    for batch in sorted(batches):
        images = example_images(tokenizer, batch)
        codes = tokenizer.encode(images)
        timings.append(("encode", batch, time_calls(lambda x=images: tokenizer.encode(x), seconds)))  # type: ignore[misc]
        timings.append(("decode", batch, time_calls(lambda z=codes: tokenizer.decode(z), seconds)))  # type: ignore[misc]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)
    return [
        Row(
            model=model,
            backend=backend,
            threads=threads,
            action=action,
            batch=batch,
            calls=len(times),
            median_ms=1e3 * statistics.median(times),
            p95_ms=1e3 * float(np.quantile(times, 0.95)),
            items_per_second=batch / statistics.median(times),
            peak_memory_mb=peak,
        )
        for action, batch, times in timings
    ]


def time_calls(call: Callable[[], object], seconds: float) -> list[float]:
    """Seconds that each call took, for as long as asked and at least five calls, after the warm-up."""
    for _ in range(WARM_UP_CALLS):
        call()
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < 5 or time.perf_counter() - started < seconds:
        before = time.perf_counter()
        call()
        times.append(time.perf_counter() - before)
    return times


def example_images(tokenizer: Tokenizer, batch: int) -> np.ndarray:
    """Smooth pictures with some noise, (batch, height, width, C) uint8; latency does not depend on what they show."""
    height, width, channels = tokenizer.input_shape
    random = np.random.default_rng(0)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    waves = np.sin(6.0 * (x + random.random((batch, 1, 1))) + 4.0 * y * random.random((batch, 1, 1)))
    noise = random.normal(0.0, 8.0, (batch, height, width, channels))
    return np.clip(127.5 + 100.0 * waves[..., None] + noise, 0, 255).astype(np.uint8)


if __name__ == "__main__":
    try:
        measured = measure_one(**json.loads(sys.argv[1]))
    except DapsError as error:
        sys.exit(str(error))
    print(json.dumps([asdict(row) for row in measured]))
