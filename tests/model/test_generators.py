"""The networks of generators: guidance by hand, and a causal toy of two positions and three codes, enumerated."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from daps_tokenizer.config.generator import GeneratorConfig, TokenizerReference, TransformerConfig
from daps_tokenizer.model.generators import CausalTransformer, causal_step, guide

ALL_CODES = torch.tensor(list(itertools.product(range(3), repeat=2)))  # (9, 2)
ONE = torch.tensor(1.0)


@pytest.fixture
def toy() -> CausalTransformer:
    torch.manual_seed(0)
    network = TransformerConfig(hidden_size=8, num_layers=2, num_heads=2)
    config = GeneratorConfig("toy", "causal", TokenizerReference("toy", ""), 2, 3, network, labels=("round", "square"))
    model = CausalTransformer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # also what begins as zero, so that labels and codes matter
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def label(number: int, rows: int) -> Tensor:
    return torch.full((rows,), number)


def test_guidance_moves_logits_away_from_those_of_any_class() -> None:
    logits = torch.tensor([[[1.0, 2.0, 4.0]], [[1.0, 3.0, 3.5]]])  # with the label, and without
    assert torch.equal(guide(logits, torch.tensor(2.0)), torch.tensor([[1.0, 0.0, 5.0]]))
    assert torch.equal(guide(logits, torch.tensor(0.0)), logits[0])
    assert torch.equal(guide(logits[:1], torch.tensor(2.0)), logits[0])  # nothing to move away from


@torch.no_grad()
def test_log_p_of_all_codes_is_a_distribution_of_each_label(toy: CausalTransformer) -> None:
    round_p, square_p = (toy.log_prob(ALL_CODES, label(number, 9)).sum(1).exp() for number in (0, 1))
    assert float(round_p.sum()) == pytest.approx(1) and float(square_p.sum()) == pytest.approx(1)
    assert (round_p - square_p).abs().sum() > 0.2


@torch.no_grad()
def test_steps_with_memories_give_the_logits_of_whole_sequences(toy: CausalTransformer) -> None:
    labels = label(1, 9)
    whole = toy(ALL_CODES, labels)
    condition, _ = toy.encode(labels, None)
    first, past = toy.step(ALL_CODES[:, 0], torch.tensor(0), condition, [])
    second, _ = toy.step(ALL_CODES[:, 0], torch.tensor(1), condition, past)
    torch.testing.assert_close(torch.stack([first, second], 1), whole)


@torch.no_grad()
def test_drawn_codes_are_as_frequent_as_log_p_says_and_only_for_their_label(toy: CausalTransformer) -> None:
    count = 20_000
    uniform = torch.rand(count, 2, generator=torch.Generator().manual_seed(0))
    condition = toy.encode(label(0, count), None)[0][None]
    first, past = causal_step(toy, label(0, count), torch.tensor(0), uniform[:, 0], condition, ONE, ONE, [])
    second, _ = causal_step(toy, first, torch.tensor(1), uniform[:, 1], condition, ONE, ONE, past)
    found = torch.bincount(first * 3 + second, minlength=9) / count
    expected, of_other = (toy.log_prob(ALL_CODES, label(number, 9)).sum(1).exp() for number in (0, 1))
    error = (expected * (1 - expected) / count).sqrt()
    assert ((found - expected).abs() < 4.5 * error).all()
    assert not ((found - of_other).abs() < 4.5 * error).all()
