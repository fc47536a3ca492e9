"""Drawing codes as CUDA graphs: every step does the same on the same buffers, whatever its position.

:func:`~daps_tokenizer.model.sampling.settle` slices its cache by a position that Python knows, which is best on a CPU.
A GPU would spend its time on launches, so here the position is a number on the device and a step can be captured once
and replayed. The price is that it reads more of the cache than it needs; so positions are drawn in stretches, and the
steps of a stretch read the cache up to its end only. Without a GPU the same steps run eagerly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch

from daps_tokenizer.model.capturing import capture, on_a_side_stream
from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.sampling import Draw, draw_position
from daps_tokenizer.model.transformer import Memory

_MAX_STRETCHES = 16
_SHORTEST_STRETCH = 16
_STEPS_PER_GRAPH = 8
_WARM_UPS = 2


@dataclass(frozen=True)
class Stretch:
    """Positions that read the first ``length`` entries of the cache: ``repeats`` times a graph of ``steps`` steps."""

    length: int
    steps: int
    repeats: int


def plan_stretches(num_codes: int) -> list[Stretch]:
    """Cut n positions into at most 16 stretches of equal length, of 16 or more; the last may be shorter.

    1,024 positions are 16 graphs of 8 steps, each replayed 8 times, and read 53 % of the cache on average.
    """
    longest = max(_SHORTEST_STRETCH, -(-num_codes // _MAX_STRETCHES))
    stretches = []
    for start in range(0, num_codes, longest):
        stop = min(start + longest, num_codes)
        steps = math.gcd(stop - start, _STEPS_PER_GRAPH)
        stretches.append(Stretch(stop, steps, (stop - start) // steps))
    return stretches


class SteppedDraw:
    """A :class:`~daps_tokenizer.model.sampling.Draw` whose positions can be drawn again and again, in place."""

    def __init__(self, model: RecognitionModel, draw: Draw) -> None:
        """Prepare to draw with what is in ``draw`` then: its context and uniforms may be changed in place."""
        device = draw.uniform.device
        self.model, self.draw = model, draw
        # Tensors that are there already: a graph cannot bring numbers over from the host.
        self.temperature = torch.ones((), device=device)
        self._position = torch.zeros(1, dtype=torch.long, device=device)
        self._previous = torch.zeros_like(draw.codes[:, 0])
        self._places = torch.arange(model.windows.num_codes, device=device)
        self._minus_infinity = torch.full((), -torch.inf, dtype=draw.cache[0].keys.dtype, device=device)
        self._stretches = plan_stretches(model.windows.num_codes)
        self._graphs: list[torch.cuda.CUDAGraph] = []
        for memory in draw.cache:  # what is masked is multiplied by zero, which does not remove a NaN
            memory.keys.zero_()
            memory.values.zero_()

    @torch.no_grad()
    def capture(self) -> None:
        """Capture the steps, so that :meth:`run` replays them; on a GPU only."""
        with on_a_side_stream():
            for _ in range(_WARM_UPS):
                self._restart()
                self._draw_once(self._stretches[0])
        pool = torch.cuda.graph_pool_handle()  # graphs run one after the other and can share their scratch memory
        self._graphs = [capture(partial(self._draw_once, stretch), pool=pool) for stretch in self._stretches]

    @torch.no_grad()
    def run(self) -> None:
        """Draw all positions: ``draw.codes`` and ``draw.log_probs`` are new afterwards."""
        self._restart()
        for index, stretch in enumerate(self._stretches):
            for _ in range(stretch.repeats):
                if self._graphs:
                    self._graphs[index].replay()
                else:
                    self._draw_once(stretch)

    def set_context(self, context: list[Memory]) -> None:
        """Copy another context of equal shape in place."""
        for static, fresh in zip(self.draw.context, context, strict=True):
            static.keys.copy_(fresh.keys)
            static.values.copy_(fresh.values)

    def _restart(self) -> None:
        self._position.zero_()
        self._previous.zero_()

    def _draw_once(self, stretch: Stretch) -> None:
        for _ in range(stretch.steps):
            self._step(stretch.length)

    def _step(self, length: int) -> None:
        draw, position = self.draw, self._position
        unseen = self._places[:length] > position
        bias = torch.where(unseen, self._minus_infinity, torch.zeros_like(self._minus_infinity))[None]
        uniform = draw.uniform.index_select(1, position)[:, 0]

        def keep(cache: Memory, own: Memory) -> Memory:
            cache.keys.index_copy_(2, position, own.keys)
            cache.values.index_copy_(2, position, own.values)
            return Memory(cache.keys[:, :, :length], cache.values[:, :, :length])

        chosen, log_q = draw_position(
            self.model,
            draw.context,
            self._previous,
            position,
            uniform,
            self.temperature,
            [partial(keep, cache) for cache in draw.cache],
            bias,
        )
        draw.codes.index_copy_(1, position, chosen[:, None])
        draw.log_probs.index_copy_(1, position, log_q[:, None])
        self._previous.copy_(chosen)
        position.add_(1)
