"""Drawing spans in passes, by torch and by ``encoder.onnx``, gives the codes of the sequential loop."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.model import sampling
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.sampling import first_span, loop_is_quicker, sample_codes, settle
from export.check import random_inputs
from export.encoder import export_encoder
from tests.settings import TINY_GRID, TINY_MLP, TINY_SPECTRAL, TINY_SURROUNDINGS, TINY_WINDOWS

ITEMS = 4


class Pair(NamedTuple):
    """The same weights in torch, drawn position by position, and as ``encoder.onnx``."""

    model: Autoencoder
    session: onnxruntime.InferenceSession
    span: int | None

    def compare(self, temperature: float, items: int = ITEMS, margin: int = 0) -> np.ndarray:
        """Assert that all ways give the same codes and log-probabilities; returns the passes (B, W).

        Images have ``margin`` more pixels on every side.
        """
        config, recognition = self.model.config, self.model.autoregressive
        if margin:
            height, width, channels = config.input_shape
            shape = (height + 2 * margin, width + 2 * margin, channels)
            inputs = np.random.default_rng(0).integers(0, 256, (items, *shape), np.uint8)
        else:
            inputs = random_inputs(config, items)
        uniform = np.random.default_rng(1).random((items, config.num_tokens), dtype=np.float32)
        with torch.no_grad():
            context = recognition.context(self.model.standardise(torch.from_numpy(inputs)))
            numbers = torch.from_numpy(uniform)
            expected = sample_codes(recognition, context, numbers, temperature, span=1)
            rows = recognition.windows.split(numbers, items)
            settled = settle(recognition, context, rows, torch.tensor(temperature), span=self.span)
        feed = {"images": inputs, "uniform": uniform, "temperature": np.array(temperature, np.float32)}
        codes, log_probs, passes = self.session.run(["codes", "log_probs", "passes"], feed)
        np.testing.assert_array_equal(codes, expected.codes)
        np.testing.assert_allclose(log_probs, expected.log_probs, atol=1e-4)
        np.testing.assert_array_equal(recognition.windows.join(settled.codes, items), expected.codes)
        np.testing.assert_allclose(recognition.windows.join(settled.log_probs, items), expected.log_probs, atol=1e-4)
        np.testing.assert_allclose(passes, settled.passes.unflatten(0, (items, config.windows_per_item)))
        return passes


def pair(config: TokenizerConfig, change: Callable[[RecognitionModel], None], span: int | None = None) -> Pair:
    """A model with random weights, some of which are changed, drawn by spans of a length or as is quickest."""
    torch.manual_seed(0)
    model = Autoencoder(config).eval()
    change(model.autoregressive)
    return Pair(model, onnxruntime.InferenceSession(export_encoder(model, span=span).SerializeToString()), span)


@torch.no_grad()
def depend_on_earlier_codes(model: RecognitionModel) -> None:
    model.code_embedding.weight.mul_(4.0)
    model.head.weight.mul_(4.0)


@torch.no_grad()
def ignore_earlier_codes(model: RecognitionModel) -> None:
    model.code_embedding.weight.zero_()


@torch.no_grad()
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
def test_codes_are_those_of_the_sequential_loop(dependent: Pair, temperature: float) -> None:
    dependent.compare(temperature)


def test_codes_that_count_up_take_a_pass_for_each_code_of_a_span() -> None:
    positions = TINY_GRID.codes_per_window
    assert first_span(ITEMS, positions) == positions  # few rows: all positions at once
    assert (pair(TINY_GRID, count_up).compare(0.0) == positions).all()


def test_codes_that_depend_on_the_input_alone_take_the_two_passes_that_show_it() -> None:
    clear = pair(TINY_GRID, ignore_earlier_codes)
    assert (clear.compare(0.0) == 2).all() and (clear.compare(1.0) == 2).all()


def test_rows_that_have_settled_take_no_further_part() -> None:
    assert len(np.unique(pair(TINY_GRID, depend_on_earlier_codes).compare(1.0))) > 1


def test_many_rows_whose_codes_depend_on_each_other_go_on_one_position_at_a_time() -> None:
    many, positions = 4 * ITEMS, TINY_GRID.codes_per_window
    first = first_span(many, positions)
    assert 1 < first < positions and loop_is_quicker(many, first, computed=first * first * many, calls=first)
    passes = pair(TINY_GRID, count_up).compare(0.0, items=many)
    np.testing.assert_allclose(passes, (first * first + positions - first) / positions)


def test_what_passes_cost_counts_the_rows_that_had_not_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    monkeypatch.setattr(sampling, "loop_is_quicker", lambda rows, span, computed, calls: counted.append(computed))
    torch.manual_seed(0)
    model = Autoencoder(TINY_GRID).eval().autoregressive
    depend_on_earlier_codes(model)
    context, uniform = model.context(torch.randn(20, *TINY_GRID.input_shape)), torch.rand(20, TINY_GRID.num_tokens)
    settled = settle(model, context, uniform, torch.ones(()))
    assert sum(counted) == settled.passes.sum() * TINY_GRID.codes_per_window
    assert len(settled.passes.unique()) > 1 and len(counted) > 1


def test_many_rows_whose_codes_do_not_go_on_in_ever_longer_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []

    def draw_span(*arguments: Any) -> sampling.SampledCodes:
        lengths.append(len(arguments[3]))
        return draw(*arguments)

    draw = sampling.draw_span
    independent = pair(TINY_GRID, ignore_earlier_codes)
    monkeypatch.setattr(sampling, "draw_span", draw_span)
    assert (independent.compare(0.0, items=4 * ITEMS) == 2).all()
    assert lengths == [*[1] * 16, 4, 4, 7, 7, 5, 5]  # of the loop, and two passes over each span of 16 positions


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_later_spans_attend_to_the_codes_that_earlier_ones_settled_on(temperature: float) -> None:
    pair(TINY_GRID, depend_on_earlier_codes).compare(temperature, items=4 * ITEMS)
    for span in (3, 5):
        pair(TINY_GRID, depend_on_earlier_codes, span=span).compare(temperature)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_graph_sees_the_surroundings_of_patches_and_of_images_as_torch_does(temperature: float) -> None:
    seeing = pair(TINY_SURROUNDINGS, depend_on_earlier_codes)
    seeing.compare(temperature)
    seeing.compare(temperature, margin=TINY_SURROUNDINGS.recognition.surroundings)


@pytest.mark.parametrize("span", [1, 2, 3, 5, 64])
def test_every_span_gives_the_same_codes_and_their_log_q(dependent: Pair, span: int) -> None:
    config, recognition = dependent.model.config, dependent.model.autoregressive
    context = recognition.context(torch.randn(ITEMS, *config.input_shape))
    uniform = torch.rand(ITEMS, config.num_tokens)
    drawn = sample_codes(recognition, context, uniform, span=span)
    assert torch.equal(drawn.codes, sample_codes(recognition, context, uniform, span=1).codes)
    torch.testing.assert_close(drawn.log_probs, recognition.log_prob(context, drawn.codes), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("config", [TINY_MLP, TINY_GRID, TINY_WINDOWS, TINY_SPECTRAL], ids=lambda config: config.name)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_samples_that_share_an_item_are_those_of_the_loop(config: TokenizerConfig, temperature: float) -> None:
    torch.manual_seed(0)
    model = Autoencoder(config).eval().autoregressive
    context, uniform = model.context(torch.randn(2, *config.input_shape)), torch.rand(6, config.num_tokens)
    loop, passes = (sample_codes(model, context, uniform, temperature, span=span) for span in (1, None))
    assert torch.equal(passes.codes, loop.codes)
    torch.testing.assert_close(passes.log_probs, loop.log_probs, atol=1e-4, rtol=1e-4)
