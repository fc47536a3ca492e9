"""What a measurement was made on: a number without its machine is not a measurement."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path

PACKAGES = ("daps-tokenizer", "numpy", "onnxruntime", "torch", "pillow")


def describe_machine() -> dict[str, str]:
    """Processor, cores, system, versions and today's date."""
    described = {
        "date": datetime.date.today().isoformat(),
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            described[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            described[package] = "not installed"
    return described


def machine_line(machine: dict[str, str]) -> str:
    """One line for below a table."""
    versions = ", ".join(f"{name} {machine[name]}" for name in PACKAGES)
    return (
        f"{machine['date']}, {machine['processor']}, {machine['cores']} cores, Python {machine['python']}, {versions}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"
