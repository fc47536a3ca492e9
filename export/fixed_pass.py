"""``encoder_pass.onnx``: all codes anew, given those of the pass before, for TensorRT and CUDA graphs.

What :class:`export.passes.Pass` does inside ``encoder.onnx``, in operators that TensorRT reads and without control
flow, which cannot be captured. Passes are repeated from outside until nothing changes (:mod:`export.passes` says why
that gives the codes of the sequential loop); what is left then is drawn by ``encoder_step.onnx``.
"""

from __future__ import annotations

from typing import Any

import onnx
import torch
from torch import Tensor, nn

from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.sampling import choose_codes
from daps_tokenizer.model.transformer import Attention, Memory
from export.onnx_graphs import (
    EXAMPLE_BATCH,
    TENSORRT_OPSET,
    context_names,
    example_memories,
    example_scores,
    export_graph,
)
from export.steps import attend_plainly


class FixedPass(nn.Module):
    """Every code anew, given all codes of the pass before; hidden states are (rows · n, H), as in ``export.layers``."""

    def __init__(self, recognition: RecognitionModel) -> None:
        super().__init__()
        self.recognition = recognition

    def forward(
        self, uniform: Tensor, temperature: Tensor, context: list[Memory], codes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Choose the codes of all positions.

        Args:
            uniform: (rows, n) float32 in [0, 1).
            temperature: float32 (); 0 is greedy.
            context: what :class:`export.onnx_graphs.Context` made.
            codes: int32 (rows, n); position t is given those before t.

        Returns:
            Codes int32 (rows, n) and log q of each at temperature 1, (rows, n).
        """
        model, length = self.recognition, codes.shape[1]
        # Not padded with a zero: ONNX Runtime pads no integers on a GPU.
        before = torch.cat([codes[:, :1] * 0, codes[:, :-1]], dim=1)
        x = (model.code_embedding(before) + model.positions[:length]).flatten(0, 1)
        places = torch.arange(length)
        unseen = places > places[:, None]
        for block, memory in zip(model.decoder_blocks, context, strict=False):
            own, normed = block.self_attention, block.self_attention_norm(x)
            earlier = Memory(*(_split(own, project(normed), length) for project in (own.key, own.value)))
            x = x + _attend(own, normed, length, earlier, unseen)
            x = x + _attend(block.cross_attention, block.cross_attention_norm(x), length, memory)
            x = x + block.feed_forward(block.feed_forward_norm(x))
        logits = model.head(model.decoder_norm(x))
        if model.code_books is not None:
            logits = logits + torch.cat(context[-1], dim=-1).flatten(0, 1)
        chosen = choose_codes(logits, uniform.flatten(), temperature)
        log_probs = logits.log_softmax(-1).gather(-1, chosen[:, None])
        return chosen.to(torch.int32).unflatten(0, (-1, length)), log_probs.reshape(-1, length)


def _split(attention: Attention, x: Tensor, length: int) -> Tensor:
    """(rows · length, H) -> (rows, heads, length, head_size)."""
    return x.unflatten(0, (-1, length)).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)


def _attend(attention: Attention, x: Tensor, length: int, memory: Memory, unseen: Tensor | None = None) -> Tensor:
    """Attend from x (rows · length, H) to a memory -> the same shape."""
    attended = attend_plainly(_split(attention, attention.query(x), length), memory, unseen)
    return attention.out(attended.transpose(1, 2).flatten(2).flatten(0, 1))


def export_fixed_pass(model: Autoencoder) -> onnx.ModelProto:
    """``uniform``, ``temperature``, ``context_*`` and ``codes`` -> ``new_codes`` and ``log_probs``, of windows."""
    config, recognition = model.config, model.autoregressive
    positions = recognition.input_embedding.num_positions // config.windows_per_item
    memories = example_memories(config, positions) + [Memory(*halves) for halves in example_scores(config)]
    shape = (EXAMPLE_BATCH, config.codes_per_window)
    examples = (torch.zeros(shape), torch.tensor(1.0), memories, torch.zeros(shape, dtype=torch.int32))
    batch = {0: "batch"}
    dynamic: tuple[Any, ...] = (batch, {}, [Memory(batch, batch) for _ in memories], batch)  # type: ignore[arg-type]
    names = ["uniform", "temperature", *context_names(config), "codes"]
    return export_graph(FixedPass(recognition), examples, dynamic, names, ["new_codes", "log_probs"], TENSORRT_OPSET)
