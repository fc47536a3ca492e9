"""A larger model that starts as an exact copy of a smaller one, so that training continues.

Net2Net (Chen et al., 2016) with zeros: old channels keep their weights and read nothing from new ones, new channels
start at random and read everything. A new residual block starts by adding nothing, and so does what patches newly see
around them. So the function is unchanged. At first only the weights that are zero have gradients; after a step all new
weights have.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import ConfigError, ModelFileError, first_line
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.generative import ResidualBlock, ResNetGenerator

_SURROUNDINGS = "recognition.input_embedding.surroundings.weight"
_MAY_DIFFER = "only the generative model may be larger, and the surroundings of patches wider"


def is_smaller(source: TokenizerConfig, config: TokenizerConfig) -> bool:
    """Whether ``source`` has fewer channels or blocks in a convolutional generative model, or sees less around patches.

    None of it may be larger.
    """
    ours, theirs = _sizes(config), _sizes(source)
    return (
        config.generative.kind == source.generative.kind == "resnet"
        and ours != theirs
        and all(own >= other for own, other in zip(ours, theirs, strict=True))
    )


def _sizes(config: TokenizerConfig) -> tuple[int, int, int]:
    return config.generative.hidden_size, config.generative.num_layers, config.recognition.surroundings


@torch.no_grad()
def load_widened(model: Autoencoder, path: Path) -> None:
    """Read the weights of a smaller model, so that ``model``, freshly initialised, computes what that one does.

    Raises:
        ModelFileError: no file of weights.
        ConfigError: weights of a model that differs in more than the channels and blocks of its generative model, and
            the surroundings of patches.
    """
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelFileError(f"{path}: not a file of weights ({first_line(error)})") from None
    state = model.state_dict()
    unknown = sorted(set(weights) - set(state))
    if unknown:
        raise ConfigError(f"{path}: {unknown[0]} has no counterpart in {model.config.name}; it is not a smaller model")
    generative = model.generative
    assert isinstance(generative, ResNetGenerator)
    new_blocks = range(_num_blocks(weights), len(generative.blocks))
    may_be_new = (_SURROUNDINGS, *(f"generative.blocks.{number}." for number in new_blocks))
    missing = sorted(name for name in set(state) - set(weights) if not name.startswith(may_be_new))
    if missing:
        raise ConfigError(f"{path} has no {missing[0]}, which {model.config.name} needs; {_MAY_DIFFER}")
    if _SURROUNDINGS in state:
        state[_SURROUNDINGS].zero_()
    for name, small in weights.items():
        large = state[name]
        if large.shape == small.shape:
            large.copy_(small)
        elif name == _SURROUNDINGS and large.shape[2] > small.shape[2]:
            rows, columns = ((own - other) // 2 for own, other in zip(large.shape[2:], small.shape[2:], strict=True))
            large[:, :, rows : rows + small.shape[2], columns : columns + small.shape[3]] = small
        elif name.startswith("generative.") and large.ndim == small.ndim and large.ndim in (1, 4):
            _widen(large, small, transposed=".upsamplings." in f".{name}")
        else:
            raise ConfigError(
                f"{path}: {name} is {list(small.shape)}, which {model.config.name} with {list(large.shape)} cannot "
                f"start from; {_MAY_DIFFER}"
            )
    for number in new_blocks:
        block = generative.blocks[number]
        assert isinstance(block, ResidualBlock)
        nn.init.zeros_(block.mixing_norm.weight)


def _widen(large: Tensor, small: Tensor, *, transposed: bool) -> None:
    """Put ``small`` in the first channels of ``large``, and let the old output channels not read the new ones."""
    if large.ndim == 1:
        large[: small.shape[0]] = small
        return
    old_out, old_in = (small.shape[1], small.shape[0]) if transposed else (small.shape[0], small.shape[1])
    kernel = large.transpose(0, 1) if transposed else large  # a view with output channels first
    kernel[:old_out, :old_in] = small.transpose(0, 1) if transposed else small
    kernel[:old_out, old_in:] = 0.0


def _num_blocks(weights: dict[str, Tensor]) -> int:
    return len({name.split(".")[2] for name in weights if name.startswith("generative.blocks.")})
