"""Which items make up the batch of a step, and worker processes that read batches ahead of the training step.

A batch depends on the seed and the step alone. Because nothing is remembered between batches, a resumed run sees
exactly the batches that it would have seen, whatever the number of workers.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import numpy as np

from daps_tokenizer.errors import DapsError, InputError
from train.items import Items

MAX_WORKERS = 16


class WorkerEnded(DapsError):  # noqa: N818 - it is an outcome, not a mistake in the call
    """A process that reads batches was killed, or failed in a way that nobody thought of."""


def batch_indices(num_items: int, batch_size: int, step: int, seed: int) -> np.ndarray:
    """Which items make up the batch of a step: a new permutation of all items every epoch, the remainder dropped.

    Returns:
        (batch_size,) int64.

    Raises:
        InputError: a batch larger than the dataset.
    """
    if batch_size > num_items:
        raise InputError(f"batch_size {batch_size} is larger than the dataset of {num_items} items")
    epoch, position = divmod(step, num_items // batch_size)
    return _epoch_order(num_items, seed, epoch)[position * batch_size : (position + 1) * batch_size]


@lru_cache(maxsize=1)
def _epoch_order(num_items: int, seed: int, epoch: int) -> np.ndarray:
    order = np.random.default_rng([seed, epoch]).permutation(num_items)
    order.flags.writeable = False  # it is handed out in slices
    return order


@dataclass(frozen=True)
class BatchReader:
    """One process's share of every batch; calling it with a step returns the items of that step.

    Args:
        items: what is read.
        batch_size: items in the batch of all processes together.
        seed: of the order, and of the augmentation.
        views: random views of each item in the batch, so that reading it once serves several times.
        process, num_processes: which share.
    """

    items: Items
    batch_size: int
    seed: int
    views: int = 1
    process: int = 0
    num_processes: int = 1

    def __call__(self, step: int) -> np.ndarray:
        """(batch_size / num_processes, *input_shape), the views of an item side by side."""
        return self.items.read(self.indices(step), seed=(self.seed, step))

    def indices(self, step: int) -> np.ndarray:
        """Which item each of these is a view of, (batch_size / num_processes,) int64: finds their labels."""
        indices = batch_indices(len(self.items), self.batch_size // self.views, step, self.seed)
        return np.repeat(indices[self.process :: self.num_processes], self.views)


def spare_cores(num_processes: int = 1) -> int:
    """How many workers keep this machine busy when this many processes train on it: at least 1, at most 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MAX_WORKERS, cores // num_processes - 1))


@contextmanager
def read_ahead(reader: Callable[[int], np.ndarray], steps: range, *, workers: int) -> Iterator[Iterator[np.ndarray]]:
    """The batches of consecutive steps, in order, read in worker processes while the training step runs.

    Worker w reads every ``workers``-th batch and holds it until it is taken, so as many batches are read ahead as there
    are workers. They end with the block, however it is left, and also if this process is killed: their connection
    breaks then, since only the two of them hold it.

    Args:
        reader: returns the batch of a step; sent to the workers, so it can be pickled and should hold no data.
        steps: which batches.
        workers: 0 reads in this process, when a batch is asked for.

    Raises:
        DapsError: as the reader raised it, when its batch is asked for.
        WorkerEnded: a worker was killed or had a failure of another kind.
    """
    if workers == 0:
        yield map(reader, steps)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads and locks, and break CUDA
    running: list[tuple[BaseProcess, Connection]] = []
    try:
        for _ in range(min(workers, len(steps))):
            ours, theirs = context.Pipe()
            worker = context.Process(target=_work, args=(theirs,), daemon=True)
            running.append((worker, ours))
            worker.start()
            theirs.close()
        # Not as arguments, which would make each start wait until the worker before has come up.
        for number, (process, connection) in enumerate(running):
            with _blaming(process):
                connection.send((reader, steps[number :: len(running)]))
        yield _received(running, len(steps))
    finally:
        for process, connection in running:
            connection.close()
            if process.pid is not None:
                process.kill()  # it has nothing to save, and ignores SIGTERM
        for process, _ in running:
            if process.pid is not None:
                process.join()


def _received(running: list[tuple[BaseProcess, Connection]], count: int) -> Iterator[np.ndarray]:
    for number in range(count):
        process, connection = running[number % len(running)]
        with _blaming(process):
            result = connection.recv()
        if isinstance(result, DapsError):
            raise result
        yield result


@contextmanager
def _blaming(process: BaseProcess) -> Iterator[None]:
    """Say what a connection that broke means."""
    try:
        yield
    except (EOFError, ConnectionError):
        process.join()
        raise WorkerEnded(
            f"a worker process that reads batches ended early, exit code {process.exitcode}; "
            "if it was killed for memory, set data.workers to fewer, or to 0 to read in the training process"
        ) from None


def _work(connection: Connection) -> None:
    """What a worker does: read the batches of its steps, and wait with each until it is taken."""
    # Ctrl-C, and a scheduler's SIGTERM, reach it too, but it is the training process that decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    reader, steps = connection.recv()
    for step in steps:
        result: np.ndarray | DapsError
        try:
            result = reader(step)
        except DapsError as error:
            result = error
        try:
            connection.send(result)
        except ConnectionError:  # training has ended
            return
