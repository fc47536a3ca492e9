"""Which processes train together, what they tell each other, and that no two trainings write to one folder."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, distributed

from daps_tokenizer import locks
from daps_tokenizer.errors import INTERRUPTED, ConfigError, DapsError, reason_of

LOCK = ".lock"


class ProcessLost(DapsError):  # noqa: N818 - it is an outcome, not a mistake in the call
    """Another process of the same training ended before its time."""


class TrainingStopped(DapsError):  # noqa: N818 - it is an outcome, not a mistake in the call
    """Ctrl-C or SIGTERM ended a run after a step that is in its checkpoint."""

    exit_code = INTERRUPTED


def join_processes(precision: str = "fp32") -> Accelerator:
    """This process's place among those that torchrun started; alone where it started none.

    Several processes without a GPU talk to each other by gloo.

    Raises:
        ConfigError: WORLD_SIZE says that there are others, and they cannot be joined.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    command = f"torchrun --nproc-per-node {max(2, started)} -m train fit CONFIG"
    try:
        accelerator = Accelerator(
            cpu=started > 1 and not torch.cuda.is_available(), mixed_precision="bf16" if precision == "bf16" else "no"
        )
    except (ValueError, RuntimeError) as error:
        if started == 1:
            raise
        raise ConfigError(
            f"WORLD_SIZE is {started}, but its processes cannot be joined ({reason_of(error)}); "
            f"start them with `{command}`"
        ) from error
    if accelerator.num_processes != started:
        raise ConfigError(
            f"WORLD_SIZE is {started}, but this process trains alone, so the others would train the same once more; "
            f"start them with `{command}`"
        )
    return accelerator


def describe_processes(accelerator: Accelerator) -> str:
    """How many processes train, and on what."""
    number = accelerator.num_processes
    device = torch.cuda.get_device_name() if accelerator.device.type == "cuda" else accelerator.device.type.upper()
    return f"{number} process on {device}" if number == 1 else f"{number} processes, each on {device}"


def place() -> tuple[int, int]:
    """This process's number, from 0, and how many train together."""
    if not distributed.is_available() or not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


@contextmanager
def main_first() -> Iterator[None]:
    """What the main process does before the others, which then find it done."""
    number, count = place()
    if count > 1 and number > 0:
        distributed.barrier()
    try:
        yield
    finally:
        if count > 1 and number == 0:
            distributed.barrier()


def sum_of_all(values: Tensor) -> Tensor:
    """The sum over all processes, without a gradient; each of them asks for it."""
    if place()[1] == 1:
        return values.detach()
    total = values.detach().clone()
    distributed.all_reduce(total)
    return total


def mean_of_all(values: Tensor) -> Tensor:
    """The mean over all processes, with the gradient of this process's own values.

    Gradients are averaged over the processes before an update, so what is computed from such a mean moves the weights
    as it would if one process had all items.
    """
    count = place()[1]
    return values if count == 1 else values + (sum_of_all(values) / count - values).detach()


def means_of_all(metrics: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Each number's mean over all processes."""
    if place()[1] == 1:
        return metrics
    means = mean_of_all(torch.stack([value.detach().to(device, torch.float32) for value in metrics.values()]))
    return dict(zip(metrics, means.unbind(), strict=True))


def share_of_rows(rows: Tensor, each: int = 1) -> Tensor:
    """This process's rows of a tensor that has ``each`` rows for every item of the batch of all processes.

    Item j of the batch belongs to process j modulo their number (:class:`train.batches.BatchReader`).
    """
    number, count = place()
    return rows.unflatten(0, (-1, each))[number::count].flatten(0, 1)


@contextmanager
def ending_together(run_folder: Path) -> Iterator[None]:
    """If another process ends, or a launcher stops all of them for that, say so in one line.

    Raises:
        ProcessLost: another process was lost, or this one got SIGTERM.
    """
    if place()[1] == 1:
        yield
        return
    lost = ProcessLost(
        f"{run_folder}: another process of this training has ended, so this one stops too; the same command resumes "
        "from the last checkpoint, with any number of processes"
    )

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; the message must still be printed
        raise lost

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except (RuntimeError, ConnectionError) as error:
        if isinstance(error, DapsError) or not _is_of_a_connection(error):
            raise
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise lost from error
    else:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def told_to_stop() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or SIGTERM, which schedulers send before they kill, has told this process to stop.

    So a loop can save what it has between two steps. A second signal ends the process at once. Signals that are ignored
    stay so, and nothing is changed outside of the main thread, or where there are several processes, as one of them
    cannot save alone (:func:`ending_together`).
    """
    told: list[int] = []
    before: dict[int, Any] = {}

    def leave() -> None:
        while before:
            signal.signal(*before.popitem())

    def note(number: int, _: object) -> None:
        told.append(number)
        leave()

    if place()[1] == 1 and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if handler not in (None, signal.SIG_IGN):  # None: not Python's
                before[number] = handler
                signal.signal(number, note)
    try:
        yield lambda: bool(told)
    finally:
        leave()


def _is_of_a_connection(error: Exception) -> bool:
    """Whether torch says that it cannot reach another process; it has no error of its own for most of these cases."""
    words = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe")
    known = (ConnectionError, distributed.DistError)
    return isinstance(error, known) or any(word in str(error).lower() for word in words)


def locked(run_folder: Path) -> contextlib.AbstractContextManager[None]:
    """No other process trains in the folder while the block runs.

    Raises:
        InUseError: another process trains there.
    """
    advice = "trains here; wait until it ends, or choose another folder with --run"
    return locks.locked(run_folder / LOCK, advice=advice)
