"""Work on a GPU as CUDA graphs, which a host launches as one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch


@contextlib.contextmanager
def on_a_side_stream() -> Iterator[None]:
    """Work that is done before it is captured: libraries allocate their workspaces outside of the graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


def capture(work: Callable[[], object], *, pool: Any = None) -> torch.cuda.CUDAGraph:
    """Record ``work``, which is not done yet; what it makes is in the graph's memory after each replay.

    Args:
        work: with fixed shapes, on buffers that stay; it reads nothing on the host.
        pool: memory to share with other graphs that never run at the same time (``torch.cuda.graph_pool_handle``).
    """
    graph = torch.cuda.CUDAGraph()
    # Other threads may allocate meanwhile; only what this one does is captured.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        work()
    return graph
