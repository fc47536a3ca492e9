"""Initial weights with which an autoregressive recognition model reads the input where a code belongs.

A decoder block sees the input only through cross-attention. With random weights every position reads the mean of all
parts of the input, and the network has to learn where to look before its codes can say anything: on crops of
photographs that takes some thousand steps (docs/notes/methods.md).

Keys and queries both begin as sums that hold the sinusoidal table of positions. Where both projections pick its highest
frequencies, query t and key s fit best at s = t: the first block's attention begins with 0.3 of its mass there and 0.6
within one position, where it is spread over all of them otherwise. What is read is scaled up, or the positions
themselves, which are part of every hidden state, would drown it.
"""

from __future__ import annotations

import torch

from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.recognition import Recognition, RecognitionModel

_PROJECTION_GAIN = 3.0
_READING_GAIN = 4.0


@torch.no_grad()
def align_with_input(recognition: Recognition) -> None:
    """Change initial weights so that code t attends to part t of the input, in all heads of all decoder blocks.

    Raises:
        ConfigError: a model that is not autoregressive, or whose codes and parts of the input differ in number.
    """
    if not isinstance(recognition, RecognitionModel):
        raise ConfigError("aligned is for autoregressive recognition models: others read the input in place")
    windows, parts = recognition.windows, recognition.input_embedding.num_positions
    if windows.num_codes * windows.per_item != parts:
        raise ConfigError(f"aligned needs a part of the input for each code, not {parts} for {recognition.num_tokens}")
    for block in recognition.decoder_blocks:
        attention = block.cross_attention
        size = attention.query.weight.shape[0]
        head_size = size // attention.num_heads
        # Every head picks the first columns of the table, which hold its highest frequencies.
        picked = torch.eye(head_size, size).repeat(attention.num_heads, 1) * _PROJECTION_GAIN
        attention.query.weight.copy_(picked)
        attention.key.weight.copy_(picked)
        attention.out.weight.mul_(_READING_GAIN)
