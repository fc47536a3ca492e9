"""A whole training step as one CUDA graph: loss, gradients, clipping and the update of the weights, in one launch.

A step of counterfactual DAPS is some thousand small kernels, and the host takes longer to launch them than the GPU to
run them. A graph has fixed shapes and the host cannot look into it, so samples are drawn in a fixed number of passes:
rows that have not settled by then (docs/notes/gpu.md says how many that are) are samples of a policy near q.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from daps_tokenizer.config.code_windows import MOST_PASSES
from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.capturing import on_a_side_stream
from train.methods import Batch
from train.methods.daps import DAPS

_EAGER_STEPS = 3  # that come before: libraries allocate their workspaces, and the optimiser its moments

MakeStep = Callable[[Batch, torch.Generator, float], dict[str, Tensor]]


def prepare_to_capture(method: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Let nothing of a step depend on the host: fixed passes, and learning rates on the device.

    Raises:
        ConfigError: a method or a setting whose step cannot be captured.
    """
    if not isinstance(method, DAPS) or method.settings.credit != "counterfactual":
        raise ConfigError("a CUDA graph of the whole step is made of daps with counterfactual credit only")
    settings = method.settings
    if settings.beta_initial != settings.beta_final or settings.search is not None or settings.rewards:
        raise ConfigError("a CUDA graph of the whole step needs beta_final as beta_initial, no search and no rewards")
    method.fixed_passes = MOST_PASSES // 2
    for group in optimiser.param_groups:
        group["capturable"] = True
        group["lr"] = torch.tensor(float(group["lr"]), device=group["params"][0].device)


class CapturedStep:
    """Makes steps on buffers that stay where they are; after three of them a graph is recorded and replayed."""

    def __init__(self, make_step: MakeStep, device: torch.device) -> None:
        """Capture ``make_step`` on a GPU; on the CPU, for tests, it is called on the same buffers."""
        self._make_step, self._device = make_step, device
        self._generator = torch.Generator(device)
        self._batch: Batch | None = None
        self._steps = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._metrics: dict[str, Tensor] = {}

    def __call__(self, batch: Batch, generator: torch.Generator, progress: float) -> dict[str, Tensor]:
        """Make a step, as ``make_step`` would; the next call overwrites the metrics.

        Args:
            batch: of equal shapes at every call.
            generator: its seed is taken.
            progress: has no effect once a graph is there, which :func:`prepare_to_capture` sees to.
        """
        if self._batch is None:
            labels = None if batch.labels is None else batch.labels.clone()
            self._batch = Batch(batch.inputs.clone(), labels)
        self._batch.inputs.copy_(batch.inputs)
        if self._batch.labels is not None and batch.labels is not None:
            self._batch.labels.copy_(batch.labels)
        self._generator.manual_seed(generator.initial_seed())
        self._steps += 1
        if self._device.type != "cuda":
            return self._make_step(self._batch, self._generator, progress)
        if self._steps <= _EAGER_STEPS:
            with on_a_side_stream():
                return self._make_step(self._batch, self._generator, progress)
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            if torch.__version__ < "2.14":  # a TorchVersion; later ones find the generators themselves
                self._graph.register_generator_state(self._generator)
            with torch.cuda.graph(self._graph):  # records and does not run
                self._metrics = self._make_step(self._batch, self._generator, progress)
        self._graph.replay()
        return self._metrics
