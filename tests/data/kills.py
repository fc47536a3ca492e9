"""A code set of three items, written in a process that is killed before one of its calls of the file system."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from daps_tokenizer.data.code_set_files import WHOLE, GrowingCodeSet, Shard, share_record, writing
from daps_tokenizer.data.code_sets import CodeSet, prepare

ROWS = 3
CALLS = {"open", "flush", "fsync", "truncate", "ftruncate", "replace", "link", "unlink", "mkdir", "rmdir", "flock"}


def record(seed: int, shards: int) -> dict[str, Any]:
    about = {"format": 2, "model": "m", "weights_sha256": "", "vocab_size": 256, "items": ROWS, "items_sha256": ""}
    return about | {"shards": shards, "encoding": {}, "seed": seed, "classes": None}


def write(folder: Path, seed: int = 0, shard: Shard = WHOLE, *, replace: bool = False) -> None:
    """A set of three items: row i has the codes and the label i + seed."""
    with writing(folder, shard):
        if shard != WHOLE:
            share_record(folder, shard, record(seed, shard.count))
        found = prepare(folder, shard, record(seed, shard.count), replace=replace)
        if found is not None and found.is_whole:
            return
        items = shard.items(ROWS)
        with GrowingCodeSet(folder, shard, record(seed, shard.count), [3], found, replace=replace) as growing:
            for start in range(growing.done, len(items), 2):
                numbers = np.array(items[start : start + 2]) + seed
                lines = [{"item": str(number)} for number in numbers]
                growing.add(np.repeat(numbers[:, None], 3, axis=1), numbers, lines, [], done=start + len(numbers))
            growing.finish()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith(".lock")}


def is_killed_at(call: int, work: Callable[[], object]) -> bool:
    """Run ``work`` in a process that is killed by SIGKILL before one of its calls; whether it came that far."""
    child = os.fork()
    if child == 0:
        before = [call]

        def count(frame: FrameType, event: str, function: Any) -> None:
            if event == "c_call" and function.__name__ in CALLS:
                before[0] -= 1
                if before[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.setprofile(count)
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def seeds_in(folder: Path) -> set[int]:
    """The seeds that codes, labels and lines of an opened set were made with: one, if they belong to each other."""
    found = CodeSet.open(folder)
    places = np.arange(ROWS)
    names = [int(line["item"]) for line in found.items()]
    assert len(found) == len(names) == ROWS
    seen = [found.values[:].T - places, found.labels[:] - places, np.array(names) - places, [found.record["seed"]]]
    return {int(seed) for values in seen for seed in np.ravel(values)}
