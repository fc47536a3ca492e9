"""Recognition models that encode in one pass: probabilities of codes, quantisers, and what has no codes at all."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import ConfigError, UnsupportedError
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.sampling import sample_codes
from tests.settings import CIFAR10, LAFAN, TINY_GRID, TINY_MLP, TINY_MOTION, of_kind

configs = pytest.mark.parametrize("config", [TINY_MLP, TINY_GRID, TINY_MOTION], ids=lambda config: config.name)


def model(config: TokenizerConfig, kind: str) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(of_kind(config, kind)).eval()


def standardised(model: Autoencoder, count: int = 4) -> Tensor:
    return torch.rand(count, *model.config.input_shape, generator=torch.Generator().manual_seed(1)).round()


@configs
def test_probabilities_of_factorised_codes_add_up_to_one_whatever_the_codes_before(config: TokenizerConfig) -> None:
    ours = model(config, "independent")
    context = ours.recognition.context(standardised(ours, 1))
    every = torch.arange(16)[:, None].expand(16, ours.config.num_tokens)
    shuffled = every[torch.randperm(16)]
    log_q = ours.recognition.log_prob(context, every)
    torch.testing.assert_close(log_q.exp().sum(0), torch.ones(ours.config.num_tokens))
    mixed = torch.cat([shuffled[:, :1], every[:, 1:]], 1)
    torch.testing.assert_close(ours.recognition.log_prob(context, mixed)[:, 1:], log_q[:, 1:])


def test_factorised_codes_are_drawn_by_their_probabilities_with_samples_of_an_item_side_by_side() -> None:
    ours = model(TINY_MLP, "independent")
    context = ours.recognition.context(standardised(ours, 2))
    uniform = torch.rand(2 * 4000, 8, generator=torch.Generator().manual_seed(0))
    drawn = sample_codes(ours.recognition, context, uniform)
    torch.testing.assert_close(drawn.log_probs, ours.recognition.log_prob(context, drawn.codes))
    for item in range(2):
        rows = drawn.codes[item * 4000 : (item + 1) * 4000]
        found = torch.stack([torch.bincount(rows[:, t], minlength=16) for t in range(8)]) / 4000
        torch.testing.assert_close(found, context[item].softmax(-1), atol=0.03, rtol=0)
    greedy = sample_codes(ours.recognition, context, torch.rand(2, 8), temperature=0.0)
    assert torch.equal(greedy.codes, context.argmax(-1))


@configs
@pytest.mark.parametrize("kind", ["nearest", "levels"])
def test_a_quantiser_has_one_code_whatever_the_temperature_and_no_probabilities(
    config: TokenizerConfig, kind: str
) -> None:
    ours = model(config, kind)
    context, tokens = ours.recognition.context(standardised(ours)), ours.config.num_tokens
    warm, cold = (sample_codes(ours.recognition, context, torch.rand(8, tokens), t) for t in (1.0, 0.0))
    assert torch.equal(warm.codes, cold.codes) and torch.equal(warm.codes[0::2], warm.codes[1::2])
    assert int(warm.codes.min()) >= 0 and int(warm.codes.max()) < 16 and not warm.log_probs.any()
    assert not ours.config.recognition.has_probabilities
    with pytest.raises(UnsupportedError, match=f"kind {kind} gives codes no probabilities"):
        ours.recognition.log_prob(context, warm.codes)


def test_the_encoder_of_a_gaussian_vae_makes_no_codes() -> None:
    ours = model(TINY_MLP, "gaussian")
    with pytest.raises(UnsupportedError, match="kind gaussian makes no codes"):
        sample_codes(ours.recognition, ours.recognition.context(standardised(ours)), torch.rand(4, 8))


def test_what_draws_code_by_code_refuses_another_kind() -> None:
    with pytest.raises(ConfigError, match=r"recognition\.kind must be autoregressive for this, not independent"):
        _ = model(TINY_MLP, "independent").autoregressive


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "fuzzy"}, "recognition.kind must be one of autoregressive, independent, nearest, levels, gaussian"),
        ({"kind": "levels"}, r"kind levels has \[\]"),
        ({"levels": (4, 4)}, r"kind autoregressive has \[4, 4\]"),
        ({"kind": "levels", "levels": (16, 1)}, "3 or more"),
    ],
    ids=str,
)
def test_kinds_that_make_no_sense_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(TINY_MLP.recognition, **changes)


def test_levels_must_make_as_many_codes_as_there_are() -> None:
    with pytest.raises(ConfigError, match=r"recognition\.levels \[4, 5\] make 20 codes, not 16"):
        replace(TINY_MLP, recognition=replace(TINY_MLP.recognition, kind="levels", levels=(4, 5)))


@pytest.mark.parametrize(("config", "layers", "ratio"), [(CIFAR10, 4, 6), (LAFAN, 6, 4)], ids=["cifar10", "lafan"])
def test_the_encoders_of_the_papers_quantisers_have_as_many_parameters_as_its_recognition_models(
    config: TokenizerConfig, layers: int, ratio: int
) -> None:
    sizes = replace(config.recognition, kind="gaussian", num_layers=layers, mlp_ratio=ratio)  # all but a head
    ours, theirs = Autoencoder(replace(config, recognition=sizes)), Autoencoder(config)
    counts = [sum(p.numel() for p in model.recognition.parameters()) for model in (ours, theirs)]
    assert counts[0] == pytest.approx(counts[1], rel=0.05)
