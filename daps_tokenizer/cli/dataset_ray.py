"""``daps-tokenize dataset --ray``: the shards of a code set on the workers of a Ray cluster."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

import click

from daps_tokenizer.cli.common import print_error, progress_bar
from daps_tokenizer.cli.options import Runtime
from daps_tokenizer.data.code_set_files import Shard, read_common_record
from daps_tokenizer.data.code_sets import CodeSet
from daps_tokenizer.data.datasets import Data
from daps_tokenizer.data.ray import SHARDS_PER_WORKER, Work, encode_on_ray

_RAY = "Encode on a Ray cluster: its address, auto for the one on this machine, or local to start one."
_WORKERS = "How many workers of the cluster encode, each with a model of its own."
_GPUS = "GPUs that each worker uses, such as 1 or 0.5; default: none."

RAY_OPTIONS: list[Callable[[Callable[..., None]], Callable[..., None]]] = [
    click.option("--ray", metavar="ADDRESS", help=_RAY),
    click.option("--workers", type=click.IntRange(min=1), metavar="N", help=_WORKERS),
    click.option("--gpus-per-worker", type=click.FloatRange(min=0, min_open=True), metavar="G", help=_GPUS),
]


@dataclasses.dataclass(frozen=True)
class RayWorkers:
    """Where the workers are, how many, and what each takes."""

    address: str
    count: int
    gpus: float

    def runtime(self, chosen: Runtime) -> Runtime:
        """What runs the model of a worker: on CPUs one thread, unless another number was asked for."""
        return chosen if self.gpus else dataclasses.replace(chosen, num_threads=chosen.num_threads or 1)

    def encode(
        self,
        data: str | Path,
        output: Path,
        opened: Data,
        model: str,
        open_work: Callable[[], Work],
        runtime: Runtime,
        *,
        as_json: bool,
    ) -> None:
        """Encode, and print what was done; exits with 2 if items were skipped."""
        found = read_common_record(output)
        if found is not None and found["shards"] > 1:
            shards = found["shards"]  # of an interrupted run, perhaps with another number of workers
        else:
            shards = max(2, min(SHARDS_PER_WORKER * self.count, len(opened)))
        started = time.perf_counter()
        with progress_bar(shards) as show_done:
            report = encode_on_ray(
                open_work,
                shards,
                address=self.address,
                workers=self.count,
                cpus_per_worker=self.runtime(runtime).num_threads or 1,
                gpus_per_worker=self.gpus,
                on_progress=show_done,
            )
        seconds = time.perf_counter() - started
        shape = CodeSet.open(output).values.shape
        record = {"skipped": report.skipped, "done_now": report.done_now, "seconds": seconds, "rates": report.rates}
        if as_json:
            print(json.dumps({"output": str(output), "model": model, "shape": shape, "shards": shards} | record))
        else:
            each = ", ".join(f"{rate:.1f}" for rate in report.rates)
            rates = f"{report.done_now / seconds:.1f} images/s, by worker {each}" if each else "was complete already"
            sizes = " x ".join(f"{size:,}" for size in shape)
            print(f"{data} -> {output}  {sizes} codes in {shards} shards, {model}, {seconds:.0f} s, {rates}")
        if report.skipped:
            print_error(
                f"{output}: {report.skipped} of {len(opened)} items could not be read; skipped-*.jsonl name them"
            )
            click.get_current_context().exit(2)


def ray_workers(
    address: str | None, count: int | None, gpus: float | None, shard: Shard, *, force: bool, merge: bool
) -> RayWorkers | None:
    """What the options ask for; None without ``--ray``."""
    if address is None:
        if count is not None or gpus is not None:
            raise click.UsageError("--workers and --gpus-per-worker need --ray.")
        return None
    if count is None:
        raise click.UsageError("--ray needs --workers.")
    if merge or force or shard.count > 1:
        raise click.UsageError("--ray excludes --merge, --shard and --force: it writes shards of its own.")
    return RayWorkers(address, count, gpus or 0)
