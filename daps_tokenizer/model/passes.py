"""The passes of :mod:`daps_tokenizer.model.sampling` as CUDA graphs; rows that have not settled then are drawn in turn.

A graph has fixed shapes and cannot ask what has settled, so it is a few passes over all rows, which cost a GPU hardly
more than a step. The host asks after each graph.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from daps_tokenizer.config.code_windows import FIRST_PASSES, MORE_PASSES, MOST_PASSES, most_passes
from daps_tokenizer.model.capturing import capture, on_a_side_stream
from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.sampling import Draw, SampledCodes, choose_codes, draw_pass, most_probable, repeat_passes
from daps_tokenizer.model.transformer import Memory

_WARM_UPS = 2
# Where more than so many of at least so many rows have not settled in the first passes, further ones settle few soon.
_UNSETTLED, _ROWS = 0.9, 16

# The last hidden states (rows, n, H), uniforms (rows, n), the temperature, and whether it is 0 -> codes.
ChooseFromHidden = Callable[[Tensor, Tensor, Tensor, bool], SampledCodes]


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

    def __init__(
        self,
        model: RecognitionModel,
        rest: Drawer,
        *,
        passes: tuple[int, int, int] | None = None,
        choose: ChooseFromHidden | None = None,
    ) -> None:
        """Prepare to draw, on the buffers of ``rest``.

        Args:
            model: the recognition model.
            rest: draws rows that have not settled. The fused kernel, which has a tensor ``unsettled``, leaves all
                others alone and is quick.
            passes: in the first graph, in each one after it, and in all; by default as many as suit the rest.
            choose: chooses codes by hidden states, of models without code books; None makes logits first.
        """
        self._choose = choose
        self.model, self.draw, self.temperature = model, rest.draw, rest.temperature
        self._rest = rest
        rows, num_codes = rest.draw.codes.shape
        own = getattr(rest, "unsettled", None)
        self.unsettled = rest.draw.codes.new_ones(rows, dtype=torch.int32) if own is None else own
        most = MOST_PASSES if own is not None else most_passes(rows, num_codes)
        self._first, self._more, self._most = passes or (FIRST_PASSES, MORE_PASSES, most)
        # One pass more than there are positions settles every row, and a few rows are too few to judge by.
        self._rest_may_be_quicker = rows >= _ROWS and most <= num_codes
        self._without_passes = {True: False, False: False}  # by greedy
        self._graphs: dict[tuple[bool, bool], torch.cuda.CUDAGraph] = {}  # by greedy, and whether codes start anew

    @torch.no_grad()
    def capture(self) -> None:
        """Capture the passes, for greedy codes and for samples, so that :meth:`run` replays them; on a GPU only."""
        for greedy in (True, False):
            with on_a_side_stream():
                for _ in range(_WARM_UPS):
                    self._passes(greedy=greedy, anew=False)
            for anew in (True, False):
                self._graphs[greedy, anew] = capture(partial(self._passes, greedy=greedy, anew=anew))

    @torch.no_grad()
    def find_what_is_quicker(self) -> None:
        """Leave all rows to the rest from now on where the first passes settle hardly any of them.

        Judged by the context and the uniform numbers that are there. It is done once, so that codes do not depend on
        what was drawn before: in half precision, passes and the rest differ in some.
        """
        for greedy in self._without_passes if self._rest_may_be_quicker else ():
            self.temperature.fill_(0.0 if greedy else 1.0)
            self._replay(greedy=greedy, anew=True)
            self._without_passes[greedy] = int(self.unsettled.sum()) > _UNSETTLED * len(self.unsettled)

    @torch.no_grad()
    def run(self, *, greedy: bool = False) -> None:
        """Draw all positions; ``greedy`` must be whether the temperature is 0."""
        if self._without_passes[greedy]:
            self.unsettled.fill_(1)
            self._rest.run()
            return
        self._replay(greedy=greedy, anew=True)
        made = self._first
        while made < self._most and bool(self.unsettled.any()):
            self._replay(greedy=greedy, anew=False)
            made += self._more
        if bool(self.unsettled.any()):
            self._rest.run()

    def set_context(self, context: list[Memory]) -> None:
        """Copy another context of equal shape in place."""
        self._rest.set_context(context)

    def _replay(self, *, greedy: bool, anew: bool) -> None:
        if self._graphs:
            self._graphs[greedy, anew].replay()
        else:
            self._passes(greedy=greedy, anew=anew)

    def _passes(self, *, greedy: bool, anew: bool) -> None:
        draw = self.draw
        # Any guess would do to begin with, but codes must not depend on what was drawn before.
        codes, passes = (torch.zeros_like(draw.codes), self._first) if anew else (draw.codes, self._more)
        settled = repeat_passes(partial(self._pass, greedy=greedy), codes, passes)
        draw.codes.copy_(settled.codes)
        draw.log_probs.copy_(settled.log_probs)
        self.unsettled.copy_(settled.passes > passes)

    def _pass(self, codes: Tensor, *, greedy: bool) -> SampledCodes:
        draw = self.draw
        if self._choose is not None:
            hidden = self.model.hidden_of_rows(draw.context, codes)
            return self._choose(hidden, draw.uniform, self.temperature, greedy)
        choose = most_probable if greedy else choose_codes
        return draw_pass(self.model, draw.context, codes, draw.uniform, self.temperature, choose)
