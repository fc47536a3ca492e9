"""FSQ: levels and codes are one to one, rounding passes gradients, and the checkpoint decodes as training did."""

from dataclasses import replace

import pytest
import torch

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.parallel import LevelQuantiser
from tests.settings import TINY_GRID, TINY_MLP, TINY_MOTION, of_kind
from train.methods.base import Batch
from train.methods.fsq import FSQ, FSQSettings


def quantiser(levels: tuple[int, ...]) -> LevelQuantiser:
    vocab_size = int(torch.tensor(levels).prod())
    recognition = replace(TINY_MLP.recognition, kind="levels", levels=levels)
    found = Autoencoder(replace(TINY_MLP, vocab_size=vocab_size, recognition=recognition)).recognition
    assert isinstance(found, LevelQuantiser)
    return found


def fsq(config: TokenizerConfig = TINY_MLP) -> FSQ:
    torch.manual_seed(0)
    return FSQ(Autoencoder(of_kind(config, "levels")), FSQSettings())


@pytest.mark.parametrize("levels", [(8, 6, 5), (8, 8, 8), (8, 5, 5, 5), (10, 10, 10), (3,)], ids=str)
def test_levels_and_codes_are_one_to_one(levels: tuple[int, ...]) -> None:
    ours = quantiser(levels)
    codes = torch.arange(ours.vocab_size)
    numbers = ours.numbers_of(codes)
    assert torch.equal(ours.codes_of((numbers * (ours.levels // 2)).round()), codes)
    assert len(numbers.unique(dim=0)) == len(codes) and float(numbers.abs().max()) <= 1.0


@pytest.mark.parametrize("levels", [(8, 6, 5), (8, 5, 5, 5), (3, 4)], ids=str)
def test_codes_are_those_of_vector_quantize_pytorch(levels: tuple[int, ...]) -> None:
    library = pytest.importorskip("vector_quantize_pytorch")
    theirs = library.FSQ(levels=list(levels))
    ours = quantiser(levels)
    torch.nn.init.normal_(ours.head.weight)
    x = torch.rand(64, 28, 28, 1, generator=torch.Generator().manual_seed(0)).round()
    with torch.no_grad():
        rounded, codes = theirs(ours.head(ours.hidden(x)))
        numbers = ours.context(x)
        assert torch.equal(ours.quantise(numbers), codes.long())
        torch.testing.assert_close(ours.scale(numbers.round()), rounded)
        torch.testing.assert_close(ours.numbers_of(codes.long()), rounded)


def test_every_level_is_within_reach() -> None:
    torch.manual_seed(0)
    ours = quantiser((8, 6, 5))
    torch.nn.init.normal_(ours.head.weight, std=20.0)
    x = torch.rand(64, 28, 28, 1, generator=torch.Generator().manual_seed(0)).round()
    rounded = ours.context(x).round().flatten(0, 1)
    assert rounded.amin(0).tolist() == [-4.0, -3.0, -2.0] and rounded.amax(0).tolist() == [3.0, 2.0, 2.0]


def test_gradients_pass_straight_through_rounding() -> None:
    method, batch = fsq(), Batch(torch.randint(0, 256, (4, 28, 28, 1)).byte())
    recognition = list(method.model.recognition.parameters())
    found = torch.autograd.grad(method(batch, torch.Generator(), 0.0).total, recognition)

    x = method.model.standardise(batch.inputs)
    numbers = method.quantiser.context(x)
    rounded = numbers.detach().round().requires_grad_()
    parameters = method.model.generative.decode_embedded(method.embed(method.quantiser.scale(rounded)))
    loss = -method.model.likelihood.log_prob(parameters, x).flatten(1).sum(1).mean()
    (arriving,) = torch.autograd.grad(loss, rounded)
    for a, b in zip(found, torch.autograd.grad(numbers, recognition, arriving), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [TINY_MLP, TINY_GRID, TINY_MOTION], ids=lambda config: config.name)
def test_a_checkpoint_decodes_its_codes_as_training_did(config: TokenizerConfig) -> None:
    method = fsq(config).eval()
    method.before_checkpoint()
    x = torch.rand(4, *config.input_shape)
    numbers = method.quantiser.context(x)
    trained = method.model.generative.decode_embedded(method.embed(method.quantiser.scale(numbers.round())))
    found = method.reconstruct(x, torch.rand(4, config.num_tokens), 1.0)
    torch.testing.assert_close(found.parameters, trained, rtol=1e-4, atol=1e-5)


def test_a_second_stage_decodes_as_the_first_did() -> None:
    first = fsq()
    first.before_checkpoint()
    torch.manual_seed(1)
    second = FSQ(first.model, FSQSettings(batch_norm="frozen"))  # its dense layer is random
    assert not torch.allclose(second.embed.weight, first.embed.weight)
    second.start()
    torch.testing.assert_close(second.table(), first.table(), rtol=1e-3, atol=1e-4)
    assert not second.train().model.generative.training


def test_a_first_stage_keeps_its_dense_layer() -> None:
    """A random table was made by no dense layer."""
    method = fsq()
    before = method.embed.weight.clone()
    method.start()
    assert torch.equal(method.embed.weight, before)


def test_it_refuses_a_model_without_levels() -> None:
    with pytest.raises(ConfigError, match="fsq trains a recognition model of kind levels, not autoregressive"):
        FSQ(Autoencoder(TINY_MLP), FSQSettings())
