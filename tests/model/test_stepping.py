"""Drawing codes by steps that can be captured: the same codes as the plain loop, on the CPU and run eagerly."""

from dataclasses import replace

import pytest
import torch

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.sampling import Draw, sample_codes
from daps_tokenizer.model.stepping import SteppedDraw, plan_stretches
from tests.settings import CIFAR10, TINY_GRID, TINY_MLP

TINY_WINDOWED = replace(TINY_GRID, recognition=replace(TINY_GRID.recognition, window=(2, 2)))


def model_and_inputs(config: TokenizerConfig, batch: int) -> tuple[RecognitionModel, torch.Tensor]:
    torch.manual_seed(0)
    model = Autoencoder(config).eval().requires_grad_(False).recognition
    assert isinstance(model, RecognitionModel)
    return model, torch.randn(batch, *config.input_shape)


@pytest.mark.parametrize("num_codes", [1, 8, 16, 20, 64, 100, 1024])
def test_stretches_cover_every_position_once_and_read_no_less_than_they_need(num_codes: int) -> None:
    drawn = 0
    for stretch in plan_stretches(num_codes):
        drawn += stretch.steps * stretch.repeats
        assert drawn == stretch.length
    assert drawn == num_codes and len(plan_stretches(num_codes)) <= 16


def test_long_loops_need_few_graphs_and_read_half_of_the_cache() -> None:
    plan = plan_stretches(1024)
    assert sum(stretch.steps for stretch in plan) == 128  # steps captured, for 1,024 that run
    read = sum(stretch.length * stretch.steps * stretch.repeats for stretch in plan)
    assert read / 1024**2 == pytest.approx(0.53, abs=0.005)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("config", [TINY_MLP, TINY_GRID, TINY_WINDOWED, CIFAR10], ids=lambda config: config.name)
@pytest.mark.parametrize("samples", [1, 3])
def test_the_codes_are_those_of_the_plain_loop(config: TokenizerConfig, samples: int, temperature: float) -> None:
    model, x = model_and_inputs(config, 2)
    context = model.context(x)
    uniform = torch.rand(2 * samples, config.num_tokens)
    expected = sample_codes(model, context, uniform, temperature, span=1)
    stepped = SteppedDraw(model, Draw.allocate(model, context, uniform))
    stepped.temperature.fill_(temperature)
    for _ in range(2):  # what the buffers hold does not matter
        stepped.run()
        assert torch.equal(model.windows.join(stepped.draw.codes, 2), expected.codes)
        torch.testing.assert_close(model.windows.join(stepped.draw.log_probs, 2), expected.log_probs)


def test_another_context_is_drawn_from_in_place() -> None:
    model, x = model_and_inputs(TINY_GRID, 4)
    uniform = torch.rand(2, TINY_GRID.num_tokens)
    stepped = SteppedDraw(model, Draw.allocate(model, model.context(x[:2]), uniform))
    stepped.run()
    stepped.set_context(model.context(x[2:]))
    stepped.run()
    assert torch.equal(stepped.draw.codes, sample_codes(model, model.context(x[2:]), uniform, span=1).codes)


def test_bfloat16_draws_nearly_the_same_log_probs() -> None:
    model, x = model_and_inputs(TINY_GRID, 3)
    model, x = model.to(torch.bfloat16), x.to(torch.bfloat16)
    uniform = torch.rand(3, TINY_GRID.num_tokens)
    expected = sample_codes(model, model.context(x), uniform, 0.0, span=1)
    stepped = SteppedDraw(model, Draw.allocate(model, model.context(x), uniform))
    stepped.temperature.zero_()
    stepped.run()
    assert (stepped.draw.codes == expected.codes).float().mean() > 0.9


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_captured_steps_draw_what_eager_ones_do() -> None:
    model, x = model_and_inputs(CIFAR10, 2)
    model, x = model.cuda(), x.cuda()
    uniform = torch.rand(2, CIFAR10.num_tokens, device="cuda")
    stepped = SteppedDraw(model, Draw.allocate(model, model.context(x), uniform))
    stepped.capture()
    stepped.run()
    assert torch.equal(stepped.draw.codes, sample_codes(model, model.context(x), uniform).codes)
