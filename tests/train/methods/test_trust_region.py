"""η solved in every step: the target is met where some η meets it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from tests.settings import TINY_GRID, TINY_MLP
from train.methods.base import Batch
from train.methods.daps import DAPS, DAPSSettings
from train.methods.trust_region import solve_eta
from train.methods.weighted_samples import effective_sample_size, importance_weights


@given(seed=st.integers(0, 10_000), share=st.floats(0.3, 0.9), beta=st.floats(1e-3, 1.0))
@settings(max_examples=100, deadline=None)
def test_the_effective_sample_size_meets_its_target(seed: int, share: float, beta: float) -> None:
    num_samples = 8
    generator = torch.Generator().manual_seed(seed)
    rewards = 50 * torch.randn(16, num_samples, generator=generator, dtype=torch.float64)
    log_q = -20 - 3 * torch.rand(16, num_samples, generator=generator, dtype=torch.float64)
    target = share * num_samples

    def measured(eta: torch.Tensor) -> torch.Tensor:
        return effective_sample_size(importance_weights(rewards, log_q, eta, beta))

    eta = solve_eta(measured, lambda size: size < target, rewards)
    assert float(measured(eta)) == pytest.approx(target, abs=1e-3)


@pytest.mark.parametrize("credit", ["global", "local"])
def test_every_step_of_a_run_meets_the_target(credit) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    chosen = DAPSSettings(num_samples=4, credit=credit, trust_region="solved", ess_target=0.5, beta_initial=0.5)
    method = DAPS(Autoencoder(TINY_GRID), chosen).train()
    images = torch.randint(0, 256, (8, *TINY_GRID.input_shape), dtype=torch.uint8)
    optimiser = torch.optim.Adam(method.model.parameters(), lr=1e-3)
    for step in range(5):
        losses = method(Batch(images), torch.Generator().manual_seed(step), step / 5)
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        assert float(losses.metrics["ess"]) == pytest.approx(2.0, abs=1e-3)
    trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in trained)  # several processes wait for every gradient


def test_where_no_eta_moves_the_policy_too_far_the_least_is_returned() -> None:
    never, always = (lambda etas: etas < 0), (lambda etas: etas > 0)
    assert float(solve_eta(torch.clone, never, torch.zeros(1))) == pytest.approx(math.exp(-7), rel=1e-3)
    assert float(solve_eta(torch.clone, always, torch.zeros(1))) == pytest.approx(math.exp(18), rel=1e-3)


@pytest.mark.parametrize("log_eta", [-6.9, 0.0, 3.21, 17.9])
def test_the_eta_found_is_the_least_one(log_eta: float) -> None:
    found = float(solve_eta(torch.log, lambda measured: measured < log_eta, torch.zeros(1)).log())
    assert log_eta - 1e-5 <= found <= log_eta + 1.1e-4  # in float32


def test_with_a_large_beta_weights_are_more_even_than_the_target_and_eta_is_the_least() -> None:
    torch.manual_seed(0)
    chosen = DAPSSettings(num_samples=8, credit="local", trust_region="solved", beta_initial=50.0)
    images = torch.randint(0, 256, (4, *TINY_GRID.input_shape), dtype=torch.uint8)
    found = DAPS(Autoencoder(TINY_GRID), chosen)(Batch(images), torch.Generator().manual_seed(0), 0.0).metrics
    assert float(found["ess"]) > 0.33 * 8 + 0.1
    assert float(found["eta"]) == pytest.approx(math.exp(-7), rel=1e-3)


def test_a_target_below_one_sample_cannot_be_met_and_is_refused() -> None:
    for trust_region in ("learned", "solved"):
        with pytest.raises(ConfigError, match=r"ess_target 0\.2 of 4 samples is at most 1"):
            DAPSSettings(num_samples=4, ess_target=0.2, trust_region=trust_region)  # type: ignore[arg-type]


def test_a_learned_eta_still_moves_towards_its_target() -> None:
    torch.manual_seed(0)
    method = DAPS(Autoencoder(TINY_MLP), DAPSSettings(num_samples=4, beta_initial=0.5)).train()
    images = torch.randint(0, 256, (4, *TINY_MLP.input_shape), dtype=torch.uint8)
    method(Batch(images), torch.Generator().manual_seed(0), 0.0).total.backward()
    assert float(method.trust_region.log_eta.grad) != 0.0
