"""One file per training method, behind one small protocol; :func:`build_method` finds them by name."""

from __future__ import annotations

from typing import Any

from daps_tokenizer.config import config_from_dict
from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from train.methods.base import Batch, Losses, Method
from train.methods.codec import Codec
from train.methods.daps import DAPS
from train.methods.distil import Distillation
from train.methods.fsq import FSQ
from train.methods.gaussian import GaussianVAE
from train.methods.gr_mck import GRMCK
from train.methods.gumbel import GumbelSoftmax
from train.methods.ppo import PPO
from train.methods.reinforce import Reinforce
from train.methods.search import SearchTraining
from train.methods.vqvae import VQVAE

METHODS: dict[str, type[Method]] = {
    "daps": DAPS,
    "reinforce": Reinforce,
    "ppo": PPO,
    "gumbel": GumbelSoftmax,
    "gr_mck": GRMCK,
    "vqvae": VQVAE,
    "fsq": FSQ,
    "gaussian_vae": GaussianVAE,
    "search": SearchTraining,
    "distil": Distillation,
    "codec": Codec,
}

__all__ = ["METHODS", "Batch", "Losses", "Method", "build_method", "method_settings"]


def method_settings(name: str, settings: dict[str, Any]) -> Any:
    """The named method's settings, an instance of its ``settings_type``.

    Raises:
        ConfigError: an unknown method, or settings that are not its own.
    """
    if name not in METHODS:
        raise ConfigError(f"method {name!r} is not known; known methods are {', '.join(METHODS)}")
    return config_from_dict(METHODS[name].settings_type, settings, source=f"settings of {name}")


def build_method(name: str, model: Autoencoder, settings: dict[str, Any]) -> Method:
    """The named method around a model.

    Raises:
        ConfigError: an unknown method, settings that are not its own, or that do not fit the model.
    """
    checked = method_settings(name, settings)
    return METHODS[name](model, checked)
