"""Which processes train together, and that no two trainings write to one folder."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import torch
from accelerate import Accelerator

from daps_tokenizer import locks
from daps_tokenizer.errors import ConfigError

LOCK = ".lock"


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


def locked(run_folder: Path) -> contextlib.AbstractContextManager[None]:
    """No other process trains in the folder while the block runs.

    Raises:
        InUseError: another process trains there.
    """
    advice = "trains here; wait until it ends, or choose another folder with --run"
    return locks.locked(run_folder / LOCK, advice=advice)
