"""Threads that belong to a backend, in which floats too small to be normal are zero.

A sharp q(z|x) is full of such floats: probabilities of 1e-40 of codes that will never be drawn, attention weights of
1e-45 of positions that are masked. Each costs an x86 processor a hundred cycles or more, in all a fifth to a third of
encoding a photograph (docs/notes/speed.md), and none of them can move a sum. A processor can be told to take them for
zero, thread by thread; as this changes all arithmetic of a thread, it is not for the threads of whoever calls.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import platform
import struct
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# fenv_t of glibc on x86-64: 28 bytes of the x87 unit, then the control register of the vector units.
_ENVIRONMENT_BYTES, _CONTROL_OFFSET = 32, 28
_FLUSH_RESULTS, _READ_AS_ZERO = 1 << 15, 1 << 6


def flush_denormals() -> bool:
    """Let the calling thread take denormal floats for zero; False where this is not known how to do.

    Known for Linux with glibc on x86-64. Elsewhere nothing changes, and encoding is only slower.
    """
    if platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc":
        return False
    libm = ctypes.CDLL(ctypes.util.find_library("m") or "libm.so.6")
    environment = ctypes.create_string_buffer(_ENVIRONMENT_BYTES)
    if libm.fegetenv(environment) != 0:
        return False
    (control,) = struct.unpack_from("<I", environment, _CONTROL_OFFSET)
    struct.pack_into("<I", environment, _CONTROL_OFFSET, control | _FLUSH_RESULTS | _READ_AS_ZERO)
    return bool(libm.fesetenv(environment) == 0)


class Workers:
    """Up to ``num_threads`` threads, started when they are first needed and ended with this object."""

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._process = -1

    def run(self, function: Callable[[], Result]) -> Result:
        """What a function returns or raises, in one of these threads."""
        return self._threads().submit(function).result()

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """What a function makes of each item, in their order; the first error ends it."""
        return list(self._threads().map(function, items))

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None or self._process != os.getpid():  # threads do not survive a fork
                self._pool = ThreadPoolExecutor(self._num_threads, "daps-encode", initializer=flush_denormals)
                self._process = os.getpid()
            return self._pool
