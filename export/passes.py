"""Drawing codes at all positions at once, in passes; :mod:`export.encoder` repeats them until nothing changes.

A pass chooses every code anew, given all codes of the pass before. The first code depends on no other, so it is right
after one pass, the second after two, and so on: once a pass leaves the codes as they are, they are those of the
sequential loop, by induction, greedy or sampled, and whatever the first guess was (Jacobi iteration; Song et al.,
"Accelerating Feedforward Computation via Parallel Nonlinear Equation Solving", ICML 2021). Trained tokenizers need
two or three passes, because most codes are clear from the input (docs/notes/speed.md).
"""

from __future__ import annotations

from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.sampling import invert_cdf
from export.layers import FlatMemory, attend_before, attend_context, encode_context
from export.onnx_graphs import (
    EXAMPLE_BATCH,
    context_names,
    example_inputs,
    example_scores,
    export_graph,
    input_name,
)


class ContextForPasses(nn.Module):
    """What is computed once per item: the input -> keys and values for the cross-attention of each decoder block."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> list[FlatMemory]:
        """Inputs (B, *input_shape) -> a memory (rows, positions, H) per decoder block, and the scores of code books."""
        recognition, x = self.model.autoregressive, self.model.standardise(inputs)
        scores = [] if recognition.code_books is None else [FlatMemory(*recognition.code_books.halves(x))]
        return encode_context(recognition, x) + scores


class Pass(nn.Module):
    """Every code anew, given all codes of the pass before."""

    def __init__(self, recognition: RecognitionModel) -> None:
        super().__init__()
        self.recognition = recognition

    def forward(
        self, uniform: Tensor, temperature: Tensor, context: list[FlatMemory], codes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Choose the codes of all positions.

        Args:
            uniform: (rows, n) float32 in [0, 1).
            temperature: float32 (); 0 is greedy.
            context: what :class:`ContextForPasses` made.
            codes: int32 (rows, n); position t is given those before t.

        Returns:
            Codes int32 (rows, n) and log q of each at temperature 1, (rows, n).
        """
        return self._choose(self._start(codes), uniform, temperature, context)

    def _start(self, codes: Tensor) -> Tensor:
        """What comes before the first look at the context: codes (rows, n) -> (rows · n, H)."""
        model, length = self.recognition, codes.shape[1]
        embedded = model.code_embedding(F.pad(codes[:, :-1], (1, 0)))
        x = (embedded + model.positions[:length]).flatten(0, 1)
        return attend_before(model.decoder_blocks[0], x, length)

    def _choose(
        self, x: Tensor, uniform: Tensor, temperature: Tensor, context: list[FlatMemory]
    ) -> tuple[Tensor, Tensor]:
        model, length = self.recognition, uniform.shape[1]
        for number, (block, memory) in enumerate(zip(model.decoder_blocks, context, strict=False)):
            x = attend_context(block, attend_before(block, x, length) if number else x, length, memory)
        logits = model.head(model.decoder_norm(x))
        if model.code_books is not None:
            logits = logits + torch.cat(context[-1], dim=-1).flatten(0, 1)
        # Torch's cond is exported as ONNX's If: greedy encoding does not pay for probabilities.
        codes = torch.cond(temperature > 0, invert_cdf, _most_probable, (logits, uniform.flatten(), temperature))
        log_probs = logits.log_softmax(-1).gather(-1, codes[:, None])
        return codes.to(torch.int32).unflatten(0, (-1, length)), log_probs.reshape(-1, length)


class FirstPass(Pass):
    """The pass before which no codes are known: all are taken to be 0.

    What comes before the first look at the context is then the same for all rows, and constant: ONNX Runtime computes
    it when it loads the graph.
    """

    def forward(self, uniform: Tensor, temperature: Tensor, context: list[FlatMemory]) -> Tensor:  # type: ignore[override]
        """A first guess of all codes, int32 (rows, n)."""
        rows, length = uniform.shape
        start = self._start(torch.zeros(1, length, dtype=torch.int32))
        return self._choose(start.expand(rows, -1, -1).flatten(0, 1), uniform, temperature, context)[0]


def _most_probable(logits: Tensor, uniform: Tensor, temperature: Tensor) -> Tensor:
    return logits.argmax(-1)


def export_context_for_passes(model: Autoencoder) -> onnx.ModelProto:
    """``images`` or ``features`` -> ``flat_keys_0``, ``flat_values_0``, ..."""
    config = model.config
    outputs = context_names(config, "flat")
    examples = (example_inputs(config),)
    return export_graph(ContextForPasses(model), examples, ({0: "batch"},), [input_name(config)], outputs)


def export_passes(model: Autoencoder) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The first pass, ``uniform``, ``temperature`` and the context -> ``codes``, and any later one.

    The later one has ``codes`` as its last input, and outputs ``new_codes`` and ``log_probs``.
    """
    config = model.config
    shape = (EXAMPLE_BATCH, config.codes_per_window)
    memory = (
        EXAMPLE_BATCH,
        model.autoregressive.input_embedding.num_positions // config.windows_per_item,
        config.recognition.hidden_size,
    )
    # Each a tensor of its own: of one tensor that is passed as two inputs the exporter would wire only one.
    memories = [FlatMemory(torch.zeros(memory), torch.zeros(memory)) for _ in model.autoregressive.decoder_blocks]
    memories += [FlatMemory(*halves) for halves in example_scores(config)]
    examples = (torch.zeros(shape), torch.tensor(1.0), memories)
    batch = {0: "batch"}
    dynamic: tuple[Any, ...] = (batch, {}, [FlatMemory(batch, batch) for _ in memories])  # type: ignore[arg-type]
    names = ["uniform", "temperature", *context_names(config, "flat")]
    first = export_graph(FirstPass(model.autoregressive), examples, dynamic, names, ["codes"])
    later = export_graph(
        Pass(model.autoregressive),
        (*examples, torch.zeros(shape, dtype=torch.int32)),
        (*dynamic, batch),
        [*names, "codes"],
        ["new_codes", "log_probs"],
    )
    return first, later
