"""The networks of a tokenizer, and the distribution that they end in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from daps_tokenizer.config.checks import require, require_choice, require_positive

GenerativeKind = Literal["mlp", "resnet", "transformer", "spectral"]
LikelihoodKind = Literal["bernoulli", "gaussian", "gaussian_constant"]
RecognitionKind = Literal["autoregressive", "independent", "nearest", "levels", "gaussian"]


@dataclass(frozen=True)
class RecognitionConfig:
    """Sizes of the recognition model q(z|x), a transformer (paper, Figure 1 and Appendix F).

    ``patch_size`` is (height, width) of an image patch; motion has none, as its frames are up-sampled by a transposed
    convolution instead. ``kind`` says what comes of an input: ``autoregressive``, Π q(z_t | z_<t, x), num_layers blocks
    in the encoder and as many in the decoder; all others are num_layers blocks of self-attention and one pass:
    ``independent``, Π q(z_t | x); the quantisers ``nearest``, codes of the nearest vectors (VQ-VAE), and ``levels``,
    codes of rounded numbers, each of which has its number of ``levels`` (FSQ); ``gaussian``, no codes (Gaussian VAE).
    ``window`` is (rows, columns) of codes, or empty: an image's grid of codes is cut into windows of this size that are
    encoded side by side, each by itself, so that the loop over positions is as short as a window. ``surroundings``,
    0 or a multiple of 4, is how many pixels around a patch its embedding sees too, at half the resolution, beyond the
    window, and, of a photograph in tiles, beyond the tile.
    """

    patch_size: tuple[int, ...] = ()
    window: tuple[int, ...] = ()
    surroundings: int = 0
    hidden_size: int = 128
    num_heads: int = 4
    num_layers: int = 2
    mlp_ratio: int = 4
    kind: RecognitionKind = "autoregressive"
    levels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require_choice("recognition.kind", self.kind, RecognitionKind)
        require(
            (self.kind == "levels") == bool(self.levels) and all(level >= 3 for level in self.levels),
            f"recognition.levels are the numbers, 3 or more, of kind levels alone; kind {self.kind} has "
            f"{list(self.levels)}",
        )
        require_positive(
            "recognition",
            hidden_size=self.hidden_size,
            num_heads=self.num_heads,
            num_layers=self.num_layers,
            mlp_ratio=self.mlp_ratio,
        )
        for name, sizes in (("patch_size", self.patch_size), ("window", self.window)):
            require_positive("recognition", **{f"{name}[{i}]": size for i, size in enumerate(sizes)})
        multiples_of_4 = all(size % 4 == 0 for size in (self.surroundings, *self.patch_size))
        require(
            self.surroundings == 0 or (self.surroundings > 0 and bool(self.patch_size) and multiples_of_4),
            f"recognition.surroundings is 0, or a multiple of 4 around patches whose sides are multiples of 4, not "
            f"{self.surroundings} around {list(self.patch_size)}",
        )
        require(
            self.hidden_size % self.num_heads == 0,
            f"recognition.hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}",
        )

    @property
    def has_probabilities(self) -> bool:
        """Whether there is a q(z|x) to draw from and to score with, which quantisers do not have."""
        return self.kind in ("autoregressive", "independent")


@dataclass(frozen=True)
class GenerativeConfig:
    """Sizes of the generative model p(x|z).

    ``mlp``: hidden_size, then hidden_size × mlp_ratio, then the pixels. ``resnet``: num_layers residual blocks of
    hidden_size channels, then transposed convolutions. ``transformer``: num_layers blocks of hidden_size (motion).
    ``spectral``: the coefficients of a transform (``TransformConfig``), corrected by num_layers hidden layers of
    hidden_size, and where ``refinement`` is not 0, the frames that they make refined by two residual blocks of
    convolutions in time with as many channels (motion).
    """

    kind: GenerativeKind
    embedding_size: int = 128
    hidden_size: int = 64
    num_layers: int = 2
    num_heads: int = 4
    mlp_ratio: int = 4
    refinement: int = 0

    def __post_init__(self) -> None:
        require_choice("generative.kind", self.kind, GenerativeKind)
        require(
            self.refinement >= 0 and (self.refinement == 0 or self.kind == "spectral"),
            f"generative.refinement is 0 or the channels of kind spectral, not {self.refinement} of kind {self.kind}",
        )
        require_positive(
            "generative",
            embedding_size=self.embedding_size,
            hidden_size=self.hidden_size,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            mlp_ratio=self.mlp_ratio,
        )


@dataclass(frozen=True)
class TransformConfig:
    """A linear transform of motion clips whose coefficients the codes stand for (``model/transform.py``).

    ``frequencies``: how many of the lowest frequencies of a cosine transform in time are kept; ``components``: how many
    principal components of the features; ``size``: how many coefficients come of these, equally many for each code;
    ``hidden``: units of a hidden layer that corrects coefficients before they are quantised, 0 for none.
    """

    frequencies: int
    components: int
    size: int
    hidden: int = 0

    def __post_init__(self) -> None:
        require(self.hidden >= 0, f"transform.hidden must be at least 0, not {self.hidden}")
        require_positive("transform", frequencies=self.frequencies, components=self.components, size=self.size)
        require(
            self.size <= self.frequencies * self.components,
            f"transform.size {self.size} is more than the {self.frequencies * self.components} numbers it is made of",
        )


@dataclass(frozen=True)
class LikelihoodConfig:
    """The distribution of x given the output of the generative model.

    ``bernoulli``: black-or-white pixels. ``gaussian``: mean and variance are both learned, the variance per pixel and
    channel and clipped to [min_variance, max_variance]. ``gaussian_constant``: the variance is ``variance`` throughout.
    Variances are in standardised units.
    """

    kind: LikelihoodKind
    min_variance: float = 0.01
    max_variance: float = 1.0
    variance: float = 0.25

    def __post_init__(self) -> None:
        require_choice("likelihood.kind", self.kind, LikelihoodKind)
        require(
            0.0 < self.min_variance < self.max_variance,
            f"likelihood needs 0 < min_variance < max_variance, not {self.min_variance} and {self.max_variance}",
        )
        require(self.variance > 0.0, f"likelihood.variance must be positive, not {self.variance}")
