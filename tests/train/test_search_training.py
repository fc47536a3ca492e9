"""Training with search: the sweep finds what trying everything finds, and each model learns from its own loss."""

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor, nn

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.sampling import sample_codes
from daps_tokenizer.model.sweep import most_probable_others, objective_of
from daps_tokenizer.neighbourhoods import groups_of_codes
from tests.settings import TINY_GRID, TINY_MLP, TINY_MOTION
from tests.train.methods.test_daps import images
from train.code_search import CodeSearch, greedy_in_passes
from train.methods import build_method
from train.methods.base import Batch, sum_neighbourhood
from train.methods.daps import DAPS, DAPSSettings
from train.methods.search import SearchSettings, SearchTraining

# Few enough codes to try all 6⁴ combinations.
ENUMERABLE = dataclasses.replace(TINY_GRID, name="enumerable", input_shape=(8, 8, 3), num_tokens=4, vocab_size=6)


def tiny_model(config: TokenizerConfig) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(config).eval()


def tiny_search(config: TokenizerConfig = TINY_GRID, **changes: object) -> SearchTraining:
    return SearchTraining(tiny_model(config), SearchSettings(**changes))  # type: ignore[arg-type]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blocks(config: TokenizerConfig, count: int) -> Tensor:
    """Images of areas of one colour each, (count, *input_shape) uint8."""
    height, width, channels = config.input_shape
    coarse = torch.randint(0, 256, (count, height // 4, width // 4, channels), generator=generator(1)).byte()
    return coarse.repeat_interleave(4, 1).repeat_interleave(4, 2)


@torch.no_grad()
def greedy_of(model: Autoencoder, x: Tensor) -> tuple[Tensor, Tensor]:
    return greedy_in_passes(model.recognition, model.recognition.context(x), len(x))


# --- the sweep


@torch.no_grad()
def test_where_codes_do_not_touch_each_others_pixels_a_sweep_finds_the_best_of_all_combinations() -> None:
    model = tiny_model(ENUMERABLE)
    for module in model.generative.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            module.weight[:, :, [0, 2]] = module.weight[:, :, :, [0, 2]] = 0
        if isinstance(module, nn.ConvTranspose2d):
            module.weight[:, :, [0, 3]] = module.weight[:, :, :, [0, 3]] = 0
    x = model.standardise(images(ENUMERABLE, 3))
    codes, logits = greedy_of(model, x)
    everything = torch.tensor(list(itertools.product(range(6), repeat=4)))
    for objective in ("log_likelihood", "squared_error"):
        found = CodeSearch(objective, proposals=5).run(model, x, codes, logits, generator())
        for item in range(3):
            values = objective_of(model, x[item : item + 1].expand(6**4, -1, -1, -1), objective)(everything).sum(1)
            assert torch.equal(found.codes[item], everything[values.argmax()])


@torch.no_grad()
@pytest.mark.parametrize("objective", ["log_likelihood", "squared_error"])
@pytest.mark.parametrize("config", [TINY_GRID, TINY_MLP, TINY_MOTION], ids=lambda config: config.name)
def test_no_item_is_worse_than_what_it_began_with(config: TokenizerConfig, objective: str) -> None:
    model = tiny_model(config)
    x = model.standardise(images(config, 8))
    codes, logits = greedy_of(model, x)
    found = CodeSearch(objective, groups=3).run(model, x, codes, logits, generator())  # type: ignore[arg-type]
    evaluate = objective_of(model, x, objective)  # type: ignore[arg-type]
    assert (found.values.sum(1) >= found.values_before.sum(1)).all() and (found.codes != codes).any()
    torch.testing.assert_close(found.values, evaluate(found.codes))
    torch.testing.assert_close(found.values_before, evaluate(codes))


def test_what_is_there_is_not_proposed() -> None:
    logits = torch.tensor([[[0.0, 3.0, 1.0, 2.0], [5.0, 1.0, 2.0, 0.0]]])
    assert most_probable_others(logits, torch.tensor([[1, 3]]), 2).tolist() == [[[3, 2], [0, 2]]]


@torch.no_grad()
@pytest.mark.parametrize("config", [TINY_GRID, TINY_MLP, TINY_MOTION], ids=lambda config: config.name)
def test_greedy_codes_in_passes_are_those_of_the_loop_over_positions(config: TokenizerConfig) -> None:
    model = tiny_model(config)
    x = model.standardise(images(config, 5))
    context = model.recognition.context(x)
    codes, logits = greedy_in_passes(model.recognition, context, 5)
    assert torch.equal(codes, sample_codes(model.recognition, context, torch.zeros(codes.shape), 0.0).codes)
    torch.testing.assert_close(logits, model.recognition.logits(context, codes))


@torch.no_grad()
def test_which_groups_a_step_visits_is_drawn_from_the_generator() -> None:
    model = tiny_model(TINY_GRID)
    x = model.standardise(images(TINY_GRID, 4))
    codes, logits = greedy_of(model, x)
    found = [CodeSearch(groups=1).run(model, x, codes, logits, generator(seed)).codes for seed in (0, 0, 1, 2, 3)]
    assert torch.equal(found[0], found[1]) and any(not torch.equal(found[0], other) for other in found[2:])
    changed = (found[0] != codes).any(0).nonzero()[:, 0].tolist()
    assert any(set(changed) <= set(group.positions) for group in groups_of_codes(TINY_GRID))


# --- the losses


def searched(method: SearchTraining, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, greedy codes, searched codes and their weights, as the method has them in a step."""
    x = method.model.standardise(inputs)
    greedy, logits = greedy_of(method.model, x)
    found = method.settings.search.run(method.model, x, greedy, logits, generator())
    with torch.no_grad():
        before, after = (method.model.cell_values(x, codes).log_likelihood for codes in (greedy, found.codes))
    grid = method.model.config.token_grid
    gain = after - before
    around = sum_neighbourhood(gain, grid) if grid else gain.sum(1, keepdim=True).expand_as(gain)
    return x, greedy, found.codes, (around / method.settings.temperature).sigmoid()


@pytest.mark.parametrize("config", [TINY_GRID, TINY_MLP], ids=lambda config: config.name)
def test_the_loss_is_the_sum_of_two_and_each_moves_its_own_model(config: TokenizerConfig) -> None:
    method = tiny_search(config, greedy_share=0.5, temperature=20.0, entropy_weight=0.3)
    inputs, model = images(config, 4), method.model
    total = method(Batch(inputs), generator(), 0.0).total
    x, greedy, found, weights = searched(method, inputs)
    phi = -model.log_likelihood(x, torch.cat([greedy[:2], found[2:]])).sum() / 4
    theta = torch.zeros(())
    log_q = model.recognition.logits(model.recognition.context(x), found).log_softmax(-1)
    for item, t in itertools.product(range(4), range(config.num_tokens)):
        w, row = weights[item, t], log_q[item, t]
        theta = theta - (w * row[found[item, t]] + (1 - w) * row[greedy[item, t]]) / 4
        theta = theta + 0.3 * (row.exp() * row).sum() / 4
    torch.testing.assert_close(total, theta + phi, rtol=1e-4, atol=1e-3)
    for loss, part in ((theta, model.recognition), (phi, model.generative)):
        parameters = list(part.parameters())
        found_by_method = torch.autograd.grad(total, parameters, retain_graph=True)
        for a, b in zip(found_by_method, torch.autograd.grad(loss, parameters), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * max(1.0, float(b.abs().max())))


def test_batch_norm_keeps_its_running_statistics() -> None:
    method = tiny_search().train()
    before = {name: value.clone() for name, value in method.model.generative.named_buffers()}
    method(Batch(images(TINY_GRID, 2)), generator(), 0.0)
    assert before and all(torch.equal(before[name], value) for name, value in method.model.generative.named_buffers())


def trained(part: str, steps: int, **settings: object) -> tuple[list[float], list[float], list[float]]:
    """Greedy and searched log p before and after some steps of one of the models, and the entropy of q in each."""
    method = tiny_search(TINY_MLP, search=CodeSearch(proposals=3), **settings)
    moving = getattr(method.model, part).parameters()
    optimiser, inputs = torch.optim.AdamW(moving, lr=1e-2, weight_decay=0.0), blocks(TINY_MLP, 4)
    x = method.model.standardise(inputs)
    greedy, searched_, entropy = [], [], []
    for step in range(steps + 1):
        if step in (0, steps):
            codes, logits = greedy_of(method.model, x)
            found = CodeSearch(proposals=15).run(method.model, x, codes, logits, generator())
            greedy.append(float(found.values_before.sum(1).mean()))
            searched_.append(float(found.values.sum(1).mean()))
        optimiser.zero_grad()
        losses = method(Batch(inputs), generator(step), 0.0)
        losses.total.backward()
        optimiser.step()
        entropy.append(float(losses.metrics["entropy"]))
    return greedy, searched_, entropy


def test_with_p_fixed_q_learns_to_find_what_search_finds() -> None:
    greedy, found, _ = trained("recognition", steps=25, entropy_weight=0.0, temperature=0.1)
    assert greedy[1] - greedy[0] > 0.5 * (found[0] - greedy[0]) > 0


def test_with_q_fixed_p_explains_searched_codes_better() -> None:
    _, found, _ = trained("generative", steps=15, greedy_share=0.0)
    assert found[1] > found[0] + 50


def test_an_entropy_bonus_keeps_q_from_sharpening() -> None:
    entropies = [trained("recognition", steps=10, entropy_weight=weight)[2][-1] for weight in (0.0, 2.0)]
    assert entropies[1] > 1.5 * entropies[0]


# --- DAPS on searched samples


@pytest.mark.parametrize("credit", ["global", "local"])
def test_daps_can_search_its_samples_before_it_weights_them(credit: str) -> None:
    found = {}
    for search in (None, CodeSearch(proposals=2)):
        method = DAPS(
            tiny_model(TINY_GRID),
            DAPSSettings(num_samples=4, batch_norm="frozen", credit=credit, search=search),  # type: ignore[arg-type]
        )
        losses = method(Batch(images(TINY_GRID, 4)), generator(), 0.5)
        losses.total.backward()
        assert all(parameter.grad is not None for parameter in method.parameters())
        found[search] = float(losses.metrics["log_p"])
    assert found[CodeSearch(proposals=2)] > found[None] + 1


def test_a_search_in_daps_leaves_batch_norm_in_the_mode_it_was_in() -> None:
    method = DAPS(tiny_model(TINY_GRID), DAPSSettings(num_samples=4, search=CodeSearch(groups=1))).train()
    before = method.model.generative.norms[0].num_batches_tracked.clone()
    method(Batch(images(TINY_GRID, 2)), generator(), 0.0)
    assert method.model.generative.training and int(method.model.generative.norms[0].num_batches_tracked - before) == 1


# --- settings that make no sense


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"greedy_share": 1.5}, "greedy_share must be between 0 and 1, not 1.5"),
        ({"temperature": 0.0}, "search needs a positive temperature"),
        ({"entropy_weight": -1.0}, "no negative entropy_weight"),
        ({"start_sharpness": 0.0}, "positive temperature and start_sharpness"),
        ({"search": {"objective": "ssim"}}, "objective must be log_likelihood or squared_error, not 'ssim'"),
        ({"search": {"proposals": 0}}, "proposals must be at least 1, not 0"),
        ({"search": {"groups": 0}}, "groups must be at least 1, or left out for all of them, not 0"),
        ({"search": {"sweeps": 2}}, "unknown key 'sweeps'"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_method("search", tiny_model(TINY_MLP), settings)
