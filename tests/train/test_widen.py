"""A larger model that starts from a smaller one: nothing is lost, and everything new learns."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from daps_tokenizer.errors import ConfigError, ModelFileError
from daps_tokenizer.model.autoencoder import Autoencoder, save_weights
from tests.settings import CIFAR10, MNIST, TINY_GRID, TINY_SURROUNDINGS, TINY_WINDOWS
from train.widen import is_smaller, load_widened

LARGER = replace(TINY_GRID, generative=replace(TINY_GRID.generative, hidden_size=24, num_layers=3))


@pytest.fixture
def small(tmp_path: Path) -> Autoencoder:
    torch.manual_seed(0)
    model = Autoencoder(TINY_GRID)
    for _ in range(20):  # BatchNorm statistics that are not the initial ones
        model.generative(torch.randint(0, 16, (8, 16)))
    save_weights(model, tmp_path / "model.safetensors")
    return model.eval()


def test_the_larger_model_computes_what_the_smaller_one_does(small: Autoencoder, tmp_path: Path) -> None:
    large = Autoencoder(LARGER).eval()
    load_widened(large, tmp_path / "model.safetensors")
    codes = torch.randint(0, 16, (4, 16))
    with torch.no_grad():
        torch.testing.assert_close(large.generative(codes), small.generative(codes))
        x = torch.randn(4, 16, 16, 3)
        ours, theirs = (m.recognition.logits(m.recognition.context(x), codes) for m in (large, small))
        torch.testing.assert_close(ours, theirs)


def test_what_is_new_gets_gradients(small: Autoencoder, tmp_path: Path) -> None:
    large = Autoencoder(LARGER)
    load_widened(large, tmp_path / "model.safetensors")
    large.generative(torch.randint(0, 16, (4, 16))).square().mean().backward()
    reading_new_channels = large.generative.upsamplings[0].weight.grad
    assert reading_new_channels is not None and reading_new_channels[8:, :4].abs().max() > 0
    added_block = large.generative.blocks[2].mixing_norm.weight.grad
    assert added_block is not None and added_block.abs().max() > 0


def test_only_a_convolutional_model_with_more_channels_or_blocks_is_larger() -> None:
    assert is_smaller(TINY_GRID, LARGER)
    assert not is_smaller(TINY_GRID, TINY_GRID)
    assert not is_smaller(LARGER, TINY_GRID)
    assert not is_smaller(MNIST, CIFAR10)
    assert is_smaller(TINY_WINDOWS, replace(LARGER, recognition=TINY_WINDOWS.recognition))


def test_a_model_that_sees_surroundings_starts_from_one_that_sees_less(tmp_path: Path) -> None:
    torch.manual_seed(0)
    double = replace(TINY_SURROUNDINGS.recognition, surroundings=2 * TINY_SURROUNDINGS.recognition.surroundings)
    steps = [TINY_WINDOWS, TINY_SURROUNDINGS, replace(TINY_SURROUNDINGS, recognition=double)]
    for narrow_config, wide_config in itertools.pairwise(steps):
        narrow, wide = Autoencoder(narrow_config).eval(), Autoencoder(wide_config).eval()
        save_weights(narrow, tmp_path / "model.safetensors")
        assert is_smaller(narrow_config, wide_config) and not is_smaller(wide_config, narrow_config)
        load_widened(wide, tmp_path / "model.safetensors")
        x, codes = torch.randn(4, 16, 16, 3), torch.randint(0, 16, (4, 16))
        ours, theirs = (model.recognition.logits(model.recognition.context(x), codes) for model in (wide, narrow))
        torch.testing.assert_close(ours, theirs)
        ours.square().mean().backward()
        gradient = wide.recognition.input_embedding.surroundings.weight.grad
        assert gradient is not None and gradient[:, :, 0].abs().max() > 0


def test_surroundings_that_have_learned_stay_when_the_generative_model_grows(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = Autoencoder(TINY_SURROUNDINGS).eval()
    save_weights(small, tmp_path / "model.safetensors")
    large = Autoencoder(replace(TINY_SURROUNDINGS, generative=LARGER.generative)).eval()
    load_widened(large, tmp_path / "model.safetensors")
    x, codes = torch.randn(4, 16, 16, 3), torch.randint(0, 16, (4, 16))
    with torch.no_grad():
        ours, theirs = (model.recognition.logits(model.recognition.context(x), codes) for model in (large, small))
    assert torch.equal(ours, theirs)


def test_another_recognition_model_is_refused(small: Autoencoder, tmp_path: Path) -> None:
    other = replace(LARGER, recognition=replace(LARGER.recognition, hidden_size=32))
    with pytest.raises(ConfigError, match=r"recognition\..* only the generative model may be larger, and the surr"):
        load_widened(Autoencoder(other), tmp_path / "model.safetensors")
    deeper = replace(LARGER, recognition=replace(LARGER.recognition, num_layers=LARGER.recognition.num_layers + 1))
    with pytest.raises(ConfigError, match=r"model.safetensors has no recognition\..*, which tiny-grid needs; only the"):
        load_widened(Autoencoder(deeper), tmp_path / "model.safetensors")


def test_no_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="not a file of weights"):
        load_widened(Autoencoder(LARGER), tmp_path / "model.safetensors")
