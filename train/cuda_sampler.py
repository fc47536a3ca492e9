"""Drawing training samples on a GPU: the autoregressive loop as CUDA graphs, in bfloat16.

Each position launches about sixty tiny kernels, so an eager loop spends its time on launches, which graphs do without
(:mod:`daps_tokenizer.model.stepping`). They read and write one set of buffers and a bfloat16 copy of the weights,
refreshed before every draw.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.sampling import Draw
from daps_tokenizer.model.stepping import SteppedDraw


class GraphedSampler:
    """Samples of q at temperature 1 for batches of one shape."""

    def __init__(self, source: RecognitionModel, x: Tensor, num_samples: int) -> None:
        """Capture the loop for standardised inputs like x (B, *input_shape) and K samples each."""
        self.source = source
        self.model = copy.deepcopy(source).to(torch.bfloat16).requires_grad_(False)
        self.num_rows = x.shape[0] * num_samples
        with torch.no_grad():
            context = self.model.context(x.to(torch.bfloat16))
            uniform = torch.rand(self.num_rows, source.num_tokens, device=x.device)
            self.stepped = SteppedDraw(self.model, Draw.allocate(self.model, context, uniform))
            self.stepped.capture()

    @torch.no_grad()
    def sample(self, x: Tensor, uniform: Tensor) -> Tensor:
        """Codes (B·K, N) for standardised x (B, *input_shape) and uniforms (B·K, N), by the source's weights of now."""
        for own, current in zip(self.model.parameters(), self.source.parameters(), strict=True):
            own.copy_(current)
        self.stepped.set_context(self.model.context(x.to(torch.bfloat16)))
        draw, windows = self.stepped.draw, self.model.windows
        draw.uniform.copy_(windows.split(uniform, x.shape[0]))
        self.stepped.run()
        return windows.join(draw.codes, x.shape[0]).clone()
