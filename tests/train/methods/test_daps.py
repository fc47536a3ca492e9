"""The DAPS losses against exact sums (paper, section 3 and Appendix A).

The trick throughout: where q(z) = count(z) / K, the K draws in which every outcome z appears count(z) times are a
perfect sample of q. Averages over them are expectations, so what training estimates must come out exactly right.
"""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.sampling import sample_codes
from tests.settings import TINY_GRID, TINY_MLP, TINY_MOTION
from train.methods.base import Batch, beta_schedule, sum_neighbourhood
from train.methods.daps import DAPS, DAPSSettings
from train.methods.weighted_samples import effective_sample_size, importance_weights

BETA, ETA = 0.7, torch.tensor(2.0, dtype=torch.float64)


class Enumerable:
    """A policy over few outcomes: logits to start from, log q of every outcome, and a perfect sample of it."""

    def __init__(self, logits: list[Tensor], log_q: Callable[[list[Tensor]], Tensor], num_draws: int) -> None:
        self.logits = [table.requires_grad_() for table in logits]
        self.log_q = log_q
        counts = (log_q(self.logits).exp() * num_draws).round().long()
        assert int(counts.sum()) == num_draws
        self.draws = torch.arange(len(counts)).repeat_interleave(counts)  # (K,) outcomes
        self.rewards = 3 * torch.randn(len(counts), dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def weights(self) -> Tensor:
        """The weights that training gives to the K draws."""
        log_q = self.log_q(self.logits).detach()
        return importance_weights(self.rewards[self.draws], log_q[self.draws], ETA, BETA)

    def better_policy(self) -> Tensor:
        """q* of Eq. 5, normalised over all outcomes."""
        return ((self.rewards + ETA * self.log_q(self.logits).detach()) / (ETA + BETA)).softmax(0)


def log_counts(*rows: tuple[int, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).squeeze(0).log()


def one_code() -> Enumerable:
    return Enumerable([log_counts((1, 2, 3, 4, 5, 1))], lambda logits: logits[0].log_softmax(0), num_draws=16)


def two_codes() -> Enumerable:
    """q(z_1) q(z_2 | z_1) with V = 3 and N = 2."""
    first, second = log_counts((2, 1, 1)), log_counts((1, 2, 1), (1, 1, 2), (2, 1, 1))
    joint = lambda logits: (logits[0].log_softmax(0)[:, None] + logits[1].log_softmax(1)).flatten()  # noqa: E731
    return Enumerable([first, second], joint, num_draws=16)


policies = pytest.mark.parametrize("make", [one_code, two_codes])


# --- weights (Eq. 5 and 6)


@policies
def test_weights_are_proportional_to_the_better_policy_over_the_present_one(make: Callable[[], Enumerable]) -> None:
    policy = make()
    ratio = policy.better_policy() / policy.log_q(policy.logits).detach().exp()
    torch.testing.assert_close(policy.weights() * len(policy.draws), ratio[policy.draws])


@policies
def test_the_weights_of_a_perfect_sample_add_up_to_the_better_policy(make: Callable[[], Enumerable]) -> None:
    policy = make()
    added = torch.zeros_like(policy.rewards).index_add(0, policy.draws, policy.weights())
    torch.testing.assert_close(added, policy.better_policy())


@policies
def test_the_weighted_gradient_is_that_of_the_divergence_from_the_better_policy(
    make: Callable[[], Enumerable],
) -> None:
    policy = make()
    better, log_q = policy.better_policy(), policy.log_q(policy.logits)
    divergence = (better * (better.log() - log_q)).sum()  # KL(q* ‖ q_θ), Eq. 6
    exact = torch.autograd.grad(divergence, policy.logits, retain_graph=True)
    loss = -(policy.weights() * log_q[policy.draws]).sum()
    for found, expected in zip(torch.autograd.grad(loss, policy.logits), exact, strict=True):
        torch.testing.assert_close(found, expected)


def test_the_baseline_of_the_advantage_cancels() -> None:
    policy = one_code()
    rewards, log_q = policy.rewards[policy.draws], policy.log_q(policy.logits).detach()[policy.draws]
    for baseline in (rewards.logsumexp(0), rewards.mean(), torch.tensor(-1234.5)):
        torch.testing.assert_close(importance_weights(rewards - baseline, log_q, ETA, BETA), policy.weights())


# --- effective sample size (Eq. 8, Appendix A.2)

reward_lists = st.lists(st.floats(-50, 50), min_size=2, max_size=16)


@given(rewards=reward_lists, scale=st.floats(1e-3, 1e3))
@settings(max_examples=100, deadline=None)
def test_the_effective_sample_size_lies_between_one_and_k_and_ignores_scale(rewards: list[float], scale: float) -> None:
    weights = torch.tensor(rewards, dtype=torch.float64).softmax(0)
    ess = float(effective_sample_size(weights))
    assert 1 - 1e-9 <= ess <= len(rewards) + 1e-9
    assert float(effective_sample_size(scale * weights)) == pytest.approx(ess)


def test_the_effective_sample_size_is_k_for_equal_weights_and_one_for_a_single_one() -> None:
    assert float(effective_sample_size(torch.full((5, 8), 0.125))) == 8.0
    assert float(effective_sample_size(F.one_hot(torch.tensor([0, 3]), 8).float())) == 1.0


@policies
def test_for_a_perfect_sample_its_share_of_k_is_the_exponential_of_the_renyi_divergence(
    make: Callable[[], Enumerable],
) -> None:
    policy = make()
    renyi = (policy.better_policy().square() / policy.log_q(policy.logits).detach().exp()).sum().log()  # Lemma 1
    torch.testing.assert_close(effective_sample_size(policy.weights()) / len(policy.draws), torch.exp(-renyi))


@given(
    outcomes=st.lists(st.tuples(st.floats(-6, 6), st.floats(-100, 100)), min_size=2, max_size=12),
    eta=st.floats(1e-3, 1e3),
    beta=st.floats(1e-3, 50),
)
@settings(max_examples=200, deadline=None)
def test_the_effective_sample_size_bounds_the_step_as_corollary_1_says(
    outcomes: list[tuple[float, float]], eta: float, beta: float
) -> None:
    logits, rewards = torch.tensor(outcomes, dtype=torch.float64).unbind(1)
    log_q = logits.log_softmax(0)
    weights = importance_weights(rewards, log_q, torch.tensor(eta), beta)
    better = ((rewards + eta * log_q) / (eta + beta)).softmax(0)  # Eq. 5
    rho = (log_q.exp() * weights).sum().square() / (log_q.exp() * weights.square()).sum()
    divergence = torch.special.xlogy(better, better / log_q.exp()).sum()
    assert float(divergence) <= -math.log(float(rho)) + 1e-9


# --- the loss of η


def eta_loss(log_eta: Tensor, target: float) -> Tensor:
    policy = two_codes()
    log_q = policy.log_q(policy.logits).detach()[policy.draws]
    weights = importance_weights(policy.rewards[policy.draws], log_q, log_eta.exp(), BETA)
    return (effective_sample_size(weights) - target).square()


@pytest.mark.parametrize("log_eta", [-2.0, 0.0, 3.0])
def test_the_gradient_of_the_loss_of_eta_is_its_finite_difference(log_eta: float) -> None:
    position = torch.tensor(log_eta, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda value: eta_loss(value, 5.0), position)


@pytest.mark.parametrize(("target", "sign"), [(2.0, 1.0), (15.0, -1.0)], ids=["too many", "too few"])
def test_descent_lowers_eta_where_too_many_samples_count_and_raises_it_where_too_few_do(
    target: float, sign: float
) -> None:
    log_eta = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(eta_loss(log_eta, target), log_eta)
    assert math.copysign(1.0, float(gradient)) == sign


def test_eta_learns_to_bring_the_effective_sample_size_to_its_target() -> None:
    log_eta = torch.tensor(math.log(100.0), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.AdamW([log_eta], lr=0.1)
    for _ in range(150):
        optimiser.zero_grad()
        eta_loss(log_eta, 5.0).backward()
        optimiser.step()
    assert float(eta_loss(log_eta.detach(), 5.0)) < 1e-2


def test_beta_decays_exponentially_from_its_first_to_its_last_value() -> None:
    assert [beta_schedule(6.0, 0.01, progress) for progress in (0.0, 1.0)] == [6.0, pytest.approx(0.01)]
    assert beta_schedule(4.0, 1.0, 0.5) == pytest.approx(2.0)
    assert beta_schedule(3.0, 3.0, 0.7) == pytest.approx(3.0)


# --- weights per code


def test_the_sum_over_the_neighbourhood_is_the_plain_loop() -> None:
    values = torch.randn(2, 12, dtype=torch.float64)
    maps, expected = values.unflatten(1, (3, 4)), torch.zeros(2, 3, 4, dtype=torch.float64)
    for row, column in itertools.product(range(3), range(4)):
        expected[:, row, column] = maps[:, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].sum(dim=(1, 2))
    torch.testing.assert_close(sum_neighbourhood(values, (3, 4)), expected.flatten(1))


def test_rewards_keep_their_precision_where_training_runs_in_bfloat16() -> None:
    values = torch.randn(4, 64) - 300
    with torch.autocast("cpu", dtype=torch.bfloat16):
        summed = sum_neighbourhood(values, (8, 8))
    assert torch.equal(summed, sum_neighbourhood(values, (8, 8)))


def test_a_code_is_rewarded_for_its_neighbourhood_alone() -> None:
    method = tiny_daps(TINY_GRID, credit="local", num_samples=2, ess_target=0.75)
    log_p, log_q = torch.zeros(2, 16, 16, 3), torch.zeros(2, 16)
    log_p[1, 0, 15, 0] = 1.0  # second sample, the cell in the upper right corner: code 3 of a 4×4 grid
    rewards, paid = method.weighted_samples.credit(log_p, log_q)
    assert rewards.shape == paid.shape == (1, 16, 2)
    assert rewards.nonzero().tolist() == [[0, code, 1] for code in (2, 3, 6, 7)]


# --- the whole method on a real network


def tiny_daps(config: TokenizerConfig, **changes: object) -> DAPS:
    torch.manual_seed(0)
    return DAPS(
        Autoencoder(config), DAPSSettings(**{"num_samples": 3, "ess_target": 0.5, "eta_initial": 5.0} | changes)
    )


def images(config: TokenizerConfig, count: int) -> Tensor:
    if config.modality == "motion":
        return torch.randn(count, *config.input_shape, generator=torch.Generator().manual_seed(1))
    return torch.randint(0, 256, (count, *config.input_shape), generator=torch.Generator().manual_seed(1)).byte()


def losses_by_hand(method: DAPS, inputs: Tensor, beta: float) -> tuple[Tensor, Tensor, Tensor]:
    """L(θ), L(φ), L(η) as in REFERENCE, one item and one code at a time; R is log p less weighted squared errors."""
    model, count, local = method.model, method.settings.num_samples, method.settings.credit == "local"
    x = model.standardise(inputs)
    uniform = torch.rand(len(x) * count, model.config.num_tokens, generator=torch.Generator().manual_seed(9))
    context = model.recognition.context(x)
    codes = sample_codes(model.recognition, context, uniform).codes
    log_q = model.recognition.log_prob(context, codes)
    parameters, x_of_samples = model.generative(codes), x.repeat_interleave(count, 0)
    error = (x_of_samples - model.likelihood.moments(parameters).mean).square()
    reward = model.likelihood.log_prob(parameters, x_of_samples) - method.settings.squared_error_weight * error
    rewards = reward.detach().flatten(1).sum(1, keepdim=True)
    if local:
        rewards = sum_neighbourhood(model.sum_cells(reward.detach()), model.config.token_grid)
    else:
        log_q = log_q.sum(1, keepdim=True)
    theta, sizes = torch.zeros(()), []
    for item in torch.arange(len(x) * count).split(count):
        for t in range(log_q.shape[1]):
            r, q = rewards[item, t], log_q[item, t]
            u = (r - r.logsumexp(0) - beta * q.detach()) / (method.trust_region.log_eta.exp() + beta)
            w = u.softmax(0)
            theta = theta - (w.detach() * q).sum() / len(x)
            sizes.append(1 / w.square().sum())
    eta = (torch.stack(sizes).mean() - method.settings.ess_target * count).square()
    return theta, -reward.flatten(1).sum(1).mean(), eta


@pytest.mark.parametrize("weight", [0.0, 2.5])
@pytest.mark.parametrize(
    ("config", "credit"),
    [(TINY_MLP, "global"), (TINY_GRID, "global"), (TINY_GRID, "local"), (TINY_MOTION, "global")],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_loss_is_the_sum_of_three_and_each_moves_its_own_parameters(
    config: TokenizerConfig, credit: str, weight: float
) -> None:
    method = tiny_daps(config, credit=credit, squared_error_weight=weight)
    inputs = images(config, 2)
    beta = beta_schedule(6.0, 0.01, 0.25)
    total = method(Batch(inputs), torch.Generator().manual_seed(9), 0.25).total
    theta, phi, eta = losses_by_hand(method, inputs, beta)
    torch.testing.assert_close(total, theta + phi + eta, rtol=1e-4, atol=1e-3)
    for loss, parameters in (
        (theta, list(method.model.recognition.parameters())),
        (phi, list(method.model.generative.parameters())),
        (eta, [method.trust_region.log_eta]),
    ):
        found = torch.autograd.grad(total, parameters, retain_graph=True)
        for a, b in zip(found, torch.autograd.grad(loss, parameters), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * max(1.0, float(b.abs().max())))


@torch.no_grad()
def test_a_run_can_begin_with_sharper_probabilities_than_it_was_given() -> None:
    method, codes = tiny_daps(TINY_MLP, start_sharpness=2.0), torch.zeros(2, 8, dtype=torch.long)
    context = method.model.recognition.context(method.model.standardise(images(TINY_MLP, 2)))
    before = method.model.recognition.logits(context, codes)
    method.start()
    torch.testing.assert_close(method.model.recognition.logits(context, codes), 2 * before)


def test_a_short_run_learns_codes_that_tell_images_apart() -> None:
    method = tiny_daps(TINY_MLP, num_samples=6, beta_initial=0.1, ess_target=0.5)
    groups = [{"params": method.model.parameters(), "lr": 1e-2}, {"params": [method.trust_region.log_eta], "lr": 5e-2}]
    optimiser, inputs = torch.optim.AdamW(groups), images(TINY_MLP, 4)
    for step in range(100):
        losses = method(Batch(inputs), torch.Generator().manual_seed(step), step / 100)
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
    mean = method.model.standardise(inputs).mean(0)
    best_without_codes = -float(F.binary_cross_entropy(mean, mean, reduction="sum"))
    assert float(losses.metrics["log_p"]) > best_without_codes + 100


# --- settings that make no sense


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_samples": 1}, "num_samples must be at least 2 with global credit, not 1"),
        ({"beta_final": 0.0}, "daps needs positive beta"),
        ({"ess_target": 3.0}, "ess_target between 0 and 1"),
        ({"credit": "some"}, "credit must be one of global, local, counterfactual"),
        ({"credit": "local"}, "credit: local needs codes on a grid; generative.kind mlp has none"),
        ({"kl_target": 0.01}, "kl_target has no effect with global credit"),
        ({"alternatives": 2}, "alternatives has no effect with global credit"),
        ({"credit": "counterfactual", "num_samples": 1}, "ess_target has no effect with counterfactual credit"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_daps(TINY_MLP, **changes)
