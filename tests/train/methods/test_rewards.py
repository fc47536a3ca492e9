"""Rewards added to log p(x|z): any function of inputs and codes, weighted, and never differentiated."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from tests.settings import TINY_GRID, TINY_MLP
from tests.train.test_training import experiment, run
from train.checkpoint import load_checkpoint
from train.data import Dataset
from train.items import ArrayItems
from train.methods import Batch, build_method
from train.methods.daps import DAPS, DAPSSettings
from train.methods.rewards import ClassReward, WeightedRewards
from train.optimisation import build_optimiser

FIRST_CODE = "tests.train.methods.test_rewards:likes_its_own_label_first"


def likes_its_own_label_first(batch: Batch, codes: Tensor) -> Tensor:
    """1 where the first code is the label: a step, without a gradient anywhere."""
    assert batch.labels is not None
    return (codes[..., 0] == batch.labels[:, None]).int()


def wrong_shape(batch: Batch, codes: Tensor) -> Tensor:
    return codes.sum((1, 2))


def labelled(count: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 28, 28, 1), generator=generator).byte()
    return Batch(images, torch.arange(count) % 3)


def draw_codes(count: int = 6, samples: int = 4) -> Tensor:
    return torch.randint(0, 16, (count, samples, 8), generator=torch.Generator().manual_seed(1))


def test_the_sum_is_weighted_and_carries_no_gradient() -> None:
    batch, codes = labelled(), draw_codes()
    rewards = WeightedRewards({"class_log_prob": 3.0, FIRST_CODE: -2.0}, TINY_MLP, num_classes=3)
    found = rewards(batch, codes)
    hits = codes[..., 0] == torch.arange(6)[:, None] % 3
    torch.testing.assert_close(found.values, 3 * torch.full((6, 4), -math.log(3)) - 2 * hits.float())
    assert not found.values.requires_grad and found.loss.requires_grad
    assert float(found.metrics[FIRST_CODE]) == pytest.approx(float(hits.float().mean()))


def test_the_classifier_sees_which_code_is_where_and_learns_along() -> None:
    torch.manual_seed(0)
    batch, codes = labelled(), draw_codes()
    reward = ClassReward(TINY_MLP, 3, correct=True)
    optimiser = torch.optim.AdamW(reward.parameters(), lr=1e-2)
    for _ in range(40):
        optimiser.zero_grad()
        reward(batch, codes).loss.backward()
        optimiser.step()
    found = reward(batch, codes)
    assert float(found.metrics["class_accuracy"]) == 1 and bool((found.values == 1).all())
    assert not torch.allclose(reward.logits(codes[0]), reward.logits(codes[0].flip(-1)))


@pytest.mark.parametrize("credit", ["global", "local"])
def test_a_reward_counts_for_every_code_and_moves_the_recognition_model_alone(credit: str) -> None:
    torch.manual_seed(0)
    model = Autoencoder(TINY_GRID)
    batch = Batch(torch.randint(0, 256, (2, 16, 16, 3)).byte(), torch.tensor([3, 5]))
    gradients = []
    for rewards in ({}, {FIRST_CODE: 1000.0}):
        method = DAPS(model, DAPSSettings(num_samples=8, credit=credit, rewards=rewards)).eval()
        total = method(batch, torch.Generator().manual_seed(0), 0.5).total
        parameters = [model.recognition.head.weight, model.generative.embedding.weight]
        gradients.append(torch.autograd.grad(total, parameters))
    (theta, phi), (theta_rewarded, phi_rewarded) = gradients
    assert not torch.allclose(theta, theta_rewarded)
    torch.testing.assert_close(phi, phi_rewarded)


def test_a_reward_that_has_no_gradient_is_won() -> None:
    torch.manual_seed(0)
    batch = Batch(labelled().inputs, torch.full((6,), 5))
    method = DAPS(Autoencoder(TINY_MLP), DAPSSettings(eta_initial=1.0, beta_initial=0.1, rewards={FIRST_CODE: 1000.0}))
    optimiser = torch.optim.AdamW(method.model.recognition.parameters(), lr=1e-2)
    shares = []
    for step in range(40):
        losses = method(batch, torch.Generator().manual_seed(step), 0.5)
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        shares.append(float(losses.metrics[FIRST_CODE]))
    assert shares[0] < 0.3 and min(shares[-5:]) > 0.9


def test_what_a_reward_trains_is_in_the_checkpoint(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (24, *TINY_MLP.input_shape), dtype=np.uint8)
    items, labels = ArrayItems(images), np.arange(24, dtype=np.uint8) % 3
    trained = experiment(TINY_MLP, settings={"num_samples": 4, "rewards": {"class_log_prob": 2.0}}, steps=2)
    run(trained, tmp_path, Dataset(items, items, labels, labels))
    method = build_method("daps", Autoencoder(TINY_MLP), trained.settings)
    assert isinstance(method, DAPS)
    load_checkpoint(tmp_path / "checkpoint", method, build_optimiser(method, trained.optimiser))
    assert bool((method.rewards.rewards[0].head.weight != 0).any())


@pytest.mark.parametrize(
    ("rewards", "reason"),
    [
        ({"colour": 1.0}, "'colour' is not known; accepted are class_log_prob, class_correct, or a function"),
        ({"class_correct": float("nan")}, "weight of class_correct must be a finite number, not nan"),
        ({"no_such_module:f": 1.0}, "no_such_module:f cannot be imported"),
        ({"tests.train.methods.test_rewards:FIRST_CODE": 1.0}, "FIRST_CODE is not a function"),
    ],
)
def test_rewards_that_cannot_be_are_named(rewards: dict[str, float], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        build_method("daps", Autoencoder(TINY_MLP), {"rewards": rewards})


def test_a_reward_of_another_shape_and_classes_without_labels_are_refused() -> None:
    rewards = WeightedRewards({"tests.train.methods.test_rewards:wrong_shape": 1.0}, TINY_MLP, num_classes=3)
    with pytest.raises(ConfigError, match=r"wrong_shape returned shape \[6\]; expected \[6, 4\]"):
        rewards(labelled(), draw_codes())
    with pytest.raises(ConfigError, match="a class reward needs a dataset with labels"):
        ClassReward(TINY_MLP, 3, correct=False)(Batch(labelled().inputs), draw_codes())
    with pytest.raises(ConfigError, match="num_classes is 2, but the dataset has the label 2"):
        ClassReward(TINY_MLP, 2, correct=False)(labelled(), draw_codes())
