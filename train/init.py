"""``python -m train init``: the experiments that make a tokenizer of one's own images, as YAML to read and change."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from daps_tokenizer.errors import ConfigError, OutputExistsError
from daps_tokenizer.files import new_folder
from train.statistics import open_images, pixel_statistics

PATCHES = (4, 8, 16, 2)  # the sides of a code's part of the image, those that give good models first
VOCABULARIES = range(4, 13)  # log2 of the number of codes to choose from
_WINDOW = 8
_MOST_HELD_OUT = 1000

_MODEL = """\
# {name}: images of {size}×{size} pixels to {tokens} codes out of {vocab}, {bits} bits.
name: {name}
modality: image
input_shape: [{size}, {size}, 3]
num_tokens: {tokens}
vocab_size: {vocab}
recognition: {{patch_size: [{patch}, {patch}], {window}hidden_size: 128, num_heads: 4, num_layers: 2, mlp_ratio: 4}}
generative: {{kind: resnet, embedding_size: 128, hidden_size: {hidden}, num_layers: 2}}
likelihood: {{kind: gaussian, min_variance: 0.01, max_variance: 1.0}}
normalisation: {{mean: {mean}, std: {std}}}  # python -m train statistics
"""

_DATA = """\
model: model.yaml  # relative to this file
dataset: photos
data:
  kind: {kind}
  train: [{train}]
  test: []
  test_items: {held_out}  # of the training images; `python -m train evaluate` reads them
  shorter_side: {size}  # images are scaled to it, as `encode` scales them, and cropped along the longer side
  flip: true  # mirrors half of the training images: not for text
validation_items: {held_out}  # of the training images; training is watched on them
"""

_VQVAE = """\
# Stage 1 of 2: a VQ-VAE through the autoregressive recognition network.
name: {name}-vqvae
{data}method: vqvae
aligned: true
steps: {steps}
batch_size: {batch}
optimiser: {{learning_rate: 1.0e-3, warmup_steps: 200, schedule: cosine, ema: 0.999}}
evaluate_every: 1000
evaluation_items: 250
checkpoint_every: 500
"""

_DAPS = """\
# Stage 2 of 2: DAPS with counterfactual credit, from what stage 1 has trained.
name: {name}-daps
{data}method: daps
start_from: runs/{name}-vqvae/checkpoint
settings:
  num_samples: 1
  credit: counterfactual
  trust_region: solved
  kl_target: 0.003
  beta_initial: 0.015
  beta_final: 0.015
  batch_norm: frozen
  start_sharpness: 6.0
steps: {steps}
batch_size: {batch}
optimiser: {{learning_rate: 4.0e-4, warmup_steps: 100, schedule: cosine, final_fraction: 0.01, ema: 0.999}}
evaluate_every: 1000
evaluation_items: 250
checkpoint_every: 500
"""


@dataclass(frozen=True)
class CodeGrid:
    """How many codes an image has, out of how many, and how many pixels wide the part of each is."""

    size: int
    patch: int
    vocab_bits: int

    @property
    def side(self) -> int:
        return self.size // self.patch

    @property
    def bits(self) -> int:
        return self.side**2 * self.vocab_bits


def choose_grid(size: int, bits: int) -> CodeGrid:
    """The grid of codes that has exactly this many bits; of several the one whose vocabulary is nearest to 1,024.

    Raises:
        ConfigError: there is none; names the nearest numbers of bits above and below.
    """
    grids = [CodeGrid(size, patch, log2) for patch in PATCHES if size % patch == 0 for log2 in VOCABULARIES]
    if not grids:
        raise ConfigError(f"--size must be a multiple of 2, not {size}")
    exact = [grid for grid in grids if grid.bits == bits]
    if not exact:
        below = max((grid.bits for grid in grids if grid.bits < bits), default=None)
        above = min((grid.bits for grid in grids if grid.bits > bits), default=None)
        nearest = " or ".join(str(found) for found in (below, above) if found is not None)
        raise ConfigError(f"--bits {bits} is not possible for {size}×{size} pixels; the nearest are {nearest}")
    return min(exact, key=lambda grid: abs(grid.vocab_bits - 10))


def write_experiments(data: str, size: int, bits: int, out: Path, *, name: str, steps: int = 10_000) -> list[Path]:
    """Write ``model.yaml``, ``vqvae.yaml`` and ``daps.yaml`` to a new folder.

    Args:
        data: see :func:`train.statistics.open_images`; written as it is given, so relative to where training runs.
        size: pixels, of the model's square images.
        bits: of an image's codes.
        out: the folder; it appears whole or not at all.
        name: of the model, and the beginning of the names of its runs.
        steps: of each stage.

    Raises:
        ConfigError: a size or a number of bits that cannot be, or too few images.
        InputError: no images.
        OutputExistsError: ``out`` exists.
    """
    if out.exists():
        raise OutputExistsError(f"{out} already exists; choose another folder with --out")
    grid = choose_grid(size, bits)
    kind, patterns, source = open_images(data)
    held_out = min(_MOST_HELD_OUT, max(1, len(source) // 20))
    batch = min(32, 2 ** int(math.log2(max(1, len(source) - 2 * held_out))))
    if len(source) < 4:
        raise ConfigError(f"{data}: holds {len(source)} images; at least 4 are needed to train, watch and test on")
    mean, std = pixel_statistics(source)
    windowed = grid.side > _WINDOW and grid.side % _WINDOW == 0
    model = _MODEL.format(
        name=name,
        size=size,
        tokens=grid.side**2,
        vocab=2**grid.vocab_bits,
        bits=bits,
        patch=grid.patch,
        window=f"window: [{_WINDOW}, {_WINDOW}], " if windowed else "",
        hidden=64 if grid.patch < 16 else 128,
        mean=mean,
        std=std,
    )
    where = _DATA.format(kind=kind, train=", ".join(map(repr, patterns)), held_out=held_out, size=size)
    stages = {"vqvae.yaml": _VQVAE, "daps.yaml": _DAPS}
    texts = {file: text.format(name=name, data=where, steps=steps, batch=batch) for file, text in stages.items()}
    with new_folder(out) as made:
        for file, text in {"model.yaml": model, **texts}.items():
            (made / file).write_text(text, encoding="utf-8")
    return [out / file for file in ("model.yaml", *stages)]
