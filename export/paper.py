"""What the paper reports of DAPS, and in which units, so that no number of ours is compared with one in other units."""

from __future__ import annotations

import math

from daps_tokenizer.config import TokenizerConfig

# log p of the paper's DAPS in nats, sampled codes (Table 1), by the dataset that a model is trained on.
PAPER_LOG_P = {"cifar10": 1189.37, "mnist": -49.08, "photos": 93_600.0, "motion": -1120.86}
# Deviations, of 255 levels, that the authors divide the channels of ImageNet by; ours are those of our photographs.
_AUTHORS_STD = {"photos": (68.819, 66.551, 69.687)}


def dataset_of(config: TokenizerConfig) -> str:
    """The dataset that a model was trained on; ``unknown`` where its training record does not say."""
    return str(config.training.get("experiment", {}).get("dataset", "unknown"))


def nats_less_in_the_papers_units(config: TokenizerConfig) -> float:
    """How much less log p of an item is in the authors' normalisation, for the same reconstruction; 0 if it is ours.

    Standardising divides by a deviation s, which multiplies the density by s: a pixel and channel is worth log(s / s')
    nats more than with s'.
    """
    theirs = _AUTHORS_STD.get(dataset_of(config))
    if theirs is None:
        return 0.0
    height, width, _ = config.input_shape
    return height * width * sum(math.log(255 * s / t) for s, t in zip(config.normalisation.std, theirs, strict=True))
