"""What ``daps-tokenize bench`` and the benchmarks share: how to time, what to time on, and on which machine it was."""

from __future__ import annotations

import datetime
import importlib.metadata
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from daps_tokenizer import __version__
from daps_tokenizer.config import Robot, TokenizerConfig
from daps_tokenizer.motion.features import standing
from daps_tokenizer.motion.kinematics import joint_limits
from daps_tokenizer.motion.robots import robot_of

_FEWEST_CALLS = 5
_WARM_UP_CALLS = 2
_PACKAGES = ("numpy", "pillow", "onnxruntime", "onnxruntime-gpu", "torch", "torchmetrics")


@dataclass(frozen=True)
class Timing:
    """Times of one call on a whole batch, in milliseconds; ``items_per_second`` follows from the median."""

    calls: int
    median_ms: float
    p95_ms: float
    items_per_second: float


def time_calls(call: Callable[[], object], *, batch: int, seconds: float) -> Timing:
    """Time a call on ``batch`` items, after two to warm up, for as long as asked and at least five times."""
    for _ in range(_WARM_UP_CALLS):
        call()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < _FEWEST_CALLS or time.perf_counter() < until:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    median = statistics.median(times)
    return Timing(len(times), 1e3 * median, 1e3 * float(np.quantile(times, 0.95)), batch / median)


def peak_memory_mb() -> float:
    """The most memory that this process has held so far, in MB, on Linux and macOS.

    On Linux of this program alone: the maximum that getrusage tells begins with that of whatever started it.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:  # not Linux
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def synthetic_inputs(batch: int, config: TokenizerConfig) -> np.ndarray:
    """Smooth inputs of a model's size, each a little different: latency does not depend on content.

    Images (batch, height, width, C) uint8, or poses (batch, frames, 7 + joints) of one window, from which
    features are computed too.
    """
    if config.modality == "motion":
        return _synthetic_clips(batch, config.input_shape[0], robot_of(config))
    return synthetic_images(batch, config.input_shape)


def synthetic_images(batch: int, shape: tuple[int, ...]) -> np.ndarray:
    """Smooth images (batch, height, width, C) uint8, each a little different."""
    height, width, channels = shape
    item, y, x, channel = np.ogrid[:batch, :height, :width, :channels]
    shares = y / height + x / width + channel / channels + item / batch
    return (255 * (0.5 + 0.5 * np.sin(2 * math.pi * shares))).astype(np.uint8)


def _synthetic_clips(batch: int, frames: int, robot: Robot) -> np.ndarray:
    """A robot that sways while it stands."""
    clips = np.tile(standing(robot), (batch, frames, 1))
    limits = joint_limits(robot)
    item, frame, joint = np.ogrid[:batch, :frames, : len(limits)]
    swing = np.sin(2 * math.pi * (frame / frames + joint / len(limits) + item / batch))
    clips[..., 7:] = limits.mean(1) + 0.1 * swing * np.diff(limits, axis=1)[:, 0]
    return clips


def describe_machine() -> dict[str, str]:
    """Date, processor, cores and versions: a number without its machine is not a measurement."""
    described = {
        "date": datetime.date.today().isoformat(),
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "python": platform.python_version(),
        "daps-tokenizer": __version__,
    }
    for distribution in _PACKAGES:
        try:
            described[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return described


def machine_line(machine: dict[str, str]) -> str:
    """The same in one line."""
    return ", ".join(f"{name} {value}" for name, value in machine.items())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
