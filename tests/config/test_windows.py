"""Windows of codes: what is encoded side by side is what would be encoded alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.config.code_windows import Windows
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.sampling import sample_codes
from tests.settings import TINY_GRID, TINY_MOTION, TINY_WINDOWS

WINDOW = replace(TINY_GRID, name="one-window", input_shape=(8, 8, 3), num_tokens=4)


def test_a_window_is_a_block_of_the_grid_and_samples_of_a_window_lie_together() -> None:
    windows = Windows.of(TINY_WINDOWS)
    assert (windows.per_item, windows.num_codes) == (4, 4)
    assert (TINY_WINDOWS.windows_per_item, TINY_WINDOWS.codes_per_window) == (4, 4)
    codes = np.arange(16) + 100 * np.arange(6)[:, None]  # 3 items with 2 samples each
    rows = windows.split(codes, 3)
    assert rows[:4].tolist() == [[0, 1, 4, 5], [100, 101, 104, 105], [2, 3, 6, 7], [102, 103, 106, 107]]
    assert np.array_equal(windows.join(rows, 3), codes)


def test_arrays_of_numpy_and_torch_are_regrouped_alike() -> None:
    windows = Windows.of(TINY_WINDOWS)
    hidden = np.random.default_rng(0).random((6, 16, 5))
    rows = windows.split(torch.from_numpy(hidden), 2)
    assert np.array_equal(rows.numpy(), windows.split(hidden, 2))
    assert np.array_equal(windows.join(rows, 2).numpy(), hidden)


@pytest.mark.parametrize("config", [TINY_GRID, TINY_MOTION], ids=lambda config: config.name)
def test_an_item_that_is_not_cut_is_its_only_window(config: TokenizerConfig) -> None:
    windows, codes = Windows.of(config), np.zeros((2, config.num_tokens))
    assert windows.per_item == 1 and windows.num_codes == config.num_tokens
    assert windows.split(codes, 2) is codes and windows.join(codes, 2) is codes


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_each_window_gets_the_codes_that_it_gets_alone(temperature: float) -> None:
    torch.manual_seed(0)
    whole, alone = Autoencoder(TINY_WINDOWS).eval(), Autoencoder(WINDOW).eval()
    alone.load_state_dict(whole.state_dict())  # the same weights: no shape depends on the number of windows
    x, uniform = torch.randn(3, 16, 16, 3), torch.rand(6, 16)
    with torch.no_grad():
        codes = sample_codes(whole.recognition, whole.recognition.context(x), uniform, temperature).codes
        for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
            pixels = x[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            places = (slice(None), slice(2 * row, 2 * row + 2), slice(2 * column, 2 * column + 2))
            own = uniform.reshape(6, 4, 4)[places].reshape(6, 4)
            expected = sample_codes(alone.recognition, alone.recognition.context(pixels), own, temperature).codes
            assert torch.equal(codes.reshape(6, 4, 4)[places].reshape(6, 4), expected)


def test_scoring_gives_the_probabilities_that_the_codes_were_drawn_with() -> None:
    torch.manual_seed(0)
    recognition = Autoencoder(TINY_WINDOWS).eval().recognition
    with torch.no_grad():
        context = recognition.context(torch.randn(2, 16, 16, 3))
        drawn = sample_codes(recognition, context, torch.rand(6, 16))
        torch.testing.assert_close(recognition.log_prob(context, drawn.codes), drawn.log_probs)
