"""Measurements of single images as lines of JSON, so that a long run can be split, interrupted and resumed."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from daps_tokenizer.errors import InputError
from daps_tokenizer.files import write_bytes_atomically


class Records:
    """What was measured of each image in each way, in memory and in a file; safe to add to from several threads.

    The first line of the file says what all of it depends on; every other line is one image in one way.

    Args:
        path: the file; made where it is not there.
        protocol: what the measurements depend on.

    Raises:
        InputError: the file is of another kind, or holds measurements that depend on something else.
    """

    def __init__(self, path: Path, protocol: dict[str, Any]) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._values: dict[tuple[str, int], dict[str, Any]] = {}
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes_atomically(path, (json.dumps(protocol) + "\n").encode())
            return
        content = path.read_text(encoding="utf-8")
        complete = content[: content.rfind("\n") + 1]  # a run that was killed may leave half a line
        try:
            found, *lines = [json.loads(line) for line in complete.splitlines()]
            self._values = {(line.pop("way"), line.pop("image")): line for line in lines}
        except (ValueError, KeyError, AttributeError) as error:
            raise InputError(f"{path}: holds no records of measurements ({error}); remove it or name another") from None
        for key in protocol:
            if found.get(key) != protocol[key]:
                raise InputError(
                    f"{path}: was measured with {key} {found.get(key)!r}, not {protocol[key]!r}; "
                    "remove it, or name another folder with --work"
                )
        if complete != content:
            write_bytes_atomically(path, complete.encode())

    def has(self, way: str, image: int) -> bool:
        """Whether an image was measured in a way."""
        return (way, image) in self._values

    def get(self, way: str, image: int) -> dict[str, Any]:
        return self._values[way, image]

    def add(self, way: str, image: int, values: dict[str, Any]) -> None:
        """Remember a measurement, and write it down at once."""
        line = json.dumps({"way": way, "image": image, **values})
        with self._lock:
            self._values[way, image] = values
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def images(self, ways: Iterable[str]) -> set[int]:
        """The images that were measured in all of these ways."""
        found = [{image for way, image in self._values if way == wanted} for wanted in ways]
        return set.intersection(*found) if found else set()


def pack_codes(codes: np.ndarray) -> str:
    """Codes (N,) below 65,536 as text."""
    return base64.b64encode(codes.astype("<u2").tobytes()).decode()


def unpack_codes(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<u2").astype(np.int32)
