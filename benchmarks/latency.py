"""How long encoding and decoding take.

Each model, backend and number of threads has a process of its own, so that peak memory is its own too and no runtime's
threads disturb another's. The torch backend is the baseline: an eager loop with a key-value cache.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import partial

from daps_tokenizer import DapsError, Tokenizer
from daps_tokenizer.errors import BackendError
from daps_tokenizer.measure import Timing, synthetic_inputs, time_calls


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
    """Measure one model on one backend in this process; encode is greedy, on images or clips of the model's size."""
    tokenizer = Tokenizer.from_pretrained(model, backend=backend, num_threads=threads)  # type: ignore[arg-type]
    timings: list[tuple[str, int, Timing]] = []
    for batch in sorted(batches):
        inputs = synthetic_inputs(batch, tokenizer.config)
        codes = tokenizer.encode(inputs)
        encode, decode = partial(tokenizer.encode, inputs), partial(tokenizer.decode, codes)
        timings.append(("encode", batch, time_calls(encode, batch=batch, seconds=seconds)))
        timings.append(("decode", batch, time_calls(decode, batch=batch, seconds=seconds)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)
    return [
        Row(model, backend, threads, action, batch, **asdict(timing), peak_memory_mb=peak)
        for action, batch, timing in timings
    ]


if __name__ == "__main__":
    try:
        measured = measure_one(**json.loads(sys.argv[1]))
    except DapsError as error:
        sys.exit(str(error))
    print(json.dumps([asdict(row) for row in measured]))
