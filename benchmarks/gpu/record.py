"""What every part of the GPU session writes: a JSON file that is whole after each row, as time may run out."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.latency.machine import describe_bench_machine
from daps_tokenizer.files import write_bytes_atomically

NO_TIME = "no time was left"


class Record:
    """Rows of measurements, with the command and the machine."""

    def __init__(self, path: Path) -> None:
        module = sys.modules["__main__"].__spec__
        name = module.name if module is not None else Path(sys.argv[0]).name
        command = " ".join(["python -m", name, *sys.argv[1:]])
        self._path = path
        self._content: dict[str, Any] = {"command": command, "machine": describe_bench_machine(), "rows": []}

    def add(self, row: dict[str, Any]) -> None:
        self._content["rows"].append(row)
        write_bytes_atomically(self._path, (json.dumps(self._content, indent=2) + "\n").encode())
        click.echo(json.dumps(row))


def reason_of(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


class Deadline:
    """When a part should take nothing new on; never, where it has no time limit."""

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    @property
    def passed(self) -> bool:
        return self._end is not None and time.monotonic() > self._end
