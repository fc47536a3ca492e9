"""The Gaussian VAE: its divergence, its capacity, and that it has no codes."""

import pytest
import torch

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import ConfigError, UnsupportedError
from daps_tokenizer.model.autoencoder import Autoencoder
from tests.settings import CIFAR10, LAFAN, MNIST, TINY_MLP, of_kind
from train.evaluate import evaluate
from train.items import ArrayItems
from train.methods.gaussian import GaussianVAE, GaussianVAESettings


def gaussian(config: TokenizerConfig = TINY_MLP) -> GaussianVAE:
    torch.manual_seed(0)
    return GaussianVAE(Autoencoder(of_kind(config, "gaussian")), GaussianVAESettings()).eval()


@pytest.mark.parametrize(("config", "size"), [(MNIST, 2), (CIFAR10, 18), (LAFAN, 20)], ids=lambda value: str(value)[:9])
def test_the_latent_has_the_bits_of_the_codes(config: TokenizerConfig, size: int) -> None:
    assert gaussian(config).latent_size == size


def test_greedy_reconstructions_are_of_the_mean_and_sampled_ones_spread_around_it() -> None:
    method, x = gaussian(), torch.rand(2, 28, 28, 1).round()
    with torch.no_grad():
        mean = method._decode(method._posterior(x), torch.zeros(2, method.latent_size))
    torch.testing.assert_close(method.reconstruct(x, torch.rand(2, 8), 0.0).parameters, mean)
    assert not torch.equal(method.reconstruct(x, torch.rand(2, 8), 1.0).parameters, mean)


def test_it_is_evaluated_like_the_others_and_uses_no_codes() -> None:
    found = evaluate(gaussian(), ArrayItems(torch.randint(0, 256, (5, 28, 28, 1)).byte().numpy()))
    assert found["kl"] > 0 and found["codes_used"] == 0.0 and "entropy" not in found


def test_it_has_no_codes() -> None:
    method = gaussian()
    with pytest.raises(UnsupportedError, match="kind gaussian makes no codes"):
        method.encode(torch.rand(2, 28, 28, 1), torch.rand(2, 8), 0.0)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="gaussian_vae needs positive betas"):
        GaussianVAESettings(beta_initial=0.0)
    with pytest.raises(ConfigError, match="kind gaussian, not independent"):
        GaussianVAE(Autoencoder(of_kind(TINY_MLP, "independent")), GaussianVAESettings())
