"""Recognition models that encode in one pass: self-attention on the patches, and each position decides on its own.

What the paper compares autoregressive encoding with: factorised distributions, and the encoders of quantisers. Like
:class:`~daps_tokenizer.model.recognition.RecognitionModel` they make a ``context`` of an input once, from which codes
are drawn and scored (:func:`~daps_tokenizer.model.sampling.sample_codes`).
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import UnsupportedError
from daps_tokenizer.model.recognition import Recognition
from daps_tokenizer.model.transformer import EncoderBlock, Head, layer_norm, sinusoidal_positions


class ParallelEncoder(Recognition):
    """Patches to one hidden state per code; by itself the encoder of a Gaussian VAE, which has no codes."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config)
        sizes = config.recognition
        self.kind = sizes.kind
        self.blocks = nn.ModuleList(
            EncoderBlock(sizes.hidden_size, sizes.num_heads, sizes.mlp_ratio) for _ in range(sizes.num_layers)
        )
        self.norm = layer_norm(sizes.hidden_size)
        positions = sinusoidal_positions(self.windows.num_codes, sizes.hidden_size)
        self.register_buffer("positions", positions, persistent=False)

    def hidden(self, x: Tensor) -> Tensor:
        """Standardised inputs (B, *input_shape) -> (B, N, H)."""
        x = x.to(self.positions.dtype)
        h = self.windows.split(self.input_embedding(x), x.shape[0]) + self.positions
        for block in self.blocks:
            h = block(h)
        return self.windows.join(self.norm(h), x.shape[0])

    def context(self, x: Tensor) -> Tensor:
        """What codes are made of, computed once per item: (B, N, H), or what a subclass makes of it."""
        return self.hidden(x)

    def logits(self, context: Tensor, codes: Tensor) -> Tensor:
        """Logits of each position (B·K, N, V); only factorised models have them."""
        raise UnsupportedError(f"a recognition model of kind {self.kind} gives codes no probabilities")

    def quantise(self, context: Tensor) -> Tensor:
        """The one code of each position, (B, N) int64; only quantisers have it."""
        raise UnsupportedError(f"a recognition model of kind {self.kind} makes no codes")


class FactorisedModel(ParallelEncoder):
    """q(z|x) = Π q(z_t | x); its context are the logits (B, N, V)."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config)
        self.head = Head(config.recognition.hidden_size, config.vocab_size)

    def context(self, x: Tensor) -> Tensor:
        """Logits (B, N, V)."""
        return self.head(self.hidden(x))

    def logits(self, context: Tensor, codes: Tensor) -> Tensor:
        """The same logits for each of the K rows of an item, whatever its codes: (B·K, N, V)."""
        samples = codes.shape[0] // context.shape[0]
        return context if samples == 1 else context.repeat_interleave(samples, dim=0)


class NearestQuantiser(ParallelEncoder):
    """Codes of the vectors C that are nearest to the hidden states h (VQ-VAE).

    argmin ‖h − C‖² = argmax 2 h·C − ‖C‖²: the head has weight 2C and bias −‖C‖², written there by the method.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config)
        self.head = Head(config.recognition.hidden_size, config.vocab_size)

    def quantise(self, context: Tensor) -> Tensor:
        """Hidden states (B, N, H) -> (B, N)."""
        return self.head(context).argmax(-1)


class LevelQuantiser(ParallelEncoder):
    """A few bounded numbers per code, each rounded to one of its levels (FSQ; Mentzer et al., 2023, section 3)."""

    levels: Tensor
    basis: Tensor

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config)
        levels = config.recognition.levels
        self.head = Head(config.recognition.hidden_size, len(levels))
        basis = list(itertools.accumulate(levels[:-1], lambda product, level: product * level, initial=1))
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("basis", torch.tensor(basis), persistent=False)

    def context(self, x: Tensor) -> Tensor:
        """Numbers not yet rounded (B, N, L), each within its levels −⌊l/2⌋ ... ⌈l/2⌉ − 1."""
        half = (self.levels - 1) * (1 + 1e-3) / 2  # a little more than the outermost levels, so that they are reached
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        return torch.tanh(self.head(self.hidden(x)) + torch.atanh(offset / half)) * half - offset

    def quantise(self, context: Tensor) -> Tensor:
        """Numbers (B, N, L) -> codes (B, N)."""
        return self.codes_of(context.round())

    def codes_of(self, rounded: Tensor) -> Tensor:
        """Rounded numbers (..., L) -> codes (...): digits of a number in a mixed base."""
        return ((rounded.long() + self.levels // 2) * self.basis).sum(-1)

    def numbers_of(self, codes: Tensor) -> Tensor:
        """Codes (...) -> the numbers they stand for (..., L) in [−1, 1]: the inverse of :meth:`codes_of`, scaled."""
        digits = codes[..., None] // self.basis % self.levels
        return self.scale((digits - self.levels // 2).float())

    def scale(self, rounded: Tensor) -> Tensor:
        """Numbers in units of levels to [−1, 1]."""
        return rounded / (self.levels // 2)
