"""Options that several commands share: what runs a model, and whether files are overwritten."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import click

from daps_tokenizer.backends import BACKENDS, BackendName, open_backend
from daps_tokenizer.cli.common import print_warning
from daps_tokenizer.hub import ModelFolder, open_model
from daps_tokenizer.tokenizer import Tokenizer

Command = Callable[..., None]

force_option = click.option("--force", is_flag=True, help="Overwrite outputs that exist already; never an input.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line, and nothing else.")


@dataclass(frozen=True)
class Runtime:
    """What runs a model, as chosen by ``--backend``, ``--device``, ``--dtype`` and ``--num-threads``."""

    backend: BackendName
    device: str | None
    dtype: str
    num_threads: int | None

    def open(self, folder: ModelFolder) -> Tokenizer:
        """Load a model; errors as of :func:`~daps_tokenizer.backends.open_backend`."""
        backend = open_backend(
            folder, backend=self.backend, device=self.device, dtype=self.dtype, num_threads=self.num_threads
        )
        return Tokenizer(folder, backend)


class Tokenizers:
    """The models of one run, each opened when it is first asked for.

    Args:
        runtime: what runs them.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._opened: dict[str, Tokenizer] = {}

    def __getitem__(self, model: str) -> Tokenizer:
        """A model by its built-in name, folder or ``org/name``; errors of opening it."""
        if model not in self._opened:
            self._opened[model] = self._runtime.open(open_model(model))
        return self._opened[model]


def add_options(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    """Decorate a command with options, which its help lists in this order."""
    for option in reversed(options):
        command = option(command)
    return command


def runtime_options(command: Command) -> Command:
    """Give a command the options that choose a runtime, and hand them to it as ``runtime``."""

    @functools.wraps(command)
    def with_runtime(*, backend: str, device: str | None, dtype: str, num_threads: int | None, **others: Any) -> None:
        runtime = Runtime(cast(BackendName, backend), device, dtype, _at_most_the_cores(num_threads))
        command(runtime=runtime, **others)

    backends = click.Choice(["auto", *BACKENDS])
    runtimes = "The runtime to use; auto is the fastest that is installed and works here."
    devices = "The device to use: cpu, cuda, tensorrt-rtx or webgpu; without it, the default of the backend."
    dtypes = "The precision to compute in: float32, and on GPUs also float16 and bfloat16."
    threads = "How many CPU threads to use; without it, one for each core."
    options: list[Callable[[Command], Command]] = [
        click.option("--backend", type=backends, default="auto", show_default=True, help=runtimes),
        click.option("--device", help=devices),
        click.option("--dtype", default="float32", show_default=True, help=dtypes),
        click.option("--num-threads", type=click.IntRange(min=1), metavar="N", help=threads),
    ]
    return add_options(with_runtime, options)


def _at_most_the_cores(num_threads: int | None) -> int | None:
    """More threads than cores only slow each other down."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if num_threads is None or num_threads <= cores:
        return num_threads
    print_warning(f"--num-threads {num_threads} is capped at {cores}, the number of cores that this process may use")
    return cores
