"""How backends cut large batches: memory stays bounded, and every core has something to do."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from daps_tokenizer.config import TokenizerConfig

_Result = TypeVar("_Result", bound=tuple[np.ndarray, ...])

# Measured on CPUs: hidden states and logits of up to about this many codes stay in a core's cache.
_CODES_IN_FLIGHT = 1024
_MAX_ENCODE_CHUNK = 32
# With this many codes in one chunk, operators are large enough for threads to share: 0.5 ms each, not 50 µs.
SHARED_CODES = 512
# Elements of the largest array of a parallel pass: 8 MB of float32, beyond which CPUs were measured to get slower for
# lack of cache, and on a GPU 256 MB, which is only a matter of memory. A plugin may be on a GPU without memory of its
# own; WebGPU promises buffers of 128 MB, of which this is half.
_MAX_ELEMENTS = {"cpu": 2**21, "cuda": 2**26, "plugin": 2**24}


def encode_chunk(config: TokenizerConfig) -> int:
    """Items that a CPU encodes fastest together: 32 at N = 8, 16 at N = 64, single items at N = 1024."""
    return max(1, min(_MAX_ENCODE_CHUNK, _CODES_IN_FLIGHT // config.num_tokens))


def parallel_chunk(config: TokenizerConfig, device: str) -> int:
    """Items of one parallel pass (decode, score, likelihood; on a GPU also encode), for arrays of bounded size."""
    logits = config.num_tokens * config.vocab_size
    attention = config.num_tokens * config.codes_per_window * config.recognition.num_heads
    largest = max(logits, attention, math.prod(config.input_shape))
    return max(1, _MAX_ELEMENTS[device] // largest)


def grid_chunk(config: TokenizerConfig, codes: np.ndarray, device: str) -> int:
    """How many grids of codes (B, rows, columns), or items (B, N), are decoded together."""
    return max(1, parallel_chunk(config, device) * config.num_tokens // math.prod(codes.shape[1:]))


def own_grid(config: TokenizerConfig) -> tuple[int, int]:
    """Rows and columns of an item's codes; where a code has no place in an image, all N are one row."""
    return config.token_grid or (1, config.num_tokens)


def as_grid(config: TokenizerConfig, codes: np.ndarray) -> np.ndarray:
    """Codes (B, N) as the graphs take them, (B, rows, columns); what is a grid stays as it is."""
    return codes.reshape(-1, *own_grid(config)) if codes.ndim == 2 else codes


def slices(size: int, chunk: int) -> list[slice]:
    """Cut ``size`` rows into as few nearly equal parts of at most ``chunk`` rows as possible."""
    count = max(1, -(-size // chunk))
    edges = [size * i // count for i in range(count + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def shared_threads(num_threads: int, num_chunks: int) -> int:
    """Threads of a session that runs large chunks side by side, each called from a thread of its own.

    One chunk has all threads. As long as there are two for each chunk, half of all serve every chunk in addition to its
    own, which is no more than ``num_threads`` together, in one session for all such batches. Otherwise each chunk has
    one thread. Not measured on more than two cores.
    """
    if num_chunks == 1:
        return num_threads
    return num_threads // 2 + 1 if 2 * num_chunks <= num_threads else 1


def captured_size(batch: int) -> int:
    """Batches that are recorded as CUDA graphs are filled up to a power of two, so that there are few sizes."""
    return 1 << (batch - 1).bit_length()


def fill(array: np.ndarray, size: int) -> np.ndarray:
    """Repeat the last row until there are ``size``."""
    return array if len(array) == size else np.concatenate([array, np.repeat(array[-1:], size - len(array), axis=0)])


def join(make: Callable[..., _Result], parts: Sequence[Sequence[np.ndarray]]) -> _Result:
    """Put results of consecutive parts of a batch together; ``make`` builds the named tuple from its arrays."""
    return make(*(concatenated(arrays) for arrays in zip(*parts, strict=True)))


def concatenated(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays one after the other; a single one as it is, since copying thousands of images takes milliseconds."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def physical_cores() -> int:
    """Cores this process may run on, hyper-threads not counted where the system tells them apart."""
    if not hasattr(os, "sched_getaffinity"):  # macOS and Windows
        return os.cpu_count() or 1
    return len({_siblings(cpu) for cpu in os.sched_getaffinity(0)})


def _siblings(cpu: int) -> str:
    """The logical CPUs that share a core with this one, as Linux writes them."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
    except OSError:
        return str(cpu)
