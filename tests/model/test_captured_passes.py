"""Passes that can be captured: the same codes as the sequential loop, whether or not they settle in time."""

from typing import Any

import pytest
import torch

from daps_tokenizer.backends import torch_cuda
from daps_tokenizer.hub import open_model
from daps_tokenizer.model.autoencoder import Autoencoder, load_weights
from daps_tokenizer.model.passes import PassesDraw
from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.sampling import Draw, SampledCodes, choose_with_log_q, sample_codes
from daps_tokenizer.model.stepping import SteppedDraw
from export.check import random_inputs
from tests.model.test_stepping import TINY_WINDOWED, model_and_inputs
from tests.settings import TINY_GRID


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("config", [TINY_GRID, TINY_WINDOWED], ids=lambda config: config.name)
def test_codes_of_a_random_model_that_do_not_settle_are_left_to_the_loop(config, temperature: float) -> None:
    model, x = model_and_inputs(config, 3)
    context, uniform = model.context(x), torch.rand(3, config.num_tokens)
    expected = sample_codes(model, context, uniform, temperature, span=1)
    drawer = PassesDraw(model, SteppedDraw(model, Draw.allocate(model, context, uniform)), passes=(2, 1, 3))
    drawer.temperature.fill_(temperature)
    drawer.run(greedy=temperature == 0)
    assert torch.equal(model.windows.join(drawer.draw.codes, 3), expected.codes)
    torch.testing.assert_close(model.windows.join(drawer.draw.log_probs, 3), expected.log_probs)


def drawer_and_expected(batch: int, rest: type[SteppedDraw], **options: Any) -> tuple[PassesDraw, torch.Tensor]:
    model, x = model_and_inputs(TINY_GRID, batch)
    context, uniform = model.context(x), torch.rand(batch, TINY_GRID.num_tokens)
    drawer = PassesDraw(model, rest(model, Draw.allocate(model, context, uniform)), **options)
    drawer.temperature.fill_(1.0)
    return drawer, sample_codes(model, context, uniform, 1.0, span=1).codes


def test_a_small_batch_gets_as_many_passes_as_settle_every_row() -> None:
    class Never(SteppedDraw):
        def run(self) -> None:
            raise AssertionError("steps cost more than passes here")

    drawer, expected = drawer_and_expected(3, Never)
    drawer.run()
    assert torch.equal(drawer.draw.codes, expected)


@pytest.mark.parametrize(("batch", "passes_made"), [(16, 0), (15, 4)])  # 15 rows are too few to judge by
def test_rows_of_which_passes_settle_hardly_any_are_left_to_the_rest_from_the_beginning(
    batch: int, passes_made: int
) -> None:
    made = 0

    def choose(hidden: torch.Tensor, uniform: torch.Tensor, temperature: torch.Tensor, greedy: bool) -> SampledCodes:
        nonlocal made
        made += 1
        return choose_with_log_q(drawer.model.head(hidden), uniform, temperature)

    drawer, expected = drawer_and_expected(batch, SteppedDraw, passes=(2, 1, 4), choose=choose)
    drawer._rest_may_be_quicker = batch >= 16  # as in a large batch, or with the fused kernel
    drawer.find_what_is_quicker()
    drawer.temperature.fill_(1.0)
    for _ in range(2):
        made = 0
        drawer.run()
        assert made == passes_made
        assert torch.equal(drawer.draw.codes, expected)


@pytest.mark.parametrize(("name", "skips"), [("daps-photo-256", True), ("daps-cifar10", False), ("daps-mnist", False)])
def test_noise_shows_of_a_model_whether_passes_settle_its_windows(name: str, skips: bool) -> None:
    """As photographs do (docs/notes/gpu.md); 16 windows of a photograph, 16 images."""
    folder = open_model(name)
    model = Autoencoder(folder.config).eval().requires_grad_(False)
    load_weights(model, folder.file("model.safetensors"))
    shape = (1 if skips else 16, *folder.config.input_shape)
    fixed = torch_cuda._FixedSize(model, shape, torch.float32, "cpu", fused=False)
    fixed._drawer._rest_may_be_quicker = True  # as with the fused kernel
    fixed.find_what_is_quicker()
    assert fixed._drawer._without_passes == {True: skips, False: skips}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", ["daps-photo-256", "daps-cifar10", "daps-mnist", "daps-h1-motion"])
def test_passes_of_a_trained_model_settle_on_the_codes_of_the_loop(name: str, temperature: float) -> None:
    folder = open_model(name)
    model = Autoencoder(folder.config).eval().requires_grad_(False)
    load_weights(model, folder.file("model.safetensors"))
    recognition = model.recognition
    assert isinstance(recognition, RecognitionModel)
    # In the second item two codes of daps-photo-256 are equally probable, and with seed 0 a draw is 1e-5 from the next
    # code, where passes and steps may round to either side.
    inputs = torch.from_numpy(random_inputs(folder.config, 4)[2:])
    context = recognition.context(model.standardise(inputs))
    uniform = torch.rand(2, folder.config.num_tokens, generator=torch.Generator().manual_seed(1))
    expected = sample_codes(recognition, context, uniform, temperature, span=1)
    rest = SteppedDraw(recognition, Draw.allocate(recognition, context, uniform))
    drawer = PassesDraw(recognition, rest, passes=(40, 1, 40))
    drawer.temperature.fill_(temperature)
    drawer.run(greedy=temperature == 0)
    assert not drawer.unsettled.any()
    assert torch.equal(recognition.windows.join(drawer.draw.codes, 2), expected.codes)
    log_probs = recognition.windows.join(drawer.draw.log_probs, 2)
    torch.testing.assert_close(log_probs, expected.log_probs, atol=1e-3, rtol=1e-3)
