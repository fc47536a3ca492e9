"""Drawing in passes, by torch and by ``encoder.onnx``, gives the codes of the sequential loop, whatever the model."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.sampling import MAX_PASSES, sample_codes, settle
from export.check import random_inputs
from export.encoder import export_encoder
from tests.settings import TINY_GRID, TINY_MLP, TINY_SPECTRAL, TINY_WINDOWS

ITEMS = 6


class Pair(NamedTuple):
    """The same weights in torch, drawn position by position, and as ``encoder.onnx``."""

    model: Autoencoder
    session: onnxruntime.InferenceSession

    def compare(self, temperature: float) -> np.ndarray:
        """Assert that all ways give the same codes and log-probabilities; returns the passes (B, W)."""
        config, recognition = self.model.config, self.model.autoregressive
        inputs = random_inputs(config, ITEMS)
        uniform = np.random.default_rng(1).random((ITEMS, config.num_tokens), dtype=np.float32)
        with torch.no_grad():
            context = recognition.context(self.model.standardise(torch.from_numpy(inputs)))
            numbers = torch.from_numpy(uniform)
            expected = sample_codes(recognition, context, numbers, temperature, max_passes=0)
            rows = recognition.windows.split(numbers, ITEMS)
            settled = settle(recognition, context, rows, torch.tensor(temperature))
        feed = {"images": inputs, "uniform": uniform, "temperature": np.array(temperature, np.float32)}
        codes, log_probs, passes = self.session.run(["codes", "log_probs", "passes"], feed)
        np.testing.assert_array_equal(codes, expected.codes)
        np.testing.assert_allclose(log_probs, expected.log_probs, atol=1e-4)
        np.testing.assert_array_equal(recognition.windows.join(settled.codes, ITEMS), expected.codes)
        np.testing.assert_allclose(recognition.windows.join(settled.log_probs, ITEMS), expected.log_probs, atol=1e-4)
        np.testing.assert_array_equal(passes, settled.passes.unflatten(0, (ITEMS, config.windows_per_item)))
        return passes


def pair(config: TokenizerConfig, change: Callable[[RecognitionModel], None]) -> Pair:
    """A model with random weights, some of which are changed."""
    torch.manual_seed(0)
    model = Autoencoder(config).eval()
    with torch.no_grad():
        change(model.autoregressive)
    return Pair(model, onnxruntime.InferenceSession(export_encoder(model).SerializeToString()))


def depend_on_earlier_codes(model: RecognitionModel) -> None:
    model.code_embedding.weight.mul_(4.0)
    model.head.weight.mul_(4.0)


def ignore_earlier_codes(model: RecognitionModel) -> None:
    model.code_embedding.weight.zero_()


def count_up(model: RecognitionModel) -> None:
    """The code at t + 1 is the one after that at t: one more code is right after every pass, and no sooner."""
    for block in model.decoder_blocks:
        for layer in (block.self_attention.out, block.cross_attention.out, block.feed_forward.down):
            layer.weight.zero_()
        block.feed_forward.down.bias.zero_()
    model.positions.zero_()
    codes = torch.eye(model.vocab_size)
    model.code_embedding.weight.copy_(codes)
    model.head.weight.copy_(10 * codes.roll(1, 0))


@pytest.fixture(scope="module")
def dependent() -> Pair:
    return pair(TINY_WINDOWS, depend_on_earlier_codes)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_codes_are_those_of_the_sequential_loop_and_take_at_most_a_pass_each(
    dependent: Pair, temperature: float
) -> None:
    passes = dependent.compare(temperature)
    assert passes.min() >= 2 and passes.max() <= min(dependent.model.config.codes_per_window, MAX_PASSES) + 1


def test_codes_that_depend_on_the_one_before_are_left_to_the_loop() -> None:
    assert (pair(TINY_GRID, count_up).compare(0.0) == MAX_PASSES + 1).all()


def test_codes_that_depend_on_the_input_alone_take_the_two_passes_that_show_it() -> None:
    clear = pair(TINY_GRID, ignore_earlier_codes)
    assert (clear.compare(0.0) == 2).all() and (clear.compare(1.0) == 2).all()


def test_rows_that_have_settled_take_no_further_part(dependent: Pair) -> None:
    assert len(np.unique(dependent.compare(1.0))) > 1


@pytest.mark.parametrize("config", [TINY_MLP, TINY_GRID, TINY_WINDOWS, TINY_SPECTRAL], ids=lambda config: config.name)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_samples_that_share_an_item_are_those_of_the_loop(config: TokenizerConfig, temperature: float) -> None:
    torch.manual_seed(0)
    model = Autoencoder(config).eval().autoregressive
    context, uniform = model.context(torch.randn(2, *config.input_shape)), torch.rand(6, config.num_tokens)
    loop, passes = (sample_codes(model, context, uniform, temperature, max_passes=most) for most in (0, 8))
    assert torch.equal(passes.codes, loop.codes)
    torch.testing.assert_close(passes.log_probs, loop.log_probs, atol=1e-4, rtol=1e-4)
