"""The recognition model q(z|x) = Π q(z_t | z_<t, x): an encoder-decoder transformer (paper, section 3 and Appendix F).

Two ways through the same weights: :meth:`RecognitionModel.logits` for codes that are known or guessed (one parallel
pass) and :meth:`RecognitionModel.logits_of_span` for codes that are drawn, some positions a call, with the keys and
values of earlier positions kept. :mod:`daps_tokenizer.model.sampling` draws codes by both.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.config.code_windows import Windows
from daps_tokenizer.model.transform import CodeBooks
from daps_tokenizer.model.transformer import (
    DecoderBlock,
    EncoderBlock,
    Head,
    Join,
    Memory,
    layer_norm,
    sinusoidal_positions,
)


class PatchEmbedding(nn.Module):
    """Images to one vector per patch: cut into patches row by row, then one dense layer.

    With ``surroundings``, a convolution at half the resolution adds what is around each patch, so that windows, which
    are encoded by themselves, see what is beyond their edges. Beyond an image there are zeros, or what is given: a tile
    of a photograph comes with ``surroundings`` more pixels on every side. An image whose sides are not multiples of the
    patch is padded with zeros at the right and at the bottom; its patches have no surroundings.
    """

    def __init__(
        self, input_shape: tuple[int, ...], patch_size: tuple[int, ...], hidden_size: int, surroundings: int
    ) -> None:
        super().__init__()
        height, width, channels = input_shape
        self.patch_height, self.patch_width = patch_size
        self.rows, self.columns = math.ceil(height / self.patch_height), math.ceil(width / self.patch_width)
        self.padding = (0, 0, 0, self.columns * self.patch_width - width, 0, self.rows * self.patch_height - height)
        self.dense = nn.Linear(self.patch_height * self.patch_width * channels, hidden_size)
        half_patch = (self.patch_height // 2, self.patch_width // 2)
        kernel = (half_patch[0] + surroundings, half_patch[1] + surroundings)
        self.size, self.margin = (height, width), surroundings
        self.surroundings = nn.Conv2d(channels, hidden_size, kernel, half_patch, bias=False) if surroundings else None

    @property
    def num_positions(self) -> int:
        """Patches per image."""
        return self.rows * self.columns

    def forward(self, x: Tensor) -> Tensor:
        """(B, height, width, channels), or with surroundings on every side of it, -> (B, patches, H)."""
        if self.surroundings is None:
            return self._of_patches(F.pad(x, self.padding) if any(self.padding) else x)
        x = self._with_margin(x)
        around = self.surroundings(F.avg_pool2d(x.permute(0, 3, 1, 2), 2)).flatten(2).transpose(1, 2)
        inside = slice(self.margin, -self.margin)
        return self._of_patches(x[:, inside, inside]) + around

    def _of_patches(self, x: Tensor) -> Tensor:
        patches = x.unflatten(2, (self.columns, self.patch_width)).unflatten(1, (self.rows, self.patch_height))
        embedded: Tensor = self.dense(patches.transpose(2, 3).flatten(1, 2).flatten(2))
        return embedded

    def _with_margin(self, x: Tensor) -> Tensor:
        """With zeros around it, cut to the size that has a margin, so one graph takes inputs with and without it."""
        x = F.pad(x, (0, 0, *[self.margin] * 4))
        for axis, size in enumerate(self.size, start=1):
            length = size + 2 * self.margin
            x = x.narrow(axis, (x.shape[axis] - length) // 2, length)
        return x


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
        return PatchEmbedding(config.input_shape, sizes.patch_size, sizes.hidden_size, sizes.surroundings)
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
        self.head = Head(sizes.hidden_size, config.vocab_size)
        self.code_books = CodeBooks(config) if config.transform is not None else None
        num_positions = self.input_embedding.num_positions // self.windows.per_item
        table_length = max(num_positions, self.windows.num_codes)
        self.register_buffer("positions", sinusoidal_positions(table_length, sizes.hidden_size), persistent=False)

    def context(self, x: Tensor) -> list[Memory]:
        """What every step attends to, computed once per item.

        Args:
            x: standardised inputs (B, *input_shape), or images with surroundings, in float32 where the network is not:
                code books read them as they are.

        Returns:
            For each decoder block the cross-attention keys and values, (B, heads, positions, head_size); of each
            window by itself, (B·W, heads, positions, head_size), where items are cut into W windows. Where there are
            code books, one memory more: the scores of all codes (B, N, V), cut into two halves of the codes.
        """
        scores = [] if self.code_books is None else [self.code_books.halves(x)]
        x = self.windows.split(self.input_embedding(x.to(self.positions.dtype)), x.shape[0])
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
        # Not padded with a zero: ONNX Runtime pads no integers on a GPU.
        before = torch.cat([codes[:, :1] * 0, codes[:, :-1]], dim=1)
        return self._decode(context, self.code_embedding(before) + self.positions[: self.windows.num_codes])

    def hidden_without_codes(self, context: list[Memory]) -> Tensor:
        """The last hidden state of a decoder that sees positions only, (B, N, H).

        This is the parallel encoder of a VQ-VAE that is trained through this network; with a code embedding of zero
        the autoregressive model computes just the same.
        """
        hidden = self._decode(context, self.positions[None, : self.windows.num_codes])
        return self.windows.join(hidden, self._num_items(context))

    def _num_items(self, context: list[Memory]) -> int:
        return context[0].keys.shape[0] // self.windows.per_item

    def _decode(
        self,
        context: list[Memory],
        x: Tensor,
        joins: Sequence[Join | None] | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Embedded codes with their positions (rows, T, H) through all decoder blocks."""
        blocks = len(self.decoder_blocks)  # the context may hold one memory more: the scores of code books
        for block, memory, join in zip(self.decoder_blocks, context[:blocks], joins or [None] * blocks, strict=True):
            x = block(x, memory, join, bias)
        return self.decoder_norm(x)

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
        hidden = self.hidden_of_rows(context, codes)
        logits = self.head(hidden.flatten(0, 1)).unflatten(0, (-1, codes.shape[1]))  # see FeedForward
        return self._with_scores(logits, context)

    def _with_scores(self, logits: Tensor, context: list[Memory], positions: Tensor | None = None) -> Tensor:
        """Logits (rows, T, V) of some positions, or of all, with what code books add.

        Code books are for items that are not cut into windows.
        """
        if self.code_books is None:
            return logits
        halves = context[-1] if positions is None else [half.index_select(1, positions) for half in context[-1]]
        scores = torch.cat(tuple(halves), dim=-1)  # (B, T, V)
        if logits.shape[0] == scores.shape[0]:
            return logits + scores
        # The K rows of an item share it.
        return (logits.reshape(scores.shape[0], -1, *logits.shape[1:]) + scores[:, None]).flatten(0, 1)

    def logits_of_span(
        self,
        context: list[Memory],
        previous: Tensor,
        positions: Tensor,
        joins: Sequence[Join],
        bias: Tensor | None = None,
    ) -> Tensor:
        """Logits of T neighbouring positions of every window, (B·W·K, T, V); W is 1 where items are not cut.

        Args:
            context: from :meth:`context`, batch B·W.
            previous: for each position the embedding of the code before it (B·W·K, T, H); that of code 0 at the first.
            positions: their indices in the window, int64 (T,).
            joins: for each decoder block what keeps the keys and values of earlier positions.
            bias: (T or 1, keys), added to the scores of what these give; it hides later positions.
        """
        hidden = self._decode(context, previous + self.positions.index_select(0, positions), joins, bias)
        logits = self.head(hidden.flatten(0, 1)).unflatten(0, (-1, positions.shape[0]))  # see FeedForward
        return self._with_scores(logits, context, positions)

    def step(
        self,
        context: list[Memory],
        previous: Tensor,
        position: Tensor,
        joins: Sequence[Join],
        bias: Tensor | None = None,
    ) -> Tensor:
        """Like :meth:`logits_of_span`, of one position: ``previous`` (B·W·K, H), ``position`` (1,) -> (B·W·K, V)."""
        h = previous[:, None] + self.positions.index_select(0, position)
        # Nothing but scores comes between this product and the choice: graphs in half precision know it by that.
        logits = self.head(self._decode(context, h, joins, bias)[:, 0])
        if self.code_books is None:
            return logits
        scores = torch.cat([half.index_select(1, position)[:, 0] for half in context[-1]], dim=-1)
        if logits.shape[0] == scores.shape[0]:
            return logits + scores
        return logits + scores.repeat_interleave(logits.shape[0] // scores.shape[0], dim=0)

    def grow(
        self, context: list[Memory], previous: Tensor, position: int, earlier: list[Memory | None]
    ) -> tuple[Tensor, list[Memory | None]]:
        """Like :meth:`step`, for gradients: memories are made anew, not written to.

        Args:
            context, previous: as of :meth:`step`.
            position: the position's index in its window.
            earlier: for each decoder block the keys and values of earlier positions; None at the first.

        Returns:
            Logits of the position (B·W·K, V), and ``earlier`` with this position's keys and values.
        """
        grown: list[Memory | None] = []

        def keep(past: Memory | None, own: Memory) -> Memory:
            if past is not None:
                own = Memory(*(torch.cat(pair, dim=2) for pair in zip(past, own, strict=True)))
            grown.append(own)
            return own

        joins = [partial(keep, past) for past in earlier[: len(self.decoder_blocks)]]
        logits = self.step(context, previous, torch.tensor([position], device=previous.device), joins)
        return logits, grown
