"""Local search: never worse than greedy, the same every time, and exact where one position is changed at a time."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from daps_tokenizer import LocalSearch, Tokenizer, TokenizerConfig
from daps_tokenizer.backends import torch_sweeps
from daps_tokenizer.backends.protocol import Backend, CellLikelihood, Decoded
from daps_tokenizer.backends.torch import TorchBackend
from daps_tokenizer.backends.torch_sweeps import Sweeps
from daps_tokenizer.errors import InputError
from daps_tokenizer.hub import open_model
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.search import local as local_search
from tests.paths import EXAMPLES
from tests.settings import CIFAR10, TINY_GRID, TINY_MLP, TINY_MOTION
from tests.test_tokenizer import digits

# An 8×8 grid of codes whose lattices have several positions each.
GRID = dataclasses.replace(TINY_GRID, name="random-grid", input_shape=(32, 32, 3), num_tokens=64)


def random_backend(config: TokenizerConfig) -> TorchBackend:
    torch.manual_seed(0)
    model = Autoencoder(config).eval().requires_grad_(False)
    return TorchBackend(model, device="cpu", dtype=torch.float32)


def photos(count: int, side: int = 32, seed: int = 0) -> np.ndarray:
    """Something with areas and edges, (count, side, side, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, side // 8, side // 8, 3), dtype=np.uint8)
    return coarse.repeat(8, 1).repeat(8, 2)


@pytest.fixture(scope="module")
def grid() -> Backend:
    return random_backend(GRID)


def objective_of(backend: Backend, x: np.ndarray, codes: np.ndarray, objective: str) -> np.ndarray:
    values = backend.likelihood(x, codes)
    per_code = values.log_likelihood if objective == "log_likelihood" else -values.squared_error
    return per_code.astype(np.float64).sum(1)


@pytest.mark.parametrize("objective", ["log_likelihood", "squared_error"])
def test_no_image_is_worse_than_its_greedy_codes_and_the_gain_is_as_reported(grid: Backend, objective: str) -> None:
    x = photos(8)
    found = LocalSearch(objective=objective).find(grid, x, GRID)  # type: ignore[arg-type]
    gain = objective_of(grid, x, found.codes, objective) - objective_of(grid, x, found.greedy, objective)
    np.testing.assert_allclose(found.gain, gain, rtol=1e-9)
    assert (gain >= 0).all() and (gain > 0).mean() > 0.5
    np.testing.assert_array_equal(found.greedy, grid.encode(x, np.zeros((8, 64), np.float32), 0.0).codes)


def test_more_sweeps_are_never_worse(grid: Backend) -> None:
    gains = [LocalSearch(sweeps=sweeps).find(grid, photos(6), GRID).gain for sweeps in (1, 2, 3)]
    assert (gains[1] >= gains[0]).all() and (gains[2] >= gains[1]).all() and (gains[2] > gains[0]).any()


def test_a_sweep_takes_nine_decodes_a_proposal_and_one_to_know_the_result(grid: Backend) -> None:
    assert LocalSearch(proposals=2).find(grid, photos(2), GRID).decodes == 1 + 9 * 2 + 1
    mlp = LocalSearch(proposals=2).find(random_backend(TINY_MLP), digits(2), TINY_MLP)
    assert mlp.decodes == 1 + TINY_MLP.num_tokens * 2 + 1


def test_a_search_that_finds_nothing_more_ends_early(grid: Backend) -> None:
    backend = random_backend(TINY_MLP)
    found = LocalSearch(sweeps=100, proposals=15).find(backend, digits(1), TINY_MLP)
    assert found.decodes < 20 * (TINY_MLP.num_tokens * 15 + 1)
    again = LocalSearch(sweeps=101, proposals=15).find(backend, digits(1), TINY_MLP)
    np.testing.assert_array_equal(again.codes, found.codes)


@pytest.mark.parametrize("config", [TINY_MLP, TINY_MOTION], ids=lambda config: config.name)
def test_one_position_at_a_time_it_finds_what_trying_everything_finds(config: TokenizerConfig) -> None:
    backend = random_backend(config)
    inputs = digits(3) if config.modality == "image" else np.random.default_rng(0).normal(size=(3, 4, 5))
    x = inputs if config.modality == "image" else inputs.astype(np.float32)
    found = LocalSearch(proposals=config.vocab_size - 1).find(backend, x, config)
    codes = found.greedy.copy()
    for item, position in itertools.product(range(len(x)), range(config.num_tokens)):
        tried = codes[item : item + 1].repeat(config.vocab_size, 0)
        tried[:, position] = np.arange(config.vocab_size)
        values = objective_of(backend, x[item : item + 1].repeat(config.vocab_size, 0), tried, "log_likelihood")
        codes[item] = tried[values.argmax()]
    np.testing.assert_array_equal(found.codes, codes)


def test_it_is_deterministic_and_an_image_has_the_same_codes_alone_and_in_a_batch(grid: Backend) -> None:
    x = photos(4)
    search = LocalSearch(sweeps=3)
    together = search.find(grid, x, GRID).codes
    np.testing.assert_array_equal(together, search.find(grid, x, GRID).codes)
    alone = [search.find(grid, x[i : i + 1], GRID).codes for i in range(4)]
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_both_backends_find_the_same(random_grid_folder: Path) -> None:
    onnx, torch_ = (Tokenizer.from_pretrained(random_grid_folder, backend=name) for name in ("onnx", "torch"))  # type: ignore[arg-type]
    for search in (LocalSearch(), LocalSearch(objective="squared_error", sweeps=2), LocalSearch(log_q_weight=1.0)):
        np.testing.assert_array_equal(
            onnx.encode(photos(3, side=16), search=search).numpy(),
            torch_.encode(photos(3, side=16), search=search).numpy(),
        )


def test_a_tokenizer_searches_every_tile() -> None:
    tok = Tokenizer.from_pretrained("daps-cifar10")
    image = np.asarray(Image.open(EXAMPLES / "cat.png").convert("RGB"))[100:132, 150:214]
    greedy, searched = tok.encode(image, fit="tile"), tok.encode(image, fit="tile", search=LocalSearch())
    assert searched.shape == greedy.shape == (1, 2, 64)
    assert (searched.numpy() != greedy.numpy()).any(-1).all()  # in both tiles
    likelihoods = [tok.likelihood(image, codes, fit="tile").log_likelihood.sum() for codes in (greedy, searched)]
    assert likelihoods[1] > likelihoods[0]


def test_without_time_the_codes_are_greedy(grid: Backend) -> None:
    found = LocalSearch(max_seconds=0).find(grid, photos(2), GRID)
    np.testing.assert_array_equal(found.codes, found.greedy)
    assert found.decodes == 1 and (found.gain == 0).all()


def test_progress_is_told_to_its_end(grid: Backend) -> None:
    shares: list[float] = []
    LocalSearch(proposals=1).find(grid, photos(1), GRID, on_progress=shares.append)
    assert len(shares) == 9 and shares == sorted(shares) and shares[-1] == 1.0


def test_a_score_of_ones_own_is_improved(grid: Backend) -> None:
    def brightness(inputs: np.ndarray, decoded: Decoded, codes: np.ndarray) -> np.ndarray:
        assert inputs.shape == decoded.reconstruction.shape == decoded.mean.shape and len(codes) == len(inputs)
        return decoded.mean.mean((1, 2, 3))

    x = photos(2)
    found = LocalSearch(score=brightness, proposals=1).find(grid, x, GRID)
    before, after = (grid.decode(codes).mean.mean((1, 2, 3)) for codes in (found.greedy, found.codes))
    assert (after > before).all() and found.decodes == 1 + 64 + 1
    np.testing.assert_allclose(found.gain, after - before, atol=1e-5)


def test_log_q_keeps_codes_predictable(grid: Backend) -> None:
    x = photos(4)
    free, held = (LocalSearch(log_q_weight=weight).find(grid, x, GRID) for weight in (0.0, 1e6))
    log_q = [grid.score(x, codes, 1).log_probs.sum(1) for codes in (free.greedy, free.codes, held.codes)]
    assert (log_q[2] >= log_q[0] - 1e-3).all() and log_q[2].sum() > log_q[1].sum()
    assert (held.gain >= 0).all()


def test_log_q_counts_beside_a_score_too() -> None:
    backend, x = random_backend(TINY_MLP), digits(2)
    found = LocalSearch(score=lambda inputs, decoded, codes: np.zeros(len(inputs)), log_q_weight=2.0).find(
        backend, x, TINY_MLP
    )
    before, after = (backend.score(x, codes, 1).log_probs.sum(1) for codes in (found.greedy, found.codes))
    np.testing.assert_allclose(found.gain, 2.0 * (after - before), atol=1e-4)


def test_a_search_goes_on_from_given_codes_as_if_it_had_not_stopped(grid: Backend) -> None:
    x = photos(4)
    first = LocalSearch(sweeps=1).find(grid, x, GRID)
    second = LocalSearch(sweeps=1).find(grid, x, GRID, start=first.codes)
    both = LocalSearch(sweeps=2).find(grid, x, GRID)
    np.testing.assert_array_equal(second.codes, both.codes)
    np.testing.assert_allclose(first.gain + second.gain, both.gain)


def test_proposals_can_be_ones_own(grid: Backend) -> None:
    def next_codes(inputs: np.ndarray, codes: np.ndarray, count: int) -> np.ndarray:
        return (codes[..., None] + 1 + np.arange(count)) % GRID.vocab_size

    found = LocalSearch(proposals=2, propose=next_codes).find(grid, photos(3), GRID)
    assert set(np.unique((found.codes - found.greedy) % GRID.vocab_size)) == {0, 1, 2}
    assert (found.gain > 0).any() and (found.gain >= 0).all()


@pytest.mark.parametrize(
    ("proposals", "message"),
    [
        (np.zeros((2, 64)), r"integers of shape \(2, 64, 2\), not float64 of shape \(2, 64\)"),
        (np.full((2, 64, 2), 16), "codes from 0 to 15"),
        ([[1], [1, 2]], r"integers of shape \(2, 64, 2\) \(setting an array element"),
    ],
)
def test_proposals_that_are_no_codes_are_refused(grid: Backend, proposals: object, message: str) -> None:
    with pytest.raises(InputError, match=f"propose must return {message}"):
        LocalSearch(propose=lambda inputs, codes, count: proposals).find(grid, photos(2), GRID)


def change_by_code(position: int) -> torch.Tensor:
    """Where the output of the CIFAR-10 decoder changes with the code at one position: (8, 8), summed over each cell."""
    generative = random_backend(CIFAR10).model.generative
    codes = torch.randint(CIFAR10.vocab_size, (16, 64))
    changed = codes.clone()
    changed[:, position] = (codes[:, position] + 1) % CIFAR10.vocab_size
    difference = (generative(changed) - generative(codes)).square().sum(-1)
    return difference.unflatten(2, (8, 4)).unflatten(1, (8, 4)).sum((0, 2, 4))


def test_a_code_reaches_as_far_as_the_kernels_do_and_no_further() -> None:
    change = change_by_code(0)
    reach = CIFAR10.generative.num_layers + 2
    assert change[: reach + 1, : reach + 1].min() > 0
    assert change[reach + 1 :].max() == 0 and change[:, reach + 1 :].max() == 0


def test_most_of_what_a_code_changes_is_in_the_nine_codes_around_it() -> None:
    change = change_by_code(3 * 8 + 3)
    # Random weights spread it widest: 63 % and 96 % here, 98 % and nearly all of it on a trained model.
    assert change[2:5, 2:5].sum() > 0.6 * change.sum() and change[1:6, 1:6].sum() > 0.95 * change.sum()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sweeps": 0}, "sweeps must be an integer of at least 1, not 0"),
        ({"proposals": 1.5}, "proposals must be an integer of at least 1, not 1.5"),
        ({"proposals": True}, "proposals must be an integer of at least 1, not True"),
        ({"objective": "ssim"}, "objective must be log_likelihood or squared_error, not 'ssim'"),
        ({"score": 3}, "score must be a function of"),
        ({"score": max, "objective": "squared_error"}, "score takes the place of objective 'squared_error'"),
        ({"propose": "q"}, "propose must be a function of"),
        ({"log_q_weight": -1.0}, "log_q_weight must be a finite number of at least 0, not -1.0"),
        ({"log_q_weight": None}, "log_q_weight must be a finite number of at least 0, not None"),
        ({"max_seconds": float("nan")}, "max_seconds must be a finite number of at least 0, not nan"),
    ],
)
def test_an_impossible_search_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LocalSearch(**options)  # type: ignore[arg-type]


def test_a_score_of_the_wrong_shape_is_refused(grid: Backend) -> None:
    with pytest.raises(InputError, match=r"score must return one number for each of 2 inputs, not .* shape \(2, 64\)"):
        LocalSearch(score=lambda inputs, decoded, codes: codes).find(grid, photos(2), GRID)


@pytest.mark.parametrize("scores", [["a", "b"], [[1.0], [1.0, 2.0]], [1j, 2j], [1.0, float("nan")]])
def test_scores_that_are_no_numbers_are_refused(grid: Backend, scores: object) -> None:
    with pytest.raises(InputError, match="score must return one number for each of 2 inputs"):
        LocalSearch(score=lambda inputs, decoded, codes: scores).find(grid, photos(2), GRID)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("most_captured", [0, 10**6])  # batches that are not captured on a GPU, and that are
@pytest.mark.parametrize("objective", ["log_likelihood", "squared_error"])
def test_a_backend_that_sweeps_on_its_device_finds_the_same(
    objective: str, most_captured: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_sweeps, "_MOST_CAPTURED", most_captured)
    images = photos(3)
    search = LocalSearch(sweeps=2, proposals=2, objective=objective)  # type: ignore[arg-type]
    by_host = search.find(random_backend(GRID), images, GRID)
    there = random_backend(GRID)
    there._sweeps = Sweeps(there.model, "cpu")  # as on a GPU
    progress: list[float] = []
    on_device = search.find(there, images, GRID, on_progress=progress.append)
    np.testing.assert_array_equal(on_device.codes, by_host.codes)
    np.testing.assert_allclose(on_device.gain, by_host.gain, rtol=1e-6)
    assert (on_device.codes != by_host.greedy).any() and progress[-1] == 1.0


@pytest.mark.parametrize("name", ["daps-mnist", "daps-cifar10"])
def test_proposals_that_are_judged_together_are_chosen_as_one_after_the_other(name: str) -> None:
    """A sweep on the device asks for each proposal by itself."""
    folder = open_model(name)
    images = digits(2) if name == "daps-mnist" else photos(2)
    search = LocalSearch(proposals=3)
    together = Watched(TorchBackend.open(folder))
    found = search.find(together, images, folder.config)  # type: ignore[arg-type]
    one_by_one = TorchBackend.open(folder)
    one_by_one._sweeps = Sweeps(one_by_one.model, "cpu")
    expected = search.find(one_by_one, images, folder.config)
    np.testing.assert_array_equal(found.codes, expected.codes)
    assert (found.codes != found.greedy).any() and found.decodes == expected.decodes
    assert sorted(set(together.judged)) == [2, 6]  # before and after; three proposals for each of two images


class Watched:
    """A backend that keeps how many items were judged in each call."""

    device, tiles_per_item = "cpu", 1

    def __init__(self, backend: TorchBackend) -> None:
        self.judged: list[int] = []
        self.encode, self.score, self._backend = backend.encode, backend.score, backend

    def likelihood(self, inputs: np.ndarray, codes: np.ndarray) -> CellLikelihood:
        assert len(inputs) == len(codes)
        self.judged.append(len(codes))
        return self._backend.likelihood(inputs, codes)


@pytest.mark.parametrize(("batch", "together"), [(1, {1, 4}), (2, {2, 4}), (4, {4}), (7, {7})])
def test_no_more_is_judged_together_than_one_pass_takes(
    batch: int, together: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_search, "parallel_chunk", lambda config, device: 6)
    backend, shares = Watched(random_backend(GRID)), list[float]()
    search = LocalSearch(proposals=4)
    found = search.find(backend, photos(batch), GRID, on_progress=shares.append)  # type: ignore[arg-type]
    assert set(backend.judged) == together and found.decodes == sum(backend.judged) / batch == 1 + 9 * 4 + 1
    assert shares == sorted(shares) and shares[-1] == 1.0
    monkeypatch.undo()
    np.testing.assert_array_equal(found.codes, search.find(random_backend(GRID), photos(batch), GRID).codes)


def test_what_has_to_ask_the_host_is_not_swept_on_the_device() -> None:
    there = random_backend(GRID)
    there._sweeps = Sweeps(there.model, "cpu")
    search = LocalSearch(score=lambda inputs, decoded, codes: -np.abs(decoded.mean).mean((1, 2, 3)), proposals=1)
    assert search.find(there, photos(1), GRID).decodes == 1 + GRID.num_tokens + 1
