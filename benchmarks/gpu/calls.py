"""Whole calls on a GPU: uint8 images on the host to codes on the host, and back, and local search.

``python -m benchmarks.gpu.calls --out calls.json``. Real images, as the number of passes depends on them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.gpu.record import NO_TIME, Deadline, Record, reason_of
from benchmarks.inputs import real_inputs
from daps_tokenizer import LocalSearch, Tokenizer
from daps_tokenizer.evaluation.timing import time_calls

_DTYPES = ("float32", "float16", "bfloat16")


@click.command()
@click.option("--model", "models", multiple=True, default=("daps-photo-256", "daps-cifar10"), show_default=True)
@click.option("--backend", "backends", multiple=True, default=("torch",), show_default=True)
@click.option("--device", default="cuda", show_default=True)
@click.option("--dtype", "dtypes", multiple=True, default=_DTYPES, show_default=True)
@click.option("--batch", "batches", multiple=True, type=int, default=(1, 64, 8, 256), show_default=True)
@click.option("--search/--no-search", default=True, show_default=True, help="Time a sweep of local search too.")
@click.option("--seconds", default=0.5, show_default=True, help="Time spent on each measurement.")
@click.option("--until", type=float, help="Take nothing new on after this many seconds.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The JSON file to write.")
def main(
    models: tuple[str, ...],
    backends: tuple[str, ...],
    device: str,
    dtypes: tuple[str, ...],
    batches: tuple[int, ...],
    search: bool,
    seconds: float,
    until: float | None,
    out: Path,
) -> None:
    """Time whole calls; a row that cannot be measured says why."""
    record, deadline = Record(out), Deadline(until)
    for model, backend, dtype in itertools.product(models, backends, dtypes):
        common: dict[str, Any] = {"model": model, "backend": backend, "device": device, "dtype": dtype}
        if deadline.passed:
            record.add(common | {"reason": NO_TIME})
            continue
        try:
            tok = Tokenizer.from_pretrained(model, backend=backend, device=device, dtype=dtype)  # type: ignore[arg-type]
            inputs, source = real_inputs(tok.config, max(batches))
            common |= {"info": tok.backend_info, "inputs": source}
            for batch in batches:
                if deadline.passed:  # before the batch is prepared, which compiles
                    record.add(common | {"batch": batch, "reason": NO_TIME})
                    continue
                for action, call in _calls(tok, inputs[:batch], search=search and batch <= 64).items():
                    if not deadline.passed:
                        timing = time_calls(call, batch=batch, seconds=seconds)
                        record.add(common | {"action": action, "batch": batch, **vars(timing)})
        except Exception as error:  # of any runtime; the others are measured all the same
            record.add(common | {"reason": reason_of(error)})


def _calls(tok: Tokenizer, inputs: np.ndarray, *, search: bool) -> dict[str, Callable[[], object]]:
    """What is timed; codes and pixels are on the host when a call returns."""
    codes = tok.encode(inputs).numpy()
    calls: dict[str, Callable[[], object]] = {
        "encode": lambda: tok.encode(inputs).numpy(),
        "sample": lambda: tok.sample(inputs, num_samples=1, seed=0).numpy(),
        "decode": lambda: tok.decode(codes),
    }
    if search:
        calls["encode, one sweep of local search"] = lambda: tok.encode(inputs, search=LocalSearch()).numpy()
    return calls


if __name__ == "__main__":
    main()
