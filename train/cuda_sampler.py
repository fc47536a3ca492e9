"""Drawing training samples on a GPU: the autoregressive loop as CUDA graphs, in bfloat16.

Each position launches about sixty tiny kernels, so an eager loop spends its time on launches. Graphs of 64 positions
each replay them without. They read and write one set of buffers and a bfloat16 copy of the weights, refreshed before
every draw.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.sampling import Draw, draw_positions
from daps_tokenizer.model.transformer import Memory

POSITIONS_PER_GRAPH = 64
WARM_UP_DRAWS = 2


class GraphedSampler:
    """Samples of q at temperature 1 for batches of one shape."""

    def __init__(self, source: RecognitionModel, x: Tensor, num_samples: int) -> None:
        """Capture the loop for standardised inputs like x (B, *input_shape) and K samples each."""
        self.source = source
        self.model = copy.deepcopy(source).to(torch.bfloat16).requires_grad_(False)
        # A tensor that is there already: a graph cannot bring numbers over from the host.
        self.temperature = torch.ones((), device=x.device)
        rows = x.shape[0] * num_samples
        with torch.no_grad():
            context = self.model.context(x.to(torch.bfloat16))
            self.draw = Draw.allocate(self.model, context, torch.rand(rows, source.num_tokens, device=x.device))
            self.graphs = self._capture()

    def _capture(self) -> list[torch.cuda.CUDAGraph]:
        count = self.model.windows.num_codes
        segments = [range(t, min(t + POSITIONS_PER_GRAPH, count)) for t in range(0, count, POSITIONS_PER_GRAPH)]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries allocate their workspaces outside of the graphs
            for _ in range(WARM_UP_DRAWS):
                draw_positions(self.model, self.draw, segments[0], self.temperature)
        torch.cuda.current_stream().wait_stream(stream)
        graphs = []
        for segment in segments:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                draw_positions(self.model, self.draw, segment, self.temperature)
            graphs.append(graph)
        return graphs

    @torch.no_grad()
    def sample(self, x: Tensor, uniform: Tensor) -> Tensor:
        """Codes (B·K, N) for standardised x (B, *input_shape) and uniforms (B·K, N), by the source's weights of now."""
        for own, current in zip(self.model.parameters(), self.source.parameters(), strict=True):
            own.copy_(current)
        for static, fresh in zip(self.draw.context, self.model.context(x.to(torch.bfloat16)), strict=True):
            _copy_memory(static, fresh)
        windows = self.model.windows
        self.draw.uniform.copy_(windows.split(uniform, x.shape[0]))
        for graph in self.graphs:
            graph.replay()
        return windows.join(self.draw.codes, x.shape[0]).clone()


def _copy_memory(target: Memory, source: Memory) -> None:
    target.keys.copy_(source.keys)
    target.values.copy_(source.values)
