"""The recognition model q(z|x) = Π q(z_t | z_<t, x): an encoder-decoder transformer (paper, section 3 and Appendix F).

Two ways through the same weights: :meth:`RecognitionModel.logits` for codes that are known (training, scoring: one
parallel pass) and :meth:`RecognitionModel.step` for codes that are being drawn (encoding: one position a call, with the
keys and values of earlier positions kept).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.config.code_windows import Windows
from daps_tokenizer.model.transform import CodeBooks
from daps_tokenizer.model.transformer import DecoderBlock, EncoderBlock, Memory, layer_norm, sinusoidal_positions


class PatchEmbedding(nn.Module):
    """Images to one vector per patch: cut into patches row by row, then one dense layer.

    An image whose sides are not multiples of the patch is padded with zeros at the right and at the bottom.
    """

    def __init__(self, input_shape: tuple[int, ...], patch_size: tuple[int, ...], hidden_size: int) -> None:
        super().__init__()
        height, width, channels = input_shape
        self.patch_height, self.patch_width = patch_size
        self.rows, self.columns = math.ceil(height / self.patch_height), math.ceil(width / self.patch_width)
        self.padding = (0, 0, 0, self.columns * self.patch_width - width, 0, self.rows * self.patch_height - height)
        self.dense = nn.Linear(self.patch_height * self.patch_width * channels, hidden_size)

    @property
    def num_positions(self) -> int:
        """Patches per image."""
        return self.rows * self.columns

    def forward(self, x: Tensor) -> Tensor:
        """(B, height, width, channels) -> (B, patches, H)."""
        x = F.pad(x, self.padding) if any(self.padding) else x
        x = x.unflatten(2, (self.columns, self.patch_width)).unflatten(1, (self.rows, self.patch_height))
        return self.dense(x.transpose(2, 3).flatten(1, 2).flatten(2))


class FrameUpsampling(nn.Module):
    """Motion features to two vectors per frame: a transposed convolution in time, kernel 4, stride 2."""

    def __init__(self, input_shape: tuple[int, ...], hidden_size: int) -> None:
        super().__init__()
        self.num_frames, num_features = input_shape
        self.convolution = nn.ConvTranspose1d(num_features, hidden_size, kernel_size=4, stride=2, padding=1)

    @property
    def num_positions(self) -> int:
        """Vectors per clip."""
        return 2 * self.num_frames

    def forward(self, x: Tensor) -> Tensor:
        """(B, frames, features) -> (B, 2 · frames, H)."""
        return self.convolution(x.transpose(1, 2)).transpose(1, 2)


def build_input_embedding(config: TokenizerConfig) -> PatchEmbedding | FrameUpsampling:
    """What turns an input of the config's modality into vectors for a transformer."""
    sizes = config.recognition
    if config.modality == "image":
        return PatchEmbedding(config.input_shape, sizes.patch_size, sizes.hidden_size)
    return FrameUpsampling(config.input_shape, sizes.hidden_size)


class Recognition(nn.Module, ABC):
    """What every kind of recognition model has: a context made once per item, and probabilities of codes given it."""

    positions: Tensor
    head: nn.Linear

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.num_tokens, self.vocab_size = config.num_tokens, config.vocab_size
        self.windows = Windows.of(config)
        self.input_embedding = build_input_embedding(config)

    @abstractmethod
    def context(self, x: Tensor) -> Any:
        """What codes are drawn from or scored with, of standardised inputs (B, *input_shape)."""

    @abstractmethod
    def logits(self, context: Any, codes: Tensor) -> Tensor:
        """Logits of each position, given the codes before it where they matter: codes (B·K, N) -> (B·K, N, V)."""

    def log_prob(self, context: Any, codes: Tensor) -> Tensor:
        """log q(z_t | z_<t, x) in nats, (B·K, N), of codes (B·K, N), the K rows of an item next to each other."""
        logits = self.logits(context, codes).float()
        return torch.gather(logits.log_softmax(-1), -1, codes.long()[..., None])[..., 0]


class RecognitionModel(Recognition):
    """q(z|x) over N codes out of V, each drawn given those before it."""

    decoder_blocks: Sequence[DecoderBlock]

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config)
        sizes = config.recognition
        block = (sizes.hidden_size, sizes.num_heads, sizes.mlp_ratio)
        self.encoder_blocks = nn.ModuleList(EncoderBlock(*block) for _ in range(sizes.num_layers))
        self.encoder_norm = layer_norm(sizes.hidden_size)
        self.code_embedding = nn.Embedding(config.vocab_size, sizes.hidden_size)
        # The declared type says what a ModuleList cannot: what its modules are.
        self.decoder_blocks = nn.ModuleList(  # type: ignore[assignment]
            DecoderBlock(*block) for _ in range(sizes.num_layers)
        )
        self.decoder_norm = layer_norm(sizes.hidden_size)
        self.head = nn.Linear(sizes.hidden_size, config.vocab_size)
        self.code_books = CodeBooks(config) if config.transform is not None else None
        num_positions = self.input_embedding.num_positions // self.windows.per_item
        table_length = max(num_positions, self.windows.num_codes)
        self.register_buffer("positions", sinusoidal_positions(table_length, sizes.hidden_size), persistent=False)

    def context(self, x: Tensor) -> list[Memory]:
        """What every step attends to, computed once per item.

        Args:
            x: standardised inputs (B, *input_shape).

        Returns:
            For each decoder block the cross-attention keys and values, (B, heads, positions, head_size); of each
            window by itself, (B·W, heads, positions, head_size), where items are cut into W windows. Where there are
            code books, one memory more: the scores of all codes (B, N, V), cut into two halves of the codes.
        """
        scores = [] if self.code_books is None else [self.code_books.halves(x)]
        x = self.windows.split(self.input_embedding(x), x.shape[0])
        x = x + self.positions[: x.shape[1]]
        for block in self.encoder_blocks:
            x = block(x)
        x = self.encoder_norm(x)
        return [block.cross_attention.memory(x) for block in self.decoder_blocks] + scores

    def hidden(self, context: list[Memory], codes: Tensor) -> Tensor:
        """The last hidden state at each position given all earlier codes: (B·K, N) -> (B·K, N, H)."""
        num_items = self._num_items(context)
        return self.windows.join(self.hidden_of_rows(context, self.windows.split(codes, num_items)), num_items)

    def hidden_of_rows(self, context: list[Memory], codes: Tensor) -> Tensor:
        """Like :meth:`hidden`, of windows side by side: (B·W·K, n) -> (B·W·K, n, H)."""
        return self._decode(context, self.code_embedding(F.pad(codes[:, :-1], (1, 0))))

    def hidden_without_codes(self, context: list[Memory]) -> Tensor:
        """The last hidden state of a decoder that sees positions only, (B, N, H).

        This is the parallel encoder of a VQ-VAE that is trained through this network; with a code embedding of zero
        the autoregressive model computes just the same.
        """
        batch, size = context[0].keys.shape[0], self.positions.shape[1]
        hidden = self._decode(context, self.positions.new_zeros(batch, self.windows.num_codes, size))
        return self.windows.join(hidden, self._num_items(context))

    def _num_items(self, context: list[Memory]) -> int:
        return context[0].keys.shape[0] // self.windows.per_item

    def _decode(self, context: list[Memory], embedded: Tensor) -> Tensor:
        h = embedded + self.positions[: self.windows.num_codes]
        for block, memory in zip(self.decoder_blocks, context[: len(self.decoder_blocks)], strict=True):
            h = block(h, memory)
        return self.decoder_norm(h)

    def logits(self, context: list[Memory], codes: Tensor) -> Tensor:
        """Teacher-forced logits: row t is given codes before t.

        Args:
            context: from :meth:`context`, batch B.
            codes: (B·K, N) integers, the K rows of one item next to each other.

        Returns:
            (B·K, N, V).
        """
        return self._with_scores(self.head(self.hidden(context, codes)), context)

    def logits_of_rows(self, context: list[Memory], codes: Tensor) -> Tensor:
        """Like :meth:`logits`, of windows side by side: (B·W·K, n) -> (B·W·K, n, V)."""
        return self._with_scores(self.head(self.hidden_of_rows(context, codes)), context)

    def _with_scores(self, logits: Tensor, context: list[Memory]) -> Tensor:
        """Logits (rows, n, V) with what code books add, which are for items that are not cut into windows."""
        if self.code_books is None:
            return logits
        scores = torch.cat(context[-1], dim=-1)[:, None]  # (B, 1, N, V): the K rows of an item share it
        return (logits.reshape(scores.shape[0], -1, *logits.shape[1:]) + scores).flatten(0, 1)

    def scores_at(self, context: list[Memory], position: Tensor) -> Tensor:
        """What code books say of the codes at one position, (B, V); ``position`` is an integer tensor ()."""
        return torch.cat([part.index_select(1, position[None])[:, 0] for part in context[-1]], dim=-1)

    def step(self, context: list[Memory], previous: Tensor, position: int, cache: list[Memory]) -> Tensor:
        """Logits of one position of every window, (B·W·K, V); W is 1 where items are not cut.

        Args:
            context: from :meth:`context`, batch B·W.
            previous: the codes just drawn (B·W·K,); zeros at the first position.
            position: the position's index in its window.
            cache: for each decoder block the keys and values of earlier positions, with room for all n of a window,
                (B·W·K, heads, n, head_size); this position's are added.
        """
        h = (self.code_embedding(previous) + self.positions[position])[:, None]
        for block, memory, earlier in zip(self.decoder_blocks, context, cache, strict=False):
            h = block.step(h, earlier, position, memory)
        return self._read_out(h, context, torch.tensor(position, device=h.device))

    def grow(
        self, context: list[Memory], previous: Tensor, position: int, earlier: list[Memory | None]
    ) -> tuple[Tensor, list[Memory | None]]:
        """Like :meth:`step`, for gradients: of embedded codes, and with memories that are made anew, not written to.

        Args:
            context: from :meth:`context`, batch B·W.
            previous: the embedding of the codes just drawn (B·W·K, H).
            position: the position's index in its window.
            earlier: for each decoder block the keys and values of earlier positions; None at the first.

        Returns:
            Logits of the position (B·W·K, V), and ``earlier`` with this position's keys and values.
        """
        h = (previous + self.positions[position])[:, None]
        grown: list[Memory | None] = []
        for block, memory, past in zip(self.decoder_blocks, context, earlier, strict=False):
            h, present = block.grow(h, past, memory)
            grown.append(present)
        return self._read_out(h, context, torch.tensor(position, device=h.device)), grown

    def step_in_place(
        self, context: list[Memory], previous: Tensor, position: Tensor, bias: Tensor, cache: list[Memory]
    ) -> Tensor:
        """Like :meth:`step`, with a position (1,) on the device, and reading only as much of the cache as ``bias`` has.

        Args:
            bias: 0 for the places in the cache up to ``position``, -inf for those after it.
        """
        h = (self.code_embedding(previous) + self.positions.index_select(0, position))[:, None]
        for block, memory, earlier in zip(self.decoder_blocks, context, cache, strict=False):
            h = block.step_in_place(h, earlier, position, bias, memory)
        return self._read_out(h, context, position[0])

    def _read_out(self, h: Tensor, context: list[Memory], position: Tensor) -> Tensor:
        """Logits (rows, V) of one position's hidden state (rows, 1, H); ``position`` is an integer tensor ()."""
        logits = self.head(self.decoder_norm(h))[:, 0]
        if self.code_books is None:
            return logits
        scores = self.scores_at(context, position)
        return logits + scores.repeat_interleave(logits.shape[0] // scores.shape[0], dim=0)
