"""The loss of each baseline, written once more with loops over numpy arrays, from its formula alone.

Networks give numbers (logits, pixels, a posterior); everything a method does with them is repeated here. A wrong sign
of a divergence, an entropy or an advantage changes the total, or the gradient on the last bias of q.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from daps_tokenizer.model.autoencoder import Autoencoder
from tests.settings import TINY_MLP, of_kind
from train.code_search import CodeSearch
from train.methods import build_method
from train.methods.base import Batch, Method
from train.methods.gaussian import GaussianVAE
from train.methods.policy import PolicyMethod, Rollout
from train.methods.ppo import PPO

Array = NDArray[np.float64]
ITEMS, SAMPLES, CODES, VOCAB = 3, 4, TINY_MLP.num_tokens, TINY_MLP.vocab_size


def built(name: str, kind: str, **settings: Any) -> Method:
    """A method on the tiny model, with a table of codes and a head large enough for every term to matter."""
    torch.manual_seed(0)
    method = build_method(name, Autoencoder(of_kind(TINY_MLP, kind)), settings)
    with torch.no_grad():
        for parameter in method.model.recognition.head.parameters():
            parameter.normal_(std=0.5)
    method.start()
    return method.train()


def digits() -> Batch:
    return Batch(torch.randint(0, 256, (ITEMS, 28, 28, 1), generator=torch.Generator().manual_seed(1)).byte())


def as_array(values: Tensor) -> Array:
    return values.detach().double().numpy()


def log_softmax(logits: Array) -> Array:
    return np.array([row - math.log(sum(math.exp(value) for value in row)) for row in logits])


def bernoulli(parameters: Tensor, inputs: Tensor) -> float:
    """log p of one image, pixel by pixel: bright where its byte is above 127."""
    total = 0.0
    for logit, byte in zip(as_array(parameters).ravel(), inputs.numpy().ravel(), strict=True):
        probability = 1 / (1 + math.exp(-logit))
        total += math.log(probability if byte > 127 else 1 - probability)
    return total


def code_log_probs(method: Method, inputs: Tensor, codes: Tensor) -> Array:
    """log q of every value of every code of one image's codes (N,): (N, V)."""
    recognition = method.model.recognition
    with torch.no_grad():
        logits = recognition.logits(recognition.context(method.model.standardise(inputs[None])), codes[None])[0]
    return log_softmax(as_array(logits))


def gradient_on_the_bias(method: Method, total: Tensor) -> Array:
    """Of the total: the sum over items and codes of its gradient on the logits, (V,)."""
    return as_array(torch.autograd.grad(total, method.model.recognition.head.bias, retain_graph=True)[0])


# --- Gumbel-Softmax and GR-MCK: −log p(x|z) + β·KL(q ‖ uniform)


@pytest.mark.parametrize("kind", ["autoregressive", "independent"])
@pytest.mark.parametrize("name", ["gumbel", "gr_mck"])
def test_gumbel_softmax_descends_the_divergence_and_ascends_log_p(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, batch, drawn = built(name, kind, beta_initial=8.0, beta_final=2.0), digits(), []
    draw = method.draw  # type: ignore[operator]
    monkeypatch.setattr(method, "draw", lambda *args: drawn.append(draw(*args)) or drawn[-1])
    total = method(batch, torch.Generator().manual_seed(3), 0.5).total

    codes = (torch.stack(drawn, 1) if kind == "autoregressive" else drawn[0]).argmax(-1)
    log_p = divergence = 0.0
    for inputs, row in zip(batch.inputs, codes, strict=True):
        log_p += bernoulli(method.model.generative(row[None]), inputs) / ITEMS
        for log_q in code_log_probs(method, inputs, row):
            divergence += sum(math.exp(value) * (value - math.log(1 / VOCAB)) for value in log_q) / ITEMS
    beta = 8.0 * (2.0 / 8.0) ** 0.5
    assert divergence > 1.0
    assert float(total.detach()) == pytest.approx(beta * divergence - log_p, rel=1e-5)


@pytest.mark.parametrize("name", ["gumbel", "gr_mck"])
def test_with_a_large_beta_a_step_of_gumbel_softmax_makes_codes_more_even(name: str) -> None:
    method, batch = built(name, "independent", beta_initial=1e6, beta_final=1e6), digits()
    found = gradient_on_the_bias(method, method(batch, torch.Generator().manual_seed(3), 0.0).total) / 1e6

    expected = np.zeros(VOCAB)
    for inputs in batch.inputs:
        for log_q in code_log_probs(method, inputs, torch.zeros(CODES, dtype=torch.long)):
            q = np.exp(log_q)
            negative_entropy = float((q * log_q).sum())
            expected += q * (log_q - negative_entropy) / ITEMS  # d KL / d logits
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


# --- the Gaussian VAE: −log p(x|z) + β·KL(q ‖ N(0, 1))


def test_the_gaussian_vae_descends_the_divergence_and_ascends_log_p() -> None:
    torch.manual_seed(0)
    method = build_method(
        "gaussian_vae", Autoencoder(of_kind(TINY_MLP, "gaussian")), {"beta_initial": 8.0, "beta_final": 2.0}
    )
    assert isinstance(method, GaussianVAE)
    with torch.no_grad():
        method.posterior.weight.mul_(5)  # far enough from N(0, 1) for its divergence to matter
    batch = digits()
    total = method(batch, torch.Generator().manual_seed(3), 0.5).total

    hidden = method.model.recognition.hidden(method.model.standardise(batch.inputs)).flatten(1)  # type: ignore[operator]
    numbers = as_array(method.posterior(hidden))
    noise = torch.randn(ITEMS, method.latent_size, generator=torch.Generator().manual_seed(3)).double().numpy()
    log_p = divergence = 0.0
    for inputs, row, e in zip(batch.inputs, numbers, noise, strict=True):
        mean, log_variance = row[: method.latent_size], row[method.latent_size :]
        z = [m + math.sqrt(math.exp(v)) * n for m, v, n in zip(mean, log_variance, e, strict=True)]
        embedded = method.embed(torch.tensor([z], dtype=torch.float32)).reshape(1, CODES, -1)
        log_p += bernoulli(method.model.generative.decode_embedded(embedded), inputs) / ITEMS
        for m, v in zip(mean, log_variance, strict=True):
            divergence += (math.log(1 / math.sqrt(math.exp(v))) + (math.exp(v) + m * m) / 2 - 0.5) / ITEMS
    beta = 8.0 * (2.0 / 8.0) ** 0.5
    assert divergence > 0.5
    assert float(total.detach()) == pytest.approx(beta * divergence - log_p, rel=1e-5)


# --- policies: what they drew is recorded, and what a sample is worth is worked out again


def recorded(
    method: Method, batch: Batch, monkeypatch: pytest.MonkeyPatch, progress: float = 0.0
) -> tuple[Any, Tensor]:
    """The losses of a batch, and the codes (B, K, N) that were drawn for it."""
    assert isinstance(method, PolicyMethod)
    kept: list[Tensor] = []
    rollout = method.rollout

    def record(
        inputs: Tensor, generator: torch.Generator, behaviour: Any = None, search: CodeSearch | None = None
    ) -> Rollout:
        found = rollout(inputs, generator, behaviour, search)
        kept.append(found.codes)
        return found

    monkeypatch.setattr(method, "rollout", record)
    losses = method(batch, torch.Generator().manual_seed(3), progress)
    return losses, kept[0].unflatten(0, (ITEMS, SAMPLES))


@pytest.mark.parametrize("kind", ["autoregressive", "independent"])
def test_reinforce_makes_samples_more_probable_that_are_better_than_the_others(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"num_samples": SAMPLES, "beta_initial": 8.0, "beta_final": 2.0}
    method, batch = built("reinforce", kind, **settings), digits()
    losses, codes = recorded(method, batch, monkeypatch, progress=0.5)

    beta, count = 4.0, ITEMS * SAMPLES
    expected, gradient = 0.0, np.zeros(VOCAB)
    for inputs, rows in zip(batch.inputs, codes, strict=True):
        tables = [code_log_probs(method, inputs, row) for row in rows]
        log_q = [
            sum(table[t, int(code)] for t, code in enumerate(row)) for table, row in zip(tables, rows, strict=True)
        ]
        log_p = [bernoulli(method.model.generative(row[None]), inputs) for row in rows]
        returns = [p - beta * q for p, q in zip(log_p, log_q, strict=True)]
        for k, row in enumerate(rows):
            others = [value for j, value in enumerate(returns) if j != k]
            advantage = returns[k] - sum(others) / len(others)
            expected += (-advantage * log_q[k] - log_p[k]) / count
            for t, code in enumerate(row):
                gradient -= advantage * (np.eye(VOCAB)[int(code)] - np.exp(tables[k][t])) / count
    assert float(losses.total.detach()) == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(gradient_on_the_bias(method, losses.total), gradient, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("kind", ["autoregressive", "independent"])
def test_ppo_weighs_clipped_ratios_the_divergence_from_the_old_policy_the_entropy_and_the_value(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"num_samples": SAMPLES, "clip": 0.2, "kl_coefficient": 3.0, "beta": 40.0}
    method, batch = built("ppo", kind, **settings), digits()
    assert isinstance(method, PPO)
    old = built("ppo", kind, **settings)  # the policy that draws; the one that learns has moved away from it
    with torch.no_grad():
        for parameter in method.model.recognition.head.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    losses, codes = recorded(method, batch, monkeypatch)

    log_p = np.array(
        [
            [bernoulli(method.model.generative(row[None]), inputs) for row in rows]
            for inputs, rows in zip(batch.inputs, codes, strict=True)
        ]
    )
    mean, scale = log_p.mean(), log_p.std(ddof=1)  # the first batch sets both
    count = ITEMS * SAMPLES * CODES
    surrogate = divergence = entropy = value_loss = 0.0
    gradient, clipped = np.zeros(VOCAB), 0
    for b, (inputs, rows) in enumerate(zip(batch.inputs, codes, strict=True)):
        value = float(method.value(method.model.standardise(inputs[None]))[0, 0].detach())
        for k, row in enumerate(rows):
            reward = (log_p[b, k] - mean) / scale
            advantage = reward - value
            value_loss += (value - reward) ** 2 / (ITEMS * SAMPLES)
            before, now = code_log_probs(old, inputs, row), code_log_probs(method, inputs, row)
            for t, code in enumerate(row):
                ratio = math.exp(now[t, int(code)] - before[t, int(code)])
                kept = min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
                surrogate += kept / count
                divergence += sum(math.exp(a) * (a - c) for a, c in zip(before[t], now[t], strict=True)) / count
                entropy_here = -sum(math.exp(a) * a for a in now[t])
                entropy += entropy_here / count
                q = np.exp(now[t])
                if kept == ratio * advantage:
                    gradient -= kept * (np.eye(VOCAB)[int(code)] - q) / count
                else:
                    clipped += 1
                gradient += 3.0 * (q - np.exp(before[t])) / count
                gradient += 40.0 / scale * q * (now[t] + entropy_here) / count
    assert clipped > 0 and divergence > 0.01
    expected = -surrogate + 3.0 * divergence - 40.0 / scale * entropy + value_loss - log_p.mean()
    assert float(losses.total.detach()) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(gradient_on_the_bias(method, losses.total), gradient, rtol=1e-3, atol=1e-5)


# --- quantisers: −log p(x|z), and for the VQ-VAE how far table and hidden states are apart


def test_the_vqvae_weighs_log_p_per_pixel_with_the_distance_to_the_nearest_vector() -> None:
    method, batch = built("vqvae", "nearest", commitment=0.4), digits()
    total = method(batch, torch.Generator(), 0.0).total

    hidden = as_array(method.model.recognition.context(method.model.standardise(batch.inputs)))
    table = as_array(method.model.generative.embedding.weight)
    log_p = error = 0.0
    for inputs, rows in zip(batch.inputs, hidden, strict=True):
        codes = [min(range(VOCAB), key=lambda v: float(((h - table[v]) ** 2).sum())) for h in rows]
        log_p += bernoulli(method.model.generative(torch.tensor([codes])), inputs) / (ITEMS * 28 * 28)
        error += sum(float(((h - table[v]) ** 2).mean()) for h, v in zip(rows, codes, strict=True)) / (ITEMS * CODES)
    assert float(total.detach()) == pytest.approx(-log_p + error + 0.4 * error, rel=1e-5)


def test_fsq_is_log_p_of_rounded_numbers_alone() -> None:
    torch.manual_seed(0)
    method, batch = build_method("fsq", Autoencoder(of_kind(TINY_MLP, "levels")), {}), digits()
    total = method(batch, torch.Generator(), 0.0).total
    method.before_checkpoint()  # writes the table that codes are decoded from
    x = method.model.standardise(batch.inputs)
    codes = method.encode(x, torch.zeros(ITEMS, CODES), 0.0).codes
    log_p = [
        bernoulli(method.model.generative(row[None]), inputs) for row, inputs in zip(codes, batch.inputs, strict=True)
    ]
    assert float(total.detach()) == pytest.approx(-sum(log_p) / ITEMS, rel=1e-5)
