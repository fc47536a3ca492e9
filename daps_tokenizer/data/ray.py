"""A data set as codes on a Ray cluster: shards are distributed to actors, each of which holds one model.

The shards are files of the code set in a folder that all nodes see. What is written stays written, so a node that is
lost costs the shards that it had not finished, and others encode those anew.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from daps_tokenizer.data.code_set_files import Shard
from daps_tokenizer.data.code_set_writer import CodeSetReport
from daps_tokenizer.errors import DapsError, InputError, reason_of
from daps_tokenizer.install import install_command

Work = Callable[[Shard], CodeSetReport]

SHARDS_PER_WORKER = 8  # so that all workers end at about the same time


class RayReport(NamedTuple):
    """Rows, skipped items and items of this call, as of :class:`CodeSetReport`; images/s of each worker."""

    rows: int
    skipped: int
    done_now: int
    rates: list[float]


class _Worker:
    """An actor: opens the model and the data once, and writes one shard after another."""

    def __init__(self, folder: Path, open_work: Callable[[], Work], shards: int) -> None:
        import ray

        os.chdir(folder)  # names of items are as in the process that asked
        self._shards, self._name = shards, ray.get_runtime_context().get_actor_id()
        self._work: Work | str
        try:
            self._work = open_work()
        except DapsError as error:
            self._work = str(error)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[object]]:
        """Write the shard of a batch of one; an error of ours is an answer, as Ray would wrap it."""
        started = time.perf_counter()
        report, error = CodeSetReport(0, 0, 0), self._work if isinstance(self._work, str) else ""
        if not isinstance(self._work, str):
            try:
                report = self._work(Shard(int(batch["id"][0]), self._shards))
            except DapsError as raised:
                error = str(raised)
        seconds = time.perf_counter() - started
        return {"report": [list(report)], "error": [error], "worker": [self._name], "seconds": [seconds]}


def encode_on_ray(
    open_work: Callable[[], Work],
    shards: int,
    *,
    address: str,
    workers: int,
    cpus_per_worker: int = 1,
    gpus_per_worker: float = 0,
    on_progress: Callable[[int], None] = lambda done: None,
) -> RayReport:
    """Write all shards of a code set, those that are whole already excepted.

    Args:
        open_work: opens model and data in an actor, and returns what writes one shard; Ray pickles it.
        shards: how many.
        address: of the cluster; ``auto`` is the one that runs on this machine, ``local`` starts one for this call.
        workers: how many actors.
        cpus_per_worker, gpus_per_worker: what each of them takes.
        on_progress: is told how many shards are done.

    Raises:
        InputError: Ray is not installed, or there is no cluster at the address.
        DapsError: what writing a shard raised.
    """
    try:
        import ray
        from ray.data import ActorPoolStrategy, DataContext
    except ImportError:
        raise InputError(f"Ray is not installed; install it with {install_command('ray')}") from None
    connected = ray.is_initialized()
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(
            f"--ray {address}: no cluster there ({reason_of(error)}); start one with `ray start --head`, "
            "or use --ray local"
        ) from error
    try:
        DataContext.get_current().enable_progress_bars = False
        # Not ray.data.range: its tasks take a CPU each, and after a node is lost actors may hold all the others.
        numbers = ray.data.from_items([{"id": number} for number in range(shards)], override_num_blocks=shards)
        written = numbers.map_batches(
            _Worker,
            fn_constructor_args=(Path.cwd(), open_work, shards),
            batch_size=1,
            compute=ActorPoolStrategy(min_size=1, max_size=workers),
            num_cpus=cpus_per_worker,
            num_gpus=gpus_per_worker or None,
        )
        return _collect(written.iter_rows(), on_progress)
    finally:
        if not connected:
            ray.shutdown()


def _collect(rows: Iterable[dict[str, Any]], on_progress: Callable[[int], None]) -> RayReport:
    totals, of_workers = np.zeros(3, np.int64), dict[str, np.ndarray]()
    for done, row in enumerate(rows, start=1):
        if row["error"]:
            raise DapsError(row["error"])
        totals += np.asarray(row["report"])
        items_and_seconds = np.array([row["report"][2], row["seconds"]])
        of_workers[row["worker"]] = of_workers.get(row["worker"], 0) + items_and_seconds
        on_progress(done)
    rates = [float(items / seconds) for items, seconds in of_workers.values() if items]
    return RayReport(int(totals[0]), int(totals[1]), int(totals[2]), rates)
