"""Gumbel-Softmax and GR-MCK against exact sums over a code of a few values."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from tests.settings import TINY_GRID, TINY_MLP, of_kind
from train.methods.gr_mck import GRMCKSettings, conditional_perturbations, rao_straight_through
from train.methods.gumbel import GumbelSettings, GumbelSoftmax, straight_through

LOGITS = torch.tensor([0.3, -1.0, 0.9, 0.1], dtype=torch.float64)
LINEAR = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
DRAWS = 40_000


def exact_gradient() -> Tensor:
    """Of E[a · z] with respect to the logits."""
    logits = LOGITS.clone().requires_grad_()
    return torch.autograd.grad((logits.softmax(0) * LINEAR).sum(), logits)[0]


def gradients(estimator: str, temperature: float, draws: int = DRAWS) -> tuple[Tensor, Tensor]:
    """One-hot codes and the gradient of a · z for each of many draws, (draws, V)."""
    logits = LOGITS.repeat(draws, 1).requires_grad_()
    generator = torch.Generator().manual_seed(0)
    codes = (
        straight_through(logits, generator, temperature)
        if estimator == "gumbel"
        else rao_straight_through(logits, generator, temperature, 20)
    )
    return codes.detach(), torch.autograd.grad((codes * LINEAR).sum(), logits)[0]


@pytest.mark.parametrize("estimator", ["gumbel", "gr_mck"])
def test_codes_are_drawn_as_they_are_probable_and_are_one_hot(estimator: str) -> None:
    codes, _ = gradients(estimator, 1.0)
    assert set(codes.unique().tolist()) == {0.0, 1.0} and bool((codes.sum(-1) == 1).all())
    torch.testing.assert_close(codes.mean(0), LOGITS.softmax(0), atol=0.01, rtol=0)


@pytest.mark.parametrize("estimator", ["gumbel", "gr_mck"])
def test_the_gradient_is_biased_and_the_bias_goes_with_the_temperature(estimator: str) -> None:
    exact = exact_gradient()
    errors = [float((gradients(estimator, t)[1].mean(0) - exact).norm() / exact.norm()) for t in (2.0, 1.0, 0.1)]
    assert errors[0] > errors[1] > 0.1 > errors[2]


def test_rao_blackwellisation_keeps_the_mean_of_the_gradient_and_lowers_its_variance() -> None:
    (_, plain), (_, averaged) = gradients("gumbel", 0.5), gradients("gr_mck", 0.5)
    spread = (plain.var(0) + averaged.var(0)).div(DRAWS).sqrt()
    assert bool(((plain.mean(0) - averaged.mean(0)).abs() < 4 * spread).all())
    assert float(averaged.var(0).sum()) < 0.7 * float(plain.var(0).sum())


def test_conditional_noise_would_have_drawn_the_same_codes() -> None:
    logits, codes = torch.randn(5, 3, 7), torch.randint(7, (5, 3))
    perturbed = conditional_perturbations(logits, codes, 50, torch.Generator().manual_seed(0))
    assert torch.equal(perturbed.argmax(-1), codes.expand(50, 5, 3))


def test_over_all_codes_conditional_noise_is_gumbel_noise() -> None:
    codes = torch.multinomial(LOGITS.softmax(0), DRAWS, replacement=True, generator=torch.Generator().manual_seed(1))
    logits = LOGITS.repeat(DRAWS, 1)
    noise = conditional_perturbations(logits, codes, 1, torch.Generator().manual_seed(2))[0] - logits.log_softmax(-1)
    torch.testing.assert_close(noise.mean(0), torch.full((4,), 0.5772, dtype=torch.float64), atol=0.03, rtol=0)
    torch.testing.assert_close(noise.var(0), torch.full((4,), math.pi**2 / 6, dtype=torch.float64), atol=0.08, rtol=0)
    torch.testing.assert_close(torch.corrcoef(noise.T), torch.eye(4, dtype=torch.float64), atol=0.03, rtol=0)


def method(kind: str, config: TokenizerConfig = TINY_MLP) -> GumbelSoftmax:
    torch.manual_seed(0)
    return GumbelSoftmax(Autoencoder(of_kind(config, kind)), GumbelSettings())


WINDOWED = replace(TINY_GRID, recognition=replace(TINY_GRID.recognition, window=(2, 2)))


@pytest.mark.parametrize("kind", ["autoregressive", "independent"])
@pytest.mark.parametrize("config", [TINY_MLP, WINDOWED], ids=["whole", "windows"])
def test_the_codes_that_are_fed_back_are_those_that_were_drawn(kind: str, config: TokenizerConfig) -> None:
    ours, x = method(kind, config), torch.rand(3, *config.input_shape).round()
    relaxed = ours._encode(x, torch.Generator().manual_seed(0), 1.0)
    codes, recognition = relaxed.codes.argmax(-1), ours.model.recognition
    torch.testing.assert_close(relaxed.logits, recognition.logits(recognition.context(x), codes), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kind", "through_time"), [("autoregressive", True), ("independent", False)])
def test_gradients_flow_back_through_earlier_codes_where_there_are_any(kind: str, through_time: bool) -> None:
    ours = method(kind)
    relaxed = ours._encode(torch.rand(3, 28, 28, 1).round(), torch.Generator().manual_seed(0), 1.0)
    (found,) = torch.autograd.grad(relaxed.logits[:, -1].sum(), ours.model.recognition.head.bias)
    assert torch.allclose(found, torch.full((16,), 3.0)) != through_time


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="temperatures, betas and start_sharpness must be positive"):
        GumbelSettings(temperature_final=0.0)
    with pytest.raises(ConfigError, match="inner_samples must be at least 1, not 0"):
        GRMCKSettings(inner_samples=0)
    with pytest.raises(ConfigError, match="kind autoregressive or independent, not nearest"):
        method("nearest")
