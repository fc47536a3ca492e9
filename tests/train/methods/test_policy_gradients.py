"""REINFORCE against the exact gradient, and what makes PPO PPO."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from tests.settings import TINY_MLP, of_kind
from train.methods.base import Batch
from train.methods.ppo import PPO, PPOSettings, adapt, clipped_objective
from train.methods.reinforce import Reinforce, ReinforceSettings, leave_one_out, score_loss

REWARDS = torch.tensor([-3.0, 1.0, 0.5, -7.0], dtype=torch.float64)
BETA = 0.3


# --- REINFORCE


@pytest.mark.parametrize("num_samples", [2, 3])
def test_the_mean_over_all_samples_is_the_exact_gradient(num_samples: int) -> None:
    logits = torch.tensor([0.2, -0.4, 1.1, 0.0], dtype=torch.float64, requires_grad=True)
    log_q = logits.log_softmax(0)
    exact = torch.autograd.grad(-(log_q.exp() * (REWARDS - BETA * log_q)).sum(), logits, retain_graph=True)[0]
    expected = torch.zeros_like(exact)
    for drawn in itertools.product(range(4), repeat=num_samples):
        chosen = log_q[list(drawn)]
        loss = score_loss(REWARDS[list(drawn)][None], chosen[None], BETA)
        probability = float(chosen.detach().sum().exp())
        expected += probability * torch.autograd.grad(loss, logits, retain_graph=True)[0]
    torch.testing.assert_close(expected, exact)


def test_the_baseline_of_a_sample_is_the_mean_of_the_others() -> None:
    found = leave_one_out(torch.tensor([[1.0, 2.0, 6.0]]))
    torch.testing.assert_close(found, torch.tensor([[1.0 - 4.0, 2.0 - 3.5, 6.0 - 1.5]]))


# --- PPO


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"), [(1.3, 1.0, False), (1.3, -1.0, True), (0.7, 1.0, True), (0.7, -1.0, False)]
)
def test_a_ratio_beyond_the_clip_is_pushed_no_further_but_may_come_back(
    ratio: float, advantage: float, moves: bool
) -> None:
    position = torch.tensor(ratio, requires_grad=True)
    (gradient,) = torch.autograd.grad(clipped_objective(position, torch.tensor(advantage), 0.2), position)
    assert float(gradient) == (advantage if moves else 0.0)


@pytest.mark.parametrize(("divergence", "expected"), [(0.001, 0.5), (0.0099, 1.0), (0.012, 1.0), (0.02, 2.0)])
def test_the_penalty_follows_how_far_the_policy_went(divergence: float, expected: float) -> None:
    assert float(adapt(torch.tensor(1.0), torch.tensor(divergence), 0.01)) == expected


def images(count: int = 6) -> Batch:
    return Batch(torch.randint(0, 256, (count, 28, 28, 1), generator=torch.Generator().manual_seed(1)).byte())


def ppo(kind: str = "autoregressive", **settings: float) -> PPO:
    torch.manual_seed(0)
    method = PPO(Autoencoder(of_kind(TINY_MLP, kind)), PPOSettings(num_samples=3, **settings))  # type: ignore[arg-type]
    method.start()
    return method.train()


def test_the_policy_that_draws_stays_until_it_is_refreshed() -> None:
    method, before = ppo(refresh_every=2), [p.clone() for p in ppo().behaviour.parameters()]
    with torch.no_grad():
        for parameter in method.model.recognition.parameters():
            parameter.add_(0.05)
    assert float(method(images(), torch.Generator().manual_seed(0), 0.0).metrics["kl_to_old"]) > 0
    method.after_step(0, torch.Generator())
    assert all(torch.equal(a, b) for a, b in zip(method.behaviour.parameters(), before, strict=True))
    method.after_step(1, torch.Generator())
    again = method(images(), torch.Generator().manual_seed(0), 0.0)
    assert float(again.metrics["kl_to_old"]) == pytest.approx(0.0, abs=1e-6)


def test_the_value_learns_to_predict_the_reward_and_does_not_move_the_policy() -> None:
    method = ppo()
    loss = method(images(), torch.Generator().manual_seed(0), 0.0)
    found = torch.autograd.grad(loss.total, list(method.value.parameters()))
    assert float(method.reward_scale) > 0 and math.isfinite(float(method.reward_mean))

    method.eval()  # the scale of the rewards stays
    rollout = method.rollout(images().inputs, torch.Generator().manual_seed(0))
    rewards = (rollout.log_p.detach().flatten(1).sum(1) - method.reward_mean) / method.reward_scale
    predicted = method.value(rollout.x).repeat_interleave(3, 0)[:, 0]
    expected = torch.autograd.grad((predicted - rewards).square().mean(), list(method.value.parameters()))
    for a, b in zip(found, expected, strict=True):
        assert bool(b.any())
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", ["autoregressive", "independent"])
def test_the_generative_model_learns_by_maximum_likelihood_whatever_the_policy_learns_from(kind: str) -> None:
    torch.manual_seed(0)
    model = Autoencoder(of_kind(TINY_MLP, kind))
    for method in (
        Reinforce(model, ReinforceSettings(num_samples=3)),
        PPO(model, PPOSettings(num_samples=3)),
    ):
        method.start()
        parameters: list[Tensor] = list(model.generative.parameters())
        found = torch.autograd.grad(method(images(), torch.Generator().manual_seed(4), 0.0).total, parameters)
        rollout = method.rollout(images().inputs, torch.Generator().manual_seed(4))
        expected = torch.autograd.grad(-rollout.log_p.flatten(1).sum(1).mean(), parameters)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_samples must be at least 2, not 1"):
        ReinforceSettings(num_samples=1)
    with pytest.raises(ConfigError, match="reinforce needs positive betas"):
        ReinforceSettings(beta_final=0.0)
    with pytest.raises(ConfigError, match="a clip between 0 and 1"):
        PPOSettings(clip=1.0)
    with pytest.raises(ConfigError, match="refresh_every of at least 1"):
        PPOSettings(refresh_every=0)
