"""Training draws its samples in passes: the codes of the loop over positions, with their logits and gradients."""

import pytest
import torch

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.sampling import invert_cdf, sample_codes
from tests.settings import TINY_GRID, TINY_MLP, TINY_SPECTRAL, TINY_WINDOWS
from train.methods.base import Batch
from train.methods.daps import DAPS, DAPSSettings
from train.sampling import draw_in_passes, sample_by_bisection

CONFIGS = [TINY_MLP, TINY_GRID, TINY_WINDOWS, TINY_SPECTRAL]
ITEMS, SAMPLES = 5, 3


def model_that_depends_on_earlier_codes(config: TokenizerConfig, how_much: float) -> Autoencoder:
    """Random weights; with 0 codes do not depend on those before them at all, with 1 they do through and through."""
    torch.manual_seed(1)
    model = Autoencoder(config).eval()
    with torch.no_grad():
        model.autoregressive.code_embedding.weight.mul_(how_much)
    return model


def context_and_uniform(model: Autoencoder) -> tuple:
    recognition = model.autoregressive
    x = torch.randn(ITEMS, *model.config.input_shape)
    return recognition.context(x), torch.rand(ITEMS * SAMPLES, model.config.num_tokens)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
@pytest.mark.parametrize("how_much", [0.0, 0.1, 4.0])
def test_codes_are_those_of_the_loop_and_logits_those_of_a_pass_over_them(config, how_much: float) -> None:
    model = model_that_depends_on_earlier_codes(config, how_much)
    recognition, (context, uniform) = model.autoregressive, context_and_uniform(model)
    drawn = draw_in_passes(recognition, context, uniform)
    assert torch.equal(drawn.codes, sample_codes(recognition, context, uniform, span=1).codes)
    torch.testing.assert_close(drawn.logits, recognition.logits(context, drawn.codes))
    # Codes that depend on no other take the two passes that show it; otherwise some rows take more, or the loop less.
    assert (drawn.passes == 2) == (how_much == 0)


def test_in_bfloat16_training_codes_are_those_that_float32_draws_and_logits_are_close() -> None:
    model = model_that_depends_on_earlier_codes(TINY_GRID, 1.0)
    recognition, (context, uniform) = model.autoregressive, context_and_uniform(model)
    expected = draw_in_passes(recognition, context, uniform)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        drawn = draw_in_passes(recognition, context, uniform)
    assert torch.equal(drawn.codes, expected.codes)
    assert not torch.equal(drawn.logits, expected.logits)
    torch.testing.assert_close(drawn.logits, expected.logits, atol=0.05, rtol=0.05)


def test_bisection_draws_the_codes_of_the_inverse_cdf() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(1000, 64, generator=generator)
    logits[0, :10] = -torch.inf  # a code that has no probability is not drawn
    uniform = torch.rand(1000, generator=generator)
    uniform[0], uniform[1] = 0.0, 1 - 2**-24
    temperature = torch.ones(())
    drawn = sample_by_bisection(logits, uniform, temperature)
    assert drawn.tolist() == invert_cdf(logits, uniform, temperature).tolist()
    assert drawn[0] == 10


def test_many_samples_are_drawn_in_turn_where_codes_depend_on_each_other_and_the_same() -> None:
    model = model_that_depends_on_earlier_codes(TINY_MLP, 4.0)
    recognition, samples = model.autoregressive, 100
    context = recognition.context(torch.randn(ITEMS, *TINY_MLP.input_shape))
    uniform = torch.rand(ITEMS * samples, TINY_MLP.num_tokens)
    drawn, few = draw_in_passes(recognition, context, uniform), draw_in_passes(recognition, context, uniform[::samples])
    # Of many, four of the eight codes take at most four passes, and then the loop draws the others; few have no loop.
    assert drawn.passes <= (4 * 4 + 4) / 8 < few.passes
    assert torch.equal(drawn.codes, sample_codes(recognition, context, uniform).codes)
    assert torch.equal(drawn.codes[::samples], few.codes)


def test_the_logits_have_the_gradient_of_one_pass_over_the_codes() -> None:
    model = model_that_depends_on_earlier_codes(TINY_GRID, 4.0)
    recognition, (context, uniform) = model.autoregressive, context_and_uniform(model)
    drawn = draw_in_passes(recognition, context, uniform)
    parameters, weights = list(recognition.parameters()), torch.randn_like(drawn.logits)
    found = torch.autograd.grad((drawn.logits * weights).sum(), parameters, retain_graph=True)
    expected = torch.autograd.grad((recognition.logits(context, drawn.codes) * weights).sum(), parameters)
    torch.testing.assert_close(found, expected)


def test_training_records_how_many_passes_its_samples_took() -> None:
    method = DAPS(
        model_that_depends_on_earlier_codes(TINY_GRID, 0.0), DAPSSettings(num_samples=SAMPLES, ess_target=0.5)
    )
    batch = Batch(torch.randint(0, 256, (ITEMS, 16, 16, 3), dtype=torch.uint8))
    assert method(batch, torch.Generator().manual_seed(0), 0.5).metrics["passes"] == 2
