"""Which modality reads the inputs of a model."""

from __future__ import annotations

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.images.inputs import ImageInputs
from daps_tokenizer.inputs import Modality
from daps_tokenizer.motion.inputs import MotionInputs


def open_modality(config: TokenizerConfig) -> Modality:
    """What prepares inputs for a model.

    Raises:
        ConfigError: a motion model of other features than this version computes.
    """
    if config.modality == "image":
        return ImageInputs(config)
    return MotionInputs(config)
