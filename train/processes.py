"""Which processes train together, and that no two trainings write to one folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator

from daps_tokenizer.errors import ConfigError, DapsError

LOCK = ".lock"


class RunFolderInUse(DapsError):  # noqa: N818 - it is an outcome, not a mistake in the call
    """Another process trains in the same run folder."""


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
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"WORLD_SIZE is {started}, but its processes cannot be joined ({reason}); start them with `{command}`"
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


@contextmanager
def locked(run_folder: Path) -> Iterator[None]:
    """No other process trains in the folder while the block runs.

    The system drops the lock of a process that ends, however it ends, so nobody has to remove a lock by hand.

    Raises:
        RunFolderInUse: another process trains there.
    """
    run_folder.mkdir(parents=True, exist_ok=True)
    path = run_folder / LOCK
    descriptor = _open_locked(path)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)
        with contextlib.suppress(OSError):  # it is not empty: the run left something
            run_folder.rmdir()


def _open_locked(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(descriptor, 20).decode().strip() or "another"
            os.close(descriptor)
            raise RunFolderInUse(
                f"{path.parent}: process {owner} trains here; wait until it ends, or choose another folder with --run"
            ) from None
        # The last owner may have removed the file between opening and locking it.
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        os.close(descriptor)
