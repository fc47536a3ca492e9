"""``python -m benchmarks latency``."""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.latency.machine import describe_bench_machine
from benchmarks.latency.measure import RUNTIMES, Plan, measure_all
from benchmarks.latency.report import write_latency
from benchmarks.reports import RESULTS, command_line, show
from daps_tokenizer.hub import built_in_models


@click.command()
@click.option("--model", "models", multiple=True, help="Model to measure; all built-in ones without it.")
@click.option("--backend", "backends", multiple=True, help="Only this backend: onnx, torch or tensorrt; repeatable.")
@click.option("--device", "devices", multiple=True, help="Only this device: cpu or cuda; repeatable.")
@click.option("--precision", "precisions", multiple=True, help="Only this precision, for example float32; repeatable.")
@click.option("--num-threads", "threads", multiple=True, type=click.IntRange(min=1), default=(1,), show_default=True)
@click.option(
    "--batch", "batches", multiple=True, type=click.IntRange(min=1), default=(1, 8, 64, 256), show_default=True
)
@click.option("--seconds", default=2.0, show_default=True, help="Time spent on each measurement.")
@click.option(
    "--rounds", default=3, show_default=True, type=click.IntRange(min=1), help="A row is of its fastest round."
)
@click.option("--longest-call", default=20.0, show_default=True, help="Leave out what takes more seconds a call.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of test sets; else $DAPS_DATA, ../shared/data.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default="benchmarks/results")
def latency(
    models: tuple[str, ...],
    backends: tuple[str, ...],
    devices: tuple[str, ...],
    precisions: tuple[str, ...],
    threads: tuple[int, ...],
    batches: tuple[int, ...],
    seconds: float,
    rounds: int,
    longest_call: float,
    data: Path | None,
    out: Path,
) -> None:
    """Time encode and decode on every backend that works here, and say why the others do not."""
    chosen = tuple(
        runtime
        for runtime in RUNTIMES
        if all(part in only for part, only in zip(runtime, (backends, devices, precisions), strict=True) if only)
    )
    if not chosen:
        known = ", ".join(" ".join(runtime) for runtime in RUNTIMES)
        raise click.UsageError(f"no such backend, device and precision; there are {known}")
    plan = Plan(
        models=models or tuple(built_in_models()),
        runtimes=chosen,
        threads=threads,
        batches=batches,
        seconds=seconds,
        longest_call=longest_call,
        data=data,
        rounds=rounds,
    )
    machine = describe_bench_machine()
    rows, sources, peaks = measure_all(plan, on_progress=lambda line: click.echo(line, err=True))
    show(write_latency(out, rows, machine, sources, peaks, command_line()))
