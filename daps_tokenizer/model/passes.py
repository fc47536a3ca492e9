"""The passes of :mod:`daps_tokenizer.model.sampling` as CUDA graphs; rows that have not settled then are drawn in turn.

A second form of ``settle``, as a graph has fixed shapes and cannot ask what has settled: a few passes over all rows,
which cost a GPU hardly more than a step.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.sampling import Draw, choose_codes, draw_pass, most_probable
from daps_tokenizer.model.transformer import Memory

PASSES = 4  # photographs need 2 or 3, daps-cifar10 4.7 on average (docs/notes/speed.md)
_WARM_UPS = 2


class Drawer(Protocol):
    """What draws all positions of a :class:`~daps_tokenizer.model.sampling.Draw` in place."""

    draw: Draw
    temperature: Tensor

    def set_context(self, context: list[Memory]) -> None:
        """Copy a context in place."""

    def run(self) -> None:
        """Draw."""


class PassesDraw:
    """A drawer that tries passes before it leaves rows to another, with which it shares all buffers."""

    def __init__(self, model: RecognitionModel, rest: Drawer, *, passes: int = PASSES) -> None:
        """Prepare to draw, on the buffers of ``rest``."""
        self._num_passes = passes
        self.model, self.draw, self.temperature = model, rest.draw, rest.temperature
        self._rest = rest
        rows = len(rest.draw.codes)
        # A rest that has such a tensor itself leaves settled rows alone, so that the host need not ask for them.
        own = getattr(rest, "unsettled", None)
        self._rest_asks = own is not None
        self.unsettled = rest.draw.codes.new_ones(rows, dtype=torch.int32) if own is None else own
        self._graphs: dict[bool, torch.cuda.CUDAGraph] = {}

    @torch.no_grad()
    def capture(self) -> None:
        """Capture the passes, for greedy codes and for samples, so that :meth:`run` replays them; on a GPU only."""
        for greedy in (True, False):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # libraries allocate their workspaces outside of the graphs
                for _ in range(_WARM_UPS):
                    self._pass(greedy=greedy)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._passes(greedy=greedy)
            self._graphs[greedy] = graph

    @torch.no_grad()
    def run(self, *, greedy: bool = False) -> None:
        """Draw all positions; ``greedy`` must be whether the temperature is 0."""
        if self._graphs:
            self._graphs[greedy].replay()
        else:
            self._passes(greedy=greedy)
        if self._rest_asks or bool(self.unsettled.any()):
            self._rest.run()

    def set_context(self, context: list[Memory]) -> None:
        """Copy another context of equal shape in place."""
        self._rest.set_context(context)

    def _passes(self, *, greedy: bool) -> None:
        self.draw.codes.zero_()  # any guess would do, but codes must not depend on what was drawn before
        for _ in range(self._num_passes):
            self._pass(greedy=greedy)

    def _pass(self, *, greedy: bool) -> None:
        draw, choose = self.draw, most_probable if greedy else choose_codes
        chosen, log_probs = draw_pass(self.model, draw.context, draw.codes, draw.uniform, self.temperature, choose)
        draw.log_probs.copy_(log_probs)
        self.unsettled.copy_((chosen != draw.codes).any(1))
        draw.codes.copy_(chosen)
