"""``daps-tokenize bench``: how fast a model is on this machine."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from daps_tokenizer import Tokenizer, __version__
from daps_tokenizer.cli_common import DEFAULT_MODEL, Runtime, json_option, print_table, progress_bar, runtime_options
from daps_tokenizer.hub import open_model

_FEWEST_CALLS = 5
_PACKAGES = ("daps-tokenizer", "numpy", "onnxruntime", "onnxruntime-gpu", "torch")


@click.command()
@click.argument("model", default=DEFAULT_MODEL)
@click.option("--batch", "batches", type=click.IntRange(min=1), multiple=True, help="Repeatable; default: 1 and 8.")
@click.option("--seconds", type=click.FloatRange(0, 3600), default=2.0, show_default=True, help="For each measurement.")
@runtime_options
@json_option
def bench(model: str, batches: tuple[int, ...], seconds: float, runtime: Runtime, as_json: bool) -> None:
    """Time MODEL on this machine."""
    folder = open_model(model)
    tokenizer = Tokenizer(folder, runtime.open(folder))
    machine = _describe_machine()
    common = {"model": tokenizer.config.name, "backend": tokenizer.backend, "device": tokenizer.device}
    rows: list[dict[str, Any]] = []
    sizes = batches or (1, 8)
    with progress_bar(2 * len(sizes)) as advance:
        for batch in sizes:
            images = _gradients(batch, tokenizer.input_shape)
            codes = tokenizer.encode(images)
            for action, call in {
                "encode": lambda images=images: tokenizer.encode(images),
                "decode": lambda codes=codes: tokenizer.decode(codes),
            }.items():
                rows.append({"action": action, "batch": batch, **_timings(call, batch, seconds)})
                advance()
    if as_json:
        for row in rows:
            print(json.dumps(common | {"threads": runtime.threads} | row | machine))
        return
    print(f"{common['model']} on {common['backend']}, {common['device']}, {runtime.threads or 'default'} threads")
    print_table(
        ["action", "batch", "calls", "median, ms", "p95, ms", "items/s"],
        [
            [
                row["action"],
                str(row["batch"]),
                str(row["calls"]),
                f"{row['median_ms']:.2f}",
                f"{row['p95_ms']:.2f}",
                f"{row['items_per_second']:.1f}",
            ]
            for row in rows
        ],
    )
    print(", ".join(f"{name} {value}" for name, value in machine.items()))


def _gradients(batch: int, shape: tuple[int, ...]) -> np.ndarray:
    """Smooth images (batch, height, width, C) uint8, each a little different."""
    height, width, channels = shape
    item, y, x, channel = np.ogrid[:batch, :height, :width, :channels]
    shares = y / height + x / width + channel / channels + item / batch
    return (255 * (0.5 + 0.5 * np.sin(2 * math.pi * shares))).astype(np.uint8)


def _timings(call: Callable[[], object], batch: int, seconds: float) -> dict[str, float]:
    """Time a call, after one to warm up, for as long as asked and at least five times."""
    call()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < _FEWEST_CALLS or time.perf_counter() < until:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    median = statistics.median(times)
    return {
        "calls": len(times),
        "median_ms": 1e3 * median,
        "p95_ms": 1e3 * float(np.quantile(times, 0.95)),
        "items_per_second": batch / median,
    }


def _describe_machine() -> dict[str, str]:
    """What timings depend on: a number without its machine is not a measurement."""
    described = {"processor": _processor(), "cores": str(_cores()), "python": platform.python_version()}
    for distribution in _PACKAGES:
        if (version := _version(distribution)) is not None:
            described[distribution] = version
    return described


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return __version__ if distribution == "daps-tokenizer" else None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
