"""The networks: as large as the authors', the same along every way through them, and exact about probabilities."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.nn import functional as F

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import ModelFileError
from daps_tokenizer.model.autoencoder import Autoencoder, load_weights, save_weights
from daps_tokenizer.model.likelihoods import Bernoulli, ConstantGaussian, Gaussian
from daps_tokenizer.model.sampling import SampledCodes, choose_codes, sample_codes
from daps_tokenizer.model.transformer import Head, Memory, attend_plainly, sinusoidal_positions
from tests.settings import CIFAR10, IMAGENET256, LAFAN, MNIST, TINY_GRID, TINY_MLP, TINY_MOTION, of_kind

LARGEST_UNIFORM = 1 - 2.0**-24  # the largest number that a float32 generator returns


def random_model(config: TokenizerConfig) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(config).eval()


def random_inputs(config: TokenizerConfig, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    if config.modality == "image":
        return torch.randint(0, 256, (count, *config.input_shape), generator=generator, dtype=torch.uint8)
    return torch.randn(count, *config.input_shape, generator=generator)


def sample(
    config: TokenizerConfig, model: Autoencoder, *, items: int, samples: int, temperature: float
) -> SampledCodes:
    uniform = torch.rand(items * samples, config.num_tokens, generator=torch.Generator().manual_seed(2))
    context = model.recognition.context(model.standardise(random_inputs(config, items)))
    return sample_codes(model.recognition, context, uniform, temperature)


# --- sizes


@pytest.mark.parametrize(
    ("config", "recognition", "generative"),
    [
        (MNIST, 156_480, 267_344),
        (CIFAR10, 1_060_992, 257_958),
        (IMAGENET256, 1_211_008, 330_198),
        (LAFAN, 1_251_456, 625_407),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_networks_have_the_authors_number_of_parameters(
    config: TokenizerConfig, recognition: int, generative: int
) -> None:
    with torch.device("meta"):
        model = Autoencoder(config)
    assert sum(p.numel() for p in model.recognition.parameters() if p.requires_grad) == recognition
    assert sum(p.numel() for p in model.generative.parameters() if p.requires_grad) == generative


@pytest.mark.parametrize("config", [TINY_MLP, TINY_GRID, TINY_MOTION], ids=lambda config: config.name)
def test_the_generative_model_gives_a_distribution_over_the_whole_input(config: TokenizerConfig) -> None:
    model = random_model(config)
    codes = sample(config, model, items=2, samples=1, temperature=1.0).codes
    assert model.likelihood.moments(model.generative(codes)).mean.shape == (2, *config.input_shape)


# --- the recognition model q(z|x)


@pytest.mark.parametrize("config", [MNIST, CIFAR10, LAFAN], ids=lambda config: config.name)
def test_one_parallel_pass_gives_the_log_probs_that_sampling_step_by_step_saw(config: TokenizerConfig) -> None:
    model = random_model(config)
    sampled = sample(config, model, items=2, samples=2, temperature=1.0)
    context = model.recognition.context(model.standardise(random_inputs(config, 2)))
    with torch.no_grad():
        log_probs = model.recognition.log_prob(context, sampled.codes)
    torch.testing.assert_close(log_probs, sampled.log_probs, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("config", [TINY_MLP, TINY_MOTION], ids=lambda config: config.name)
@torch.no_grad()
def test_samples_that_share_one_context_are_the_samples_of_separate_runs(config: TokenizerConfig) -> None:
    model, samples = random_model(config), 3
    x = model.standardise(random_inputs(config, 2))
    uniform = torch.rand(2 * samples, config.num_tokens, generator=torch.Generator().manual_seed(3))
    shared = sample_codes(model.recognition, model.recognition.context(x), uniform)
    for row in range(2 * samples):
        item = x[row // samples][None]
        alone = sample_codes(model.recognition, model.recognition.context(item), uniform[row][None])
        torch.testing.assert_close(shared.codes[row], alone.codes[0], atol=0, rtol=0)
        torch.testing.assert_close(shared.log_probs[row], alone.log_probs[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_probability_of_a_code_depends_on_earlier_codes_only() -> None:
    model = random_model(TINY_MLP)
    context = model.recognition.context(model.standardise(random_inputs(TINY_MLP, 1)))
    codes = torch.zeros(1, 8, dtype=torch.long)
    changed = codes.clone()
    changed[0, 3] = 5
    difference = (model.recognition.logits(context, codes) - model.recognition.logits(context, changed))[0].abs()
    assert (difference[:4] == 0).all() and (difference[4:].amax(-1) > 0).all()


@torch.no_grad()
def test_the_probabilities_of_all_codes_of_a_short_sequence_sum_to_one() -> None:
    model = random_model(TINY_MLP)
    context = model.recognition.context(model.standardise(random_inputs(TINY_MLP, 1)))
    first, second = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    codes = torch.zeros(256, 8, dtype=torch.long)
    codes[:, 0], codes[:, 1] = first.flatten(), second.flatten()
    log_q = model.recognition.log_prob(context, codes)[:, :2].sum(1)
    assert float(log_q.exp().sum()) == pytest.approx(1.0, abs=1e-5)


@torch.no_grad()
def test_greedy_codes_are_the_most_probable_ones_at_each_position() -> None:
    model = random_model(TINY_GRID)
    greedy = sample(TINY_GRID, model, items=3, samples=1, temperature=0.0)
    context = model.recognition.context(model.standardise(random_inputs(TINY_GRID, 3)))
    assert torch.equal(model.recognition.logits(context, greedy.codes).argmax(-1), greedy.codes)


@torch.no_grad()
def test_log_probs_are_those_of_temperature_one_whatever_the_codes_were_drawn_at() -> None:
    model = random_model(TINY_MLP)
    context = model.recognition.context(model.standardise(random_inputs(TINY_MLP, 3)))
    for temperature in (0.0, 0.5, 2.0):
        sampled = sample(TINY_MLP, model, items=3, samples=1, temperature=temperature)
        log_probs = model.recognition.log_prob(context, sampled.codes)
        torch.testing.assert_close(sampled.log_probs, log_probs, atol=1e-5, rtol=1e-5)


# --- drawing one code


def draw(probabilities: list[float], uniforms: list[float], temperature: float = 1.0) -> list[int]:
    logits = torch.tensor(probabilities).log().expand(len(uniforms), -1)
    return choose_codes(logits, torch.tensor(uniforms), temperature).tolist()


def test_a_uniform_number_picks_the_code_in_whose_share_of_the_unit_interval_it_lies() -> None:
    uniforms = [0.0, 0.2499, 0.2501, 0.7499, 0.7501, LARGEST_UNIFORM]
    assert draw([0.25, 0.5, 0.25], uniforms) == [0, 0, 1, 1, 2, 2]


def test_codes_of_probability_zero_are_never_drawn() -> None:
    uniforms = [0.0, 0.4999, 0.5001, LARGEST_UNIFORM]
    assert draw([0.0, 0.5, 0.0, 0.0, 0.5, 0.0], uniforms) == [1, 1, 4, 4]


@given(
    logits=st.lists(st.one_of(st.floats(-30, 30), st.just(-math.inf)), min_size=2, max_size=40),
    uniform=st.one_of(st.floats(0, LARGEST_UNIFORM, width=32), st.sampled_from([0.0, LARGEST_UNIFORM])),
)
@settings(max_examples=200, deadline=None)
def test_whatever_the_logits_a_draw_is_a_code_that_could_have_been_drawn(logits: list[float], uniform: float) -> None:
    logits[0] = max(logits[0], 0.0)  # at least one code is possible
    code = int(choose_codes(torch.tensor([logits]), torch.tensor([uniform]), 1.0))
    exact = torch.tensor(logits, dtype=torch.float64).softmax(0)
    assert exact[code] > 0
    assert exact[:code].sum() - 1e-5 <= uniform <= exact[: code + 1].sum() + 1e-5


def test_codes_are_drawn_as_often_as_they_are_probable() -> None:
    probabilities = torch.tensor([0.05, 0.4, 0.01, 0.3, 0.24])
    uniform = (torch.arange(10_000) + 0.5) / 10_000
    codes = choose_codes(probabilities.log().expand(10_000, -1), uniform, 1.0)
    torch.testing.assert_close(codes.bincount(minlength=5) / 10_000, probabilities, atol=2e-4, rtol=0)


def test_temperature_sharpens_below_one_flattens_above_and_takes_the_best_at_zero() -> None:
    probabilities, uniforms = [0.2, 0.5, 0.3], [0.01, 0.3, 0.6, 0.9]
    assert draw(probabilities, uniforms, 0.0) == [1, 1, 1, 1]
    assert draw(probabilities, uniforms, 0.01) == [1, 1, 1, 1]
    assert draw(probabilities, uniforms, 0.5) == [0, 1, 1, 2]  # shares 0.11, 0.66, 0.24
    assert draw(probabilities, uniforms, 1e6) == [0, 0, 1, 2]
    nearly_tied = torch.tensor([[0.0, 1e-7]])
    assert choose_codes(nearly_tied, torch.tensor([0.1]), 0.0).tolist() == [1]


# --- attention


def test_the_table_of_positions_is_that_of_exact_arithmetic_rounded_once() -> None:
    angle = np.arange(64)[:, None] * 10000.0 ** (-np.arange(0, 128, 2) / 128)
    exact = np.stack([np.sin(angle), np.cos(angle)], -1).reshape(64, 128)
    table = sinusoidal_positions(64, 128).numpy()
    assert table.dtype == np.float32
    # Half a unit in the last place of numbers below 1, and what float64 loses.
    np.testing.assert_allclose(table, exact, rtol=0, atol=2**-25 + 1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_in_bfloat16_is_the_fused_attention_up_to_rounding(causal: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    queries, keys, values = (torch.randn(2, 4, 12, 8, generator=generator) for _ in range(3))
    exact = F.scaled_dot_product_attention(queries, keys, values, is_causal=causal)
    memory = Memory(keys.bfloat16(), values.bfloat16())
    rough = attend_plainly(queries.bfloat16(), memory, causal=causal, bias=None)
    assert rough.dtype is torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, atol=3e-2, rtol=2e-2)
    if causal:  # the first query sees the first value and no other
        torch.testing.assert_close(rough[:, :, 0], values[:, :, 0].bfloat16(), atol=0, rtol=0)


# --- likelihoods


def test_bernoulli_is_torchs_bernoulli() -> None:
    logits, x = torch.randn(3, 4, 4, 1), (torch.rand(3, 4, 4, 1) > 0.5).float()
    expected = torch.distributions.Bernoulli(logits=logits)
    torch.testing.assert_close(Bernoulli().log_prob(logits, x), expected.log_prob(x))
    moments = Bernoulli().moments(logits)
    torch.testing.assert_close(moments.mean, expected.mean)
    torch.testing.assert_close(moments.variance, expected.variance)


def test_gaussian_is_torchs_normal_with_the_variance_clipped() -> None:
    parameters, x = torch.randn(3, 4, 4, 6) * 4, torch.randn(3, 4, 4, 3)
    mean, log_variance = parameters.chunk(2, -1)
    variance = log_variance.exp().clamp(0.01, 1.0)
    likelihood = Gaussian(min_variance=0.01, max_variance=1.0)
    expected = torch.distributions.Normal(mean, variance.sqrt()).log_prob(x)
    torch.testing.assert_close(likelihood.log_prob(parameters, x), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(likelihood.moments(parameters).mean, mean)
    torch.testing.assert_close(likelihood.moments(parameters).variance, variance)


def test_constant_gaussian_is_torchs_normal_with_one_variance() -> None:
    mean, x = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    likelihood = ConstantGaussian(variance=0.25)
    torch.testing.assert_close(likelihood.log_prob(mean, x), torch.distributions.Normal(mean, 0.5).log_prob(x))
    assert (likelihood.moments(mean).variance == 0.25).all()


# --- what each code adds


@pytest.mark.parametrize("config", [MNIST, TINY_GRID, TINY_MOTION], ids=lambda config: config.name)
@torch.no_grad()
def test_the_values_of_all_cells_sum_to_the_whole(config: TokenizerConfig) -> None:
    model = random_model(config)
    x = model.standardise(random_inputs(config, 3))
    codes = torch.randint(0, config.vocab_size, (3, config.num_tokens))
    cells = model.cell_values(x, codes)
    assert cells.log_likelihood.shape == cells.squared_error.shape == (3, config.num_tokens)
    torch.testing.assert_close(cells.log_likelihood.sum(1), model.log_likelihood(x, codes), rtol=1e-4, atol=1e-3)
    error = (model.likelihood.moments(model.generative(codes)).mean - x).square().flatten(1).sum(1)
    torch.testing.assert_close(cells.squared_error.sum(1), error, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("config", "place", "cells"),
    [
        (MNIST, (0, 13, 7, 0), [0]),
        (MNIST, (0, 27, 27, 0), [7]),  # the last patch, part of which is padding
        (TINY_GRID, (0, 4, 11, 2), [6]),
        (TINY_MOTION, (0, 1, 4), [2, 3]),  # both codes of the second frame
    ],
)
def test_a_value_counts_in_its_own_cell_and_in_no_other(
    config: TokenizerConfig, place: tuple[int, ...], cells: list[int]
) -> None:
    values = torch.zeros(1, *config.input_shape)
    values[place] = 1.0
    assert random_model(config).sum_cells(values)[0].nonzero()[:, 0].tolist() == cells


# --- input units


def test_every_pixel_value_survives_standardising_and_back() -> None:
    model = random_model(CIFAR10)
    pixels = torch.arange(256, dtype=torch.uint8)[:, None, None, None].expand(256, 32, 32, 3)
    assert torch.equal(model.to_input_units(model.standardise(pixels)), pixels)


def test_binary_images_are_white_above_127() -> None:
    model = random_model(MNIST)
    pixels = torch.tensor([0, 127, 128, 255], dtype=torch.uint8)
    assert model.standardise(pixels).tolist() == [0.0, 0.0, 1.0, 1.0]
    assert model.to_input_units(torch.tensor([0.0, 0.5, 1.0])).tolist() == [0, 128, 255]


def test_motion_is_standardised_per_feature_and_back() -> None:
    model = random_model(TINY_MOTION)
    clips = random_inputs(TINY_MOTION, 2)
    torch.testing.assert_close(model.standardise(clips), (clips - 0.5) / 2.0)
    torch.testing.assert_close(model.to_input_units(model.standardise(clips)), clips)


def test_pixels_beyond_the_range_are_clipped_not_wrapped() -> None:
    assert random_model(MNIST).to_input_units(torch.tensor([-0.5, 1.5])).tolist() == [0, 255]


# --- weights on disk


def test_saved_weights_make_the_same_model(tmp_path: Path) -> None:
    saved, loaded = random_model(TINY_GRID), Autoencoder(TINY_GRID)
    save_weights(saved, tmp_path / "model.safetensors")
    load_weights(loaded, tmp_path / "model.safetensors")
    for name, value in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(ModelFileError, match=r"model\.safetensors: no such file; expected the weights of tiny-mlp"):
        load_weights(random_model(TINY_MLP), path)


@pytest.mark.parametrize("kept", [0, 7, 100, -1], ids=lambda kept: f"{kept}-bytes")
def test_weights_cut_short_are_refused(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(random_model(TINY_MLP), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelFileError, match=r"model\.safetensors: not the weights of tiny-mlp \(.+\)$"):
        load_weights(random_model(TINY_MLP), path)


@pytest.mark.parametrize("change", ["missing", "extra", "another shape"])
def test_weights_of_another_model_are_refused(change: str, tmp_path: Path) -> None:
    path, weights = tmp_path / "model.safetensors", random_model(TINY_MLP).state_dict()
    if change == "missing":
        del weights["recognition.head.bias"]
    else:
        weights["recognition.head.bias" if change == "another shape" else "surplus"] = torch.zeros(3)
    save_file(weights, path)
    with pytest.raises(ModelFileError, match=r"model\.safetensors: not the weights of tiny-mlp"):
        load_weights(random_model(TINY_MLP), path)


# --- precision


@pytest.mark.parametrize("kind", ["autoregressive", "independent"])
def test_logits_are_not_rounded_where_training_runs_in_bfloat16(kind: str) -> None:
    model = random_model(of_kind(TINY_GRID, kind))
    x, codes = random_inputs(TINY_GRID, 2), torch.zeros(2, TINY_GRID.num_tokens, dtype=torch.long)
    seen: list[torch.Tensor] = []
    model.recognition.head.register_forward_hook(lambda head, inputs, output: seen.extend((*inputs, output)))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.recognition.logits(model.recognition.context(model.standardise(x)), codes)
    head = model.recognition.head
    assert isinstance(head, Head) and logits.dtype == seen[-1].dtype == torch.float32
    torch.testing.assert_close(seen[-1], F.linear(seen[-2].float(), head.weight, head.bias), rtol=0, atol=1e-6)
