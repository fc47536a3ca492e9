"""Training draws its samples in passes: the codes of the loop over positions, with their logits and gradients."""

from dataclasses import replace

import pytest
import torch

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.sampling import sample_codes
from tests.settings import TINY_GRID, TINY_MLP, TINY_SPECTRAL, TINY_WINDOWS
from train import drawing
from train.drawing import draw_in_passes
from train.methods.base import Batch
from train.methods.daps import DAPS, DAPSSettings

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIGS = [TINY_MLP, TINY_GRID, TINY_WINDOWS, TINY_SPECTRAL]
ITEMS, SAMPLES = 5, 3


def model_that_hangs_on_earlier_codes(config: TokenizerConfig, how_much: float) -> Autoencoder:
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


def changed_by_a_second_pass(recognition: RecognitionModel, context, uniform) -> bool:
    guess = drawing._first_guess(recognition, context, uniform, ITEMS)
    return not torch.equal(guess, sample_codes(recognition, context, uniform).codes)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
@pytest.mark.parametrize("how_much", [0.0, 0.1, 1.0])
def test_codes_are_those_of_the_loop_and_logits_those_of_a_pass_over_them(
    config, how_much: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "SETTLED_SHARE", 0.0)
    model = model_that_hangs_on_earlier_codes(config, how_much)
    recognition, (context, uniform) = model.autoregressive, context_and_uniform(model)
    drawn = draw_in_passes(recognition, context, uniform)
    assert drawn is not None
    assert torch.equal(drawn.codes, sample_codes(recognition, context, uniform).codes)
    torch.testing.assert_close(drawn.logits, recognition.logits(context, drawn.codes))
    # What follows would prove nothing of the rows that take more passes if there were none.
    assert changed_by_a_second_pass(recognition, context, uniform) == (how_much > 0)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_gradients_are_those_of_a_pass_over_the_codes(config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "SETTLED_SHARE", 0.0)
    model = model_that_hangs_on_earlier_codes(config, 0.1)
    recognition, (context, uniform) = model.autoregressive, context_and_uniform(model)
    drawn = draw_in_passes(recognition, context, uniform)
    assert drawn is not None
    parameters = [p for p in recognition.parameters() if p.requires_grad]
    weights = torch.randn_like(drawn.logits)
    found = torch.autograd.grad((drawn.logits * weights).sum(), parameters, retain_graph=True, allow_unused=True)
    logits = recognition.logits(context, drawn.codes)
    expected = torch.autograd.grad((logits * weights).sum(), parameters, allow_unused=True)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_a_model_with_random_weights_is_left_to_the_loop() -> None:
    model = model_that_hangs_on_earlier_codes(TINY_GRID, 4.0)
    assert draw_in_passes(model.autoregressive, *context_and_uniform(model)) is None


@pytest.mark.parametrize("how_much", [0.0, 4.0])
def test_a_step_of_daps_is_the_same_either_way(how_much: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_that_hangs_on_earlier_codes(replace(TINY_GRID), how_much)
    method = DAPS(model, DAPSSettings(num_samples=SAMPLES))
    batch = Batch(torch.randint(0, 256, (ITEMS, 16, 16, 3), dtype=torch.uint8))
    losses = []
    for share in (0.0, 2.0):  # always in passes, always in the loop
        monkeypatch.setattr(drawing, "SETTLED_SHARE", share)
        losses.append(method(batch, torch.Generator().manual_seed(0), 0.5))
    torch.testing.assert_close(losses[0].total, losses[1].total)
    torch.testing.assert_close(losses[0].metrics, losses[1].metrics)
