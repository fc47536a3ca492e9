"""``config.json`` of a model folder: what the model is, written once, checked whenever it is read.

The file mirrors the dataclasses of this package field by field.
"""

from daps_tokenizer.config.data import MotionConfig, NormalisationConfig
from daps_tokenizer.config.networks import (
    GenerativeConfig,
    LikelihoodConfig,
    RecognitionConfig,
    RecognitionKind,
    TransformConfig,
)
from daps_tokenizer.config.reading import FORMAT_VERSION, config_from_dict
from daps_tokenizer.config.robot import FEATURE_GROUPS, Joint, Robot, Site
from daps_tokenizer.config.tokenizer import TokenizerConfig

__all__ = [
    "FEATURE_GROUPS",
    "FORMAT_VERSION",
    "GenerativeConfig",
    "Joint",
    "LikelihoodConfig",
    "MotionConfig",
    "NormalisationConfig",
    "RecognitionConfig",
    "RecognitionKind",
    "Robot",
    "Site",
    "TokenizerConfig",
    "TransformConfig",
    "config_from_dict",
]
