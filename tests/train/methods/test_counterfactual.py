"""Counterfactual credit against enumeration: the target is Eq. 5 restricted to the codes that were compared."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.sweep import objective_of, on_device
from daps_tokenizer.neighbourhoods import groups_of_codes
from tests.settings import TINY_GRID, TINY_MLP
from train.code_search import CodeSearch
from train.methods.base import Batch, beta_schedule, reward_of_codes
from train.methods.counterfactual import (
    Alternatives,
    compare_alternatives,
    cross_entropy_to,
    divergence,
    improved_log_policy,
)
from train.methods.daps import DAPS, DAPSSettings

ETA, BETA = torch.tensor(2.0, dtype=torch.float64), 0.7
VOCAB_SIZE = 6


def toy(num_alternatives: int, seed: int = 0) -> tuple[Tensor, Tensor, Alternatives]:
    """Three items of two positions: logits (B, N, V), what each code is worth, and M alternatives compared."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 2, VOCAB_SIZE, generator=generator, dtype=torch.float64)
    worth = 3 * torch.randn(3, 2, VOCAB_SIZE, generator=generator, dtype=torch.float64)
    groups = on_device(groups_of_codes(TINY_MLP), torch.device("cpu"))[:2]
    groups = [type(group)(group.positions, torch.ones(2, 1, dtype=torch.float64)) for group in groups]
    codes = logits.flip(-1).argmax(-1)  # any codes will do
    compared = compare_alternatives(
        lambda tried: worth.gather(-1, tried[..., None])[..., 0],
        codes,
        logits.log_softmax(-1),
        num_alternatives,
        groups,
    )
    return logits, worth, compared


def test_with_all_codes_compared_the_target_is_equation_5() -> None:
    logits, worth, compared = toy(VOCAB_SIZE - 1)
    expected = ((worth + ETA * logits.log_softmax(-1)) / (ETA + BETA)).softmax(-1)
    found = torch.zeros_like(expected).scatter(-1, compared.codes, improved_log_policy(compared, ETA, BETA).exp())
    torch.testing.assert_close(found, expected)


def test_codes_that_were_not_compared_keep_their_probability_and_the_others_their_mass() -> None:
    logits, worth, compared = toy(2)
    q = logits.softmax(-1)
    mass = q.gather(-1, compared.codes).sum(-1)
    found = improved_log_policy(compared, ETA, BETA).exp()
    torch.testing.assert_close(found.sum(-1), mass)
    inside = worth.gather(-1, compared.codes)
    expected = mass[..., None] * ((inside + ETA * compared.log_q) / (ETA + BETA)).softmax(-1)
    torch.testing.assert_close(found, expected)


def test_the_gradient_is_that_of_the_cross_entropy_to_the_whole_target() -> None:
    logits, _, compared = toy(2)
    logits.requires_grad_()
    log_improved = improved_log_policy(compared, ETA, BETA)
    target = logits.detach().softmax(-1).scatter(-1, compared.codes, log_improved.exp())
    exact = -(target * logits.log_softmax(-1)).sum((1, 2)).mean()
    (expected,) = torch.autograd.grad(exact, logits, retain_graph=True)
    (found,) = torch.autograd.grad(cross_entropy_to(compared, log_improved, logits), logits)
    torch.testing.assert_close(found, expected)


@given(seed=st.integers(0, 10_000), eta=st.floats(1e-2, 1e3), beta=st.floats(1e-3, 10), alternatives=st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_the_target_never_lowers_the_regularised_objective(
    seed: int, eta: float, beta: float, alternatives: int
) -> None:
    """Σ q A + β H(q) over the compared codes rises by η KL(q* ‖ q) or more (paper, Eq. 3 to 5)."""
    _, _, compared = toy(alternatives, seed)
    log_improved = improved_log_policy(compared, eta, beta)

    def objective(log_policy: Tensor) -> Tensor:
        return (log_policy.exp() * (compared.advantages - beta * log_policy)).sum(-1)

    gain = objective(log_improved) - objective(compared.log_q)
    moved = (log_improved.exp() * (log_improved - compared.log_q)).sum(-1)
    assert (gain >= eta * moved - 1e-9).all()


def test_without_alternatives_nothing_is_learnt() -> None:
    logits, _, compared = toy(0)
    logits.requires_grad_()
    log_improved = improved_log_policy(compared, ETA, BETA)
    (gradient,) = torch.autograd.grad(cross_entropy_to(compared, log_improved, logits), logits)
    assert gradient.abs().max() < 1e-12
    assert float(divergence(compared, log_improved)) == pytest.approx(0.0, abs=1e-12)


def test_an_advantage_is_the_change_of_log_p_near_the_code_when_its_lattice_is_replaced() -> None:
    torch.manual_seed(0)
    model = Autoencoder(TINY_GRID).eval()
    x, codes = torch.randn(2, *TINY_GRID.input_shape), torch.randint(TINY_GRID.vocab_size, (2, TINY_GRID.num_tokens))
    log_q = torch.randn(2, TINY_GRID.num_tokens, TINY_GRID.vocab_size).log_softmax(-1)
    evaluate = objective_of(model, x, "log_likelihood")
    groups = on_device(groups_of_codes(TINY_GRID), torch.device("cpu"))
    with torch.no_grad():
        found = compare_alternatives(evaluate, codes, log_q, 2, groups)
        before = evaluate(codes)
        group = groups[4]
        for p, position in enumerate(group.positions.tolist()):
            lattice = codes.clone()  # codes of a lattice are replaced together, as their windows do not overlap
            lattice[:, group.positions] = found.codes[:, group.positions, 1]
            expected = (evaluate(lattice) - before) @ group.windows[:, p]
            torch.testing.assert_close(found.advantages[:, position, 1], expected.float())
    assert (found.codes[..., 0] == codes).all() and (found.advantages[..., 0] == 0).all()
    assert (found.codes[..., 1:] != codes[..., None]).all()


@pytest.mark.parametrize("config", [TINY_GRID, TINY_MLP], ids=lambda config: config.name)
def test_counterfactual_steps_raise_log_p_of_samples(config) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model = Autoencoder(config)
    chosen = DAPSSettings(
        num_samples=1, credit="counterfactual", trust_region="solved", kl_target=0.05, alternatives=4, beta_initial=0.1
    )
    method = DAPS(model, chosen).train()
    images = torch.randint(0, 256, (8, *config.input_shape), dtype=torch.uint8)
    optimiser = torch.optim.Adam(model.recognition.parameters(), lr=3e-3)  # the generative model is left alone
    values = []
    for step in range(45):
        losses = method(Batch(images), torch.Generator().manual_seed(step), 0.5)
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        values.append(float(losses.metrics["log_p"]))
        assert float(losses.metrics["kl"]) == pytest.approx(0.05, abs=1e-3)
    assert sum(values[-10:]) > sum(values[:10])


@pytest.mark.parametrize("weight", [0.0, 2.5])
def test_the_reward_counts_squared_errors_for_both_models(weight: float) -> None:
    torch.manual_seed(0)
    model = Autoencoder(TINY_GRID)
    chosen = DAPSSettings(num_samples=1, credit="counterfactual", alternatives=2, squared_error_weight=weight)
    method = DAPS(model, chosen).eval()
    images = torch.randint(0, 256, (3, *TINY_GRID.input_shape), dtype=torch.uint8)
    rollout = method.rollout(images, torch.Generator().manual_seed(0))

    def reward(codes: Tensor) -> Tensor:
        values = model.cell_values(rollout.x, codes)
        return (values.log_likelihood - weight * values.squared_error).double()

    of_codes = reward_of_codes(model, rollout.x, weight)(rollout.codes)
    torch.testing.assert_close(of_codes, reward(rollout.codes), rtol=1e-5, atol=1e-5)

    losses = method(Batch(images), torch.Generator().manual_seed(0), 0.5)
    groups = on_device(groups_of_codes(TINY_GRID), torch.device("cpu"))
    log_q = rollout.logits.detach().log_softmax(-1)
    compared = compare_alternatives(reward, rollout.codes, log_q, 2, groups)
    beta = beta_schedule(chosen.beta_initial, chosen.beta_final, 0.5)
    better = improved_log_policy(compared, losses.metrics["eta"], beta)
    loss_theta = cross_entropy_to(compared, better, rollout.logits)
    loss_eta = (losses.metrics["kl"] - chosen.kl_target) ** 2
    expected = loss_theta + loss_eta - reward(rollout.codes).sum(1).mean()
    torch.testing.assert_close(losses.total.double(), expected, rtol=1e-5, atol=1e-4)


def test_alternatives_are_judged_by_the_running_statistics_which_the_one_training_decode_moves() -> None:
    torch.manual_seed(0)
    model = Autoencoder(TINY_GRID)
    norms = [part for part in model.generative.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    modes = []
    norms[0].register_forward_hook(lambda module, inputs, output: modes.append(module.training))
    method = DAPS(model, DAPSSettings(num_samples=1, credit="counterfactual")).train()
    images = torch.randint(0, 256, (2, *TINY_GRID.input_shape), dtype=torch.uint8)
    method(Batch(images), torch.Generator().manual_seed(0), 0.5)
    assert modes[0] and not any(modes[1:]) and len(modes) > 2
    assert all(norm.training and int(norm.num_batches_tracked) == 1 for norm in norms)


@pytest.mark.parametrize(("kl_target", "sign"), [(1e-6, -1.0), (10.0, 1.0)], ids=["too far", "too near"])
def test_a_learned_eta_grows_where_the_step_goes_too_far_and_falls_where_it_could_go_further(
    kl_target: float, sign: float
) -> None:
    torch.manual_seed(0)
    chosen = DAPSSettings(num_samples=1, credit="counterfactual", kl_target=kl_target, eta_initial=1.0)
    method = DAPS(Autoencoder(TINY_GRID), chosen).train()
    images = torch.randint(0, 256, (2, *TINY_GRID.input_shape), dtype=torch.uint8)
    method(Batch(images), torch.Generator().manual_seed(0), 1.0).total.backward()
    assert math.copysign(1.0, float(method.trust_region.log_eta.grad)) == sign


def test_settings_that_counterfactual_credit_cannot_use_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_samples must be 1 with counterfactual credit, not 8"):
        DAPSSettings(credit="counterfactual")
    with pytest.raises(ConfigError, match="eta_learning_rate must be at least 0, not -1"):
        DAPSSettings(eta_learning_rate=-1.0)
    with pytest.raises(ConfigError, match="alternatives must be at least 0, not -1"):
        DAPSSettings(num_samples=1, credit="counterfactual", alternatives=-1)
    with pytest.raises(ConfigError, match="squared_error_weight must be finite and at least 0, not nan"):
        DAPSSettings(squared_error_weight=float("nan"))
    with pytest.raises(ConfigError, match="a search has an objective of its own"):
        DAPSSettings(squared_error_weight=1.0, search=CodeSearch())
    with pytest.raises(ConfigError, match="no further rewards"):
        DAPSSettings(num_samples=1, credit="counterfactual", rewards={"class": 1.0})
    with pytest.raises(ConfigError, match="trust_region must be one of learned, solved"):
        DAPSSettings(trust_region="fixed")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="alternatives must be less than the 16 codes, not 16"):
        DAPS(Autoencoder(TINY_MLP), DAPSSettings(num_samples=1, credit="counterfactual", alternatives=16))
