"""The machine of a measurement, with what makes measurements on it differ: clocks, power, other load."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from daps_tokenizer.evaluation.timing import describe_machine

_GPU_FACTS = {
    "gpu": "name",
    "gpu driver": "driver_version",
    "gpu clock, MHz": "clocks.sm",
    "gpu highest clock, MHz": "clocks.max.sm",
    "gpu memory clock, MHz": "clocks.mem",
    "gpu power cap, W": "power.limit",
}


def describe_bench_machine() -> dict[str, str]:
    """Date, processor, versions; its clock and load when asked; of a GPU its name, driver, clocks and power cap."""
    described = describe_machine()
    clock = _processor_clock()
    if clock is not None:
        described["processor clock, MHz"] = clock
    if hasattr(os, "getloadavg"):
        described["load, 1 min"] = f"{os.getloadavg()[0]:.2f}"
    return described | dict(zip(_GPU_FACTS, _ask_gpu(",".join(_GPU_FACTS.values())), strict=False))


def device_memory_mb() -> float | None:
    """Memory in use on the first NVIDIA GPU, by all processes; None without a GPU."""
    found = _ask_gpu("memory.used")
    return float(found[0]) if found else None


def _ask_gpu(facts: str) -> list[str]:
    """What nvidia-smi says of the first GPU, in order; nothing where there is no nvidia-smi, or it fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={facts}", "--format=csv,noheader,nounits"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = finished.stdout.strip().splitlines()
    return [fact.strip() for fact in lines[0].split(",")] if finished.returncode == 0 and lines else []


def _processor_clock() -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return None
    found = re.search(r"^cpu MHz\s*:\s*([\d.]+)", text, re.MULTILINE)
    return f"{float(found[1]):.0f}" if found else None
