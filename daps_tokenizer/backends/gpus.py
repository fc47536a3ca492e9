"""Is there an NVIDIA GPU? Asked of the driver itself in milliseconds, where importing a runtime takes seconds."""

from __future__ import annotations

import ctypes
import functools
import sys
from dataclasses import dataclass

_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76  # CUdevice_attribute, in the driver's cuda.h
_NAME_BYTES = 256
NO_GPU = "there is no NVIDIA GPU here"


@dataclass(frozen=True)
class Gpu:
    """The first GPU: its name, its compute capability as (9, 0), and the newest CUDA its driver runs, as (13, 0)."""

    name: str
    compute_capability: tuple[int, int]
    cuda: tuple[int, int]

    @property
    def architecture(self) -> str:
        """As compilers write it, ``sm_90``."""
        return "sm_{}{}".format(*self.compute_capability)


@functools.cache
def find_gpu() -> Gpu | None:
    """The first NVIDIA GPU that this process may use, or None where there is no driver or no GPU."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    count, device, version = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    major, minor = ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or count.value == 0:
        return None
    failed = (
        driver.cuDeviceGet(ctypes.byref(device), 0)
        or driver.cuDeviceGetName(name, _NAME_BYTES, device)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), _COMPUTE_CAPABILITY_MAJOR, device)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), _COMPUTE_CAPABILITY_MINOR, device)
        or driver.cuDriverGetVersion(ctypes.byref(version))
    )
    if failed:
        return None
    cuda = (version.value // 1000, version.value % 1000 // 10)
    return Gpu(name.value.decode(errors="replace"), (major.value, minor.value), cuda)
