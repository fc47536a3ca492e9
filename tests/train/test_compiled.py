"""The generative model compiled for training: the same gradients, and none of it in evaluation."""

import shutil

import pytest
import torch

from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from tests.settings import TINY_GRID
from train.compiled import compile_generative_model
from train.methods import Batch
from train.methods.daps import DAPS, DAPSSettings
from train.methods.gumbel import GumbelSettings, GumbelSoftmax

SETTINGS = DAPSSettings(num_samples=1, credit="counterfactual", trust_region="solved", batch_norm="frozen")


def gradients_of_a_step(method: DAPS) -> dict[str, torch.Tensor]:
    images = torch.arange(2 * 16 * 16 * 3).to(torch.uint8).reshape(2, *TINY_GRID.input_shape)
    method.zero_grad()
    method(Batch(images, None), torch.Generator().manual_seed(0), 0.0).total.backward()
    return {name: parameter.grad.clone() for name, parameter in method.model.named_parameters()}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_step_has_the_gradients_of_todays_step() -> None:
    torch.manual_seed(0)
    method = DAPS(Autoencoder(TINY_GRID), SETTINGS).train()
    expected = gradients_of_a_step(method)
    compile_generative_model(method)
    torch.testing.assert_close(gradients_of_a_step(method), expected, atol=1e-3, rtol=1e-3)


def test_evaluation_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("compiled code ran")

    monkeypatch.setattr(torch, "compile", lambda function, dynamic: never)
    method = DAPS(Autoencoder(TINY_GRID), SETTINGS)
    compile_generative_model(method)
    x, codes = torch.zeros(1, *TINY_GRID.input_shape), torch.zeros(1, TINY_GRID.num_tokens, dtype=torch.long)
    assert method.eval().model.log_likelihood(x, codes).shape == (1,)
    with pytest.raises(AssertionError, match="compiled code ran"):
        method.train().model.log_likelihood(x, codes)


def test_methods_without_a_policy_are_refused() -> None:
    with pytest.raises(ConfigError, match="policy search"):
        compile_generative_model(GumbelSoftmax(Autoencoder(TINY_GRID), GumbelSettings()))
