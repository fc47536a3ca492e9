"""Try attacks in a process of their own, so that one that hangs or crashes is seen and does not stop the others."""

from __future__ import annotations

import os
import queue
import resource
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from daps_tokenizer.errors import DapsError
from daps_tokenizer.evaluation.timing import peak_memory_mb
from tests.paths import ROOT

HANGS_AFTER_SECONDS = 120
_MEMORY_LIMIT = 6 * 2**30  # of addresses: what asks for more gets a MemoryError, and the machine is spared


@dataclass
class Result:
    """What became of the cases of one kind: the number of each outcome, the bad ones in words, and the memory."""

    cases: int = 0
    refused: int = 0
    loaded: int = 0
    untyped: int = 0
    wrong: int = 0
    hung: int = 0
    crashed: int = 0
    peak_megabytes: int = 0
    bad: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether every case was refused by one of our errors, or loaded as what it is."""
        return not (self.untyped or self.wrong or self.hung or self.crashed)


def attack(kind: str, cases: int, seed: int) -> Result:
    """Try a number of cases of a kind; case i is a function of the kind, the seed and i."""
    result, first = Result(), 0
    while first < cases:
        command = [sys.executable, "-m", "tests.attacks.run", kind, str(first), str(cases), str(seed)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]]), "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as child:
            assert child.stdout is not None
            lines = queue.SimpleQueue[str]()
            threading.Thread(target=_forward, args=(child.stdout, lines), daemon=True).start()
            while True:
                try:
                    line = lines.get(timeout=HANGS_AFTER_SECONDS)
                except queue.Empty:
                    line = "hung"
                outcome, _, text = line.strip().partition(" ")
                if outcome == "memory":
                    result.peak_megabytes = max(result.peak_megabytes, int(text))
                    continue
                if not outcome and first >= cases:
                    break
                outcome = outcome or "crashed"
                setattr(result, outcome, getattr(result, outcome) + 1)
                if outcome not in ("refused", "loaded"):
                    result.bad.append(f"{kind} {first} of seed {seed}: {outcome} {text}")
                first += 1
                if outcome in ("hung", "crashed"):
                    child.kill()
                    break
    result.cases = cases
    return result


def _forward(stream: IO[str], lines: queue.SimpleQueue[str]) -> None:
    with suppress(ValueError):  # closed, since the process was given up
        for line in stream:
            lines.put(line)
    lines.put("")  # the process has ended


def _try(kind: str, case: int, seed: int) -> str:
    from tests.attacks.kinds import KINDS, Wrong

    random = np.random.default_rng([seed, sorted(KINDS).index(kind), case])
    memory = Path("/dev/shm")  # where there is one, since much of this waits for the disk
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        try:
            KINDS[kind](random, Path(folder))
        except DapsError as error:
            text = str(error)
            return "refused" if text.isprintable() and 0 < len(text) <= 500 else f"wrong message {text!r}"
        except Wrong as error:
            return f"wrong {error}"
        except BaseException as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            return " ".join(f"untyped {error!r:.200} at {Path(frame.filename).name}:{frame.lineno}".split())
    return "loaded"


def _main(kind: str, first: int, last: int, seed: int) -> None:
    warnings.simplefilter("ignore")  # of Pillow and NumPy, about damaged files
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT, _MEMORY_LIMIT))
    outcomes = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries print to it
    for case in range(first, last):
        print(_try(kind, case, seed), file=outcomes, flush=True)
        print("memory", int(peak_memory_mb()), file=outcomes, flush=True)


if __name__ == "__main__":
    _main(sys.argv[1], *map(int, sys.argv[2:]))
