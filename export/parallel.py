"""``encoder.onnx`` of a recognition model that encodes in one pass: the same inputs and outputs, without a loop."""

from __future__ import annotations

import onnx
import torch
from torch import Tensor, nn

from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.sampling import sample_codes
from export.onnx_graphs import example_inputs, export_graph, input_name


class ParallelEncoderGraph(nn.Module):
    """What ``sample_codes`` does for one sample of each item."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, uniform: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (B, *input_shape), uniform (B, N), temperature () -> codes int32 and their log q, each (B, N)."""
        recognition = self.model.recognition
        context = recognition.context(self.model.standardise(inputs))
        codes, log_probs = sample_codes(recognition, context, uniform, temperature)
        return codes.to(torch.int32), log_probs


def export_parallel_encoder(model: Autoencoder) -> onnx.ModelProto:
    """``images`` or ``features``, ``uniform``, ``temperature`` -> ``codes`` (B, N), ``log_probs`` (B, N).

    A quantiser takes all three as well, so that a backend need not know which it runs; its log q are zeros.
    """
    config = model.config
    inputs = example_inputs(config)
    examples = (inputs, torch.zeros(len(inputs), config.num_tokens), torch.tensor(1.0))
    names = [input_name(config), "uniform", "temperature"]
    return export_graph(
        ParallelEncoderGraph(model), examples, ({0: "batch"}, {0: "batch"}, {}), names, ["codes", "log_probs"]
    )
