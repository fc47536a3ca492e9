"""A transform codec fitted to motion: the weights that a motion tokenizer begins with, without a gradient.

1. Principal components of the features, a cosine transform in time, and the Karhunen-Loève transform of the rest
   (``daps_tokenizer/model/transform.py``), from all training clips and their mirror images.
2. Code books. Reverse water-filling (Cover and Thomas, 2006, section 10.3.3) says how many bits each coefficient
   deserves, and coefficients are dealt to the codes so that each has to carry about its 10. Books are fitted by Lloyd's
   algorithm to coefficients that are drawn independently of each other, of which there are as many as one likes; then
   they move towards the means of real vectors, of which there are few for 1,024 entries.
3. The correction of the decoder, by least squares on quantised and true coefficients.

The recognition model gets the same transform and books, so its most probable codes are the codec's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.generative import SpectralGenerator
from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.transform import Transform
from daps_tokenizer.motion.features import mirror_features
from train.motion import MotionWindows

_LEAST_SPREAD = 0.3
_CHUNK = 4096  # windows, or rows of distances, at a time: what stays in a core's cache


@dataclass(frozen=True)
class CodecSettings:
    """How a codec is fitted.

    Args:
        stride: every so-many-th window of the training clips is used; neighbours are nearly the same.
        book_samples: how many vectors of independent coefficients fit a book.
        book_rounds: rounds of Lloyd's algorithm on them.
        own_rounds: rounds on real vectors.
        prior: as how many real vectors an entry of a book counts in these.
        sharpness: nats by which a code is less probable for each unit of squared error that it adds.
        correction_steps, correction_batch, learning_rate: of the decoder's correction.
        train_encoder: whether transform, code books and both corrections are then trained together, straight through
        the
            quantiser; else the decoder alone, on the codes of the codec.
        commitment: how much a squared distance of coefficients from their codes counts, against log p; of
        ``train_encoder``.
    """

    stride: int = 8
    book_samples: int = 40_000
    book_rounds: int = 6
    own_rounds: int = 2
    prior: float = 60.0
    sharpness: float = 8.0
    correction_steps: int = 2000
    correction_batch: int = 512
    learning_rate: float = 1e-3
    train_encoder: bool = False
    commitment: float = 1.0

    def __post_init__(self) -> None:
        counts = (self.stride, self.book_samples, self.book_rounds, self.correction_batch)
        if min(counts) < 1 or min(self.own_rounds, self.correction_steps) < 0:
            raise ConfigError("codec needs positive stride, samples, rounds and batch")
        if min(self.prior, self.sharpness, self.learning_rate, self.commitment) <= 0:
            raise ConfigError("codec needs a positive prior, sharpness, learning_rate and commitment")


class Fitted(NamedTuple):
    """Squared error per window, in standardised units: what the transform leaves out, with quantised coefficients, and
    with those corrected."""

    left_out: float
    quantised: float
    corrected: float


def fit_codec(model: Autoencoder, windows: MotionWindows, settings: CodecSettings, *, seed: int) -> Fitted:
    """Write a codec's weights into a model.

    Args:
        model: with a ``transform`` in its config.
        windows: of the training clips.
        settings: how.
        seed: of what books begin with, and of the order of the correction's batches.

    Returns:
        The squared error per window on what was fitted.
    """
    recognition, generative = model.recognition, model.generative
    if not isinstance(recognition, RecognitionModel) or not isinstance(generative, SpectralGenerator):
        raise ConfigError("codec needs a model with a transform and generative.kind spectral")
    assert recognition.code_books is not None
    generator = torch.Generator().manual_seed(seed)
    starts = windows.starts[:: settings.stride]
    starts = np.concatenate([starts, starts + len(windows.features)])
    features = np.concatenate([windows.features, mirror_features(windows.features, windows.robot)])
    frames = torch.from_numpy(features).sub_(model.mean).div_(model.std)  # in place: they may take a gigabyte
    with torch.no_grad():
        total = _fit_transform(generative.transform, frames, starts, model.config)
        coefficients = _spectra(generative.transform, frames, starts) @ generative.transform.directions
        parts = coefficients.chunk(model.config.num_tokens, dim=1)
        books = [_fit_book(part, model.config.vocab_size, settings, generator) for part in parts]
        generative.embedding.weight.copy_(torch.cat(books, dim=1))
        recognition.code_books.transform.load_state_dict(generative.transform.state_dict())
        recognition.code_books.table.copy_(generative.embedding.weight)
        recognition.code_books.log_sharpness.fill_(float(np.log(settings.sharpness)))
        last: list[nn.Module | None] = [recognition.head, generative.correction, recognition.code_books.correction]
        last.append(None if generative.refinement is None else generative.refinement.output)
        for layer in last:
            for parameter in [] if layer is None else layer.parameters():
                parameter.zero_()  # until they are trained, the codec alone decides
        if recognition.code_books.hidden is not None:  # its inputs are of very different sizes
            spread = _spectra(generative.transform, frames, starts[:_CHUNK]).std(0)
            recognition.code_books.hidden.weight.div_(spread.clamp_min(_LEAST_SPREAD))
        quantised = quantise(coefficients, books)
    kept = float(coefficients.square().sum(1).mean())
    error = float((quantised - coefficients).square().sum(1).mean())
    _fit_correction(generative, quantised, coefficients, settings, generator)
    corrected = _corrected_error(generative, quantised, coefficients)
    left_out = total - kept
    return Fitted(left_out, left_out + error, left_out + corrected)


def water_filling(variances: np.ndarray, bits: float) -> np.ndarray:
    """Bits per coefficient that reach the least squared error with ``bits`` in total, for Gaussian coefficients.

    Each coefficient is left with an error of θ, or of its variance where that is less: log2(variance / θ) / 2 bits.
    """
    low, high = 1e-12 * variances.max(), variances.max()
    for _ in range(200):  # θ by bisection of its logarithm
        level = np.sqrt(low * high)
        needed = 0.5 * np.log2(np.maximum(variances / level, 1.0)).sum()
        low, high = (level, high) if needed > bits else (low, level)
    rates: np.ndarray = 0.5 * np.log2(np.maximum(variances / high, 1.0))
    return rates


def deal(rates: np.ndarray, num_codes: int) -> np.ndarray:
    """Deal coefficients to codes, equally many to each, so that all carry about equally many bits.

    The one with most bits comes first, and goes to the code with the fewest so far that has room.

    Returns:
        (num_codes, coefficients per code): which ones.
    """
    room = len(rates) // num_codes
    dealt: list[list[int]] = [[] for _ in range(num_codes)]
    carried = np.zeros(num_codes)
    for number in np.argsort(-rates, kind="stable").tolist():
        code = int(np.argmin(np.where([len(own) < room for own in dealt], carried, np.inf)))
        dealt[code].append(number)
        carried[code] += rates[number]
    return np.array(dealt)


def _spectra(transform: Transform, frames: Tensor, starts: np.ndarray) -> Tensor:
    """Lowest frequencies of principal components, (windows, frequencies · components)."""
    projected = frames @ transform.components
    within = torch.arange(transform.cosines.shape[1])
    parts = [
        (transform.cosines @ projected[torch.from_numpy(chunk)[:, None] + within]).flatten(1)
        for chunk in np.array_split(starts, -(-len(starts) // _CHUNK))
    ]
    return torch.cat(parts)


def _fit_transform(transform: Transform, frames: Tensor, starts: np.ndarray, config: TokenizerConfig) -> float:
    """Directions by the covariances of frames and of windows, dealt to the codes; returns the energy of a window."""
    count = transform.directions.shape[1]
    transform.components.copy_(_principal(frames.T @ frames / len(frames), transform.components.shape[1]))
    spectra = _spectra(transform, frames, starts)
    directions = _principal(spectra.T @ spectra / len(spectra), count)
    variances = (spectra @ directions).square().mean(0).double().numpy()
    order = deal(water_filling(variances, config.bits_per_item), config.num_tokens)
    transform.directions.copy_(directions[:, torch.from_numpy(order.flatten())])
    within = torch.arange(transform.cosines.shape[1])
    energies = frames.square().sum(1)
    return float(energies[torch.from_numpy(starts)[:, None] + within].sum(1).mean())


def _principal(covariance: Tensor, count: int) -> Tensor:
    """The eigenvectors of the ``count`` largest eigenvalues, (n, count), the largest first."""
    vectors = torch.linalg.eigh(covariance.double()).eigenvectors
    return vectors.flip(1)[:, :count].float()


def _fit_book(part: Tensor, size: int, settings: CodecSettings, generator: torch.Generator) -> Tensor:
    """A book (size, coefficients of a code) for the coefficients of one code (m, coefficients)."""
    rows = torch.randint(len(part), (settings.book_samples, part.shape[1]), generator=generator)
    book = lloyd(part.gather(0, rows), size, settings.book_rounds, generator)
    for _ in range(settings.own_rounds):
        sums, counts = _sums(part, nearest(part, book), size)
        book = (sums + settings.prior * book) / (counts + settings.prior)[:, None]
    return book


def lloyd(samples: Tensor, size: int, rounds: int, generator: torch.Generator) -> Tensor:
    """A book (size, n) for samples (m, n) by Lloyd's algorithm; entries that nothing chooses move to samples."""
    book = samples[torch.randint(len(samples), (size,), generator=generator)]
    for _ in range(rounds):
        sums, counts = _sums(samples, nearest(samples, book), size)
        fresh = samples[torch.randint(len(samples), (size,), generator=generator)]
        book = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], fresh)
    return book


def nearest(samples: Tensor, book: Tensor) -> Tensor:
    """The nearest entry of a book (V, n) for each sample (m, n): (m,) int64."""
    offsets, doubled = -book.square().sum(1), 2 * book.T
    return torch.cat([torch.addmm(offsets, chunk, doubled).argmax(1) for chunk in samples.split(_CHUNK)])


def _sums(samples: Tensor, chosen: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """For each entry the sum (size, n) and the number (size,) of the samples that chose it."""
    sums = torch.zeros(size, samples.shape[1]).index_add_(0, chosen, samples)
    return sums, torch.bincount(chosen, minlength=size).float()


def quantise(coefficients: Tensor, books: Sequence[Tensor]) -> Tensor:
    """Each part of the coefficients (m, size) replaced by the nearest entry of its code's book."""
    codes = nearest_codes(coefficients, books)
    return torch.cat([book[code] for code, book in zip(codes.unbind(1), books, strict=True)], dim=1)


def nearest_codes(coefficients: Tensor, books: Sequence[Tensor]) -> Tensor:
    """The nearest entry of each code's book for its part of the coefficients (m, size): (m, N) int64."""
    parts = coefficients.split([book.shape[1] for book in books], dim=1)
    return torch.stack([nearest(part, book) for part, book in zip(parts, books, strict=True)], dim=1)


def _fit_correction(
    generative: SpectralGenerator,
    quantised: Tensor,
    coefficients: Tensor,
    settings: CodecSettings,
    generator: torch.Generator,
) -> None:
    """Least squares with AdamW and a cosine schedule; the transform is orthonormal, so errors are those of clips."""
    layers = [*generative.hidden.parameters(), *generative.correction.parameters()]
    optimiser = torch.optim.AdamW(layers, lr=settings.learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, settings.correction_steps))
    for _ in range(settings.correction_steps):
        rows = torch.randint(len(quantised), (settings.correction_batch,), generator=generator)
        given = quantised[rows]
        loss = F.mse_loss(given + generative.correct(given), coefficients[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


@torch.no_grad()
def _corrected_error(generative: SpectralGenerator, quantised: Tensor, coefficients: Tensor) -> float:
    errors = [
        (given + generative.correct(given) - true).square().sum(1)
        for given, true in zip(quantised.split(_CHUNK), coefficients.split(_CHUNK), strict=True)
    ]
    return float(torch.cat(errors).mean())
