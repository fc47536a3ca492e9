"""An autoregressive recognition model may begin with weights that let it read the input where a code belongs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from tests.settings import CIFAR10, LAFAN, TINY_GRID, TINY_SPECTRAL, of_kind
from tests.train.test_training import experiment, run, tensors
from train.alignment import align_with_input


def share_that_is_read_nearby(config: TokenizerConfig, *, aligned: bool) -> float:
    """The share of parts of an input that change the hidden state of a code next to their own most, or of their own."""
    torch.manual_seed(0)
    model = Autoencoder(config).eval()
    if aligned:
        align_with_input(model.recognition)
    recognition = model.autoregressive
    parts = config.num_tokens
    embedded = torch.randn(1, parts, config.recognition.hidden_size)
    recognition.input_embedding = torch.nn.Identity()
    with torch.no_grad():
        changed = embedded.repeat(parts, 1, 1)
        changed[torch.arange(parts), torch.arange(parts)] = torch.randn(parts, config.recognition.hidden_size)
        before, after = (recognition.hidden_without_codes(recognition.context(x)) for x in (embedded, changed))
    most_changed = (after - before).square().sum(-1).argmax(1)
    return float(((most_changed - torch.arange(parts)).abs() <= 1).float().mean())


@pytest.mark.parametrize("config", [CIFAR10, LAFAN], ids=lambda config: config.name)
def test_a_part_of_the_input_changes_codes_at_its_place_most(config: TokenizerConfig) -> None:
    assert share_that_is_read_nearby(config, aligned=True) > 0.3
    assert share_that_is_read_nearby(config, aligned=False) < 0.1


def test_models_that_do_not_look_for_their_input_are_refused() -> None:
    with pytest.raises(ConfigError, match="aligned is for autoregressive recognition models"):
        align_with_input(Autoencoder(of_kind(TINY_GRID, "nearest")).recognition)
    shorter = replace(TINY_SPECTRAL, num_tokens=4)
    with pytest.raises(ConfigError, match="aligned needs a part of the input for each code, not 8 for 4"):
        align_with_input(Autoencoder(shorter).recognition)


def test_a_run_begins_aligned_where_its_experiment_says_so(tmp_path: Path) -> None:
    weights = []
    for aligned in (False, True):
        folder = tmp_path / str(aligned)
        run(experiment(aligned=aligned, steps=1), folder)
        weights.append(tensors(folder)["model: recognition.decoder_blocks.0.cross_attention.key.weight"])
    picked = torch.eye(8, 16).repeat(2, 1)  # two heads of 8 numbers
    largest_change = [float((weight / 3 - picked).abs().max()) for weight in weights]
    assert largest_change[1] < 0.1 < largest_change[0]


def test_weights_that_are_loaded_are_not_aligned() -> None:
    with pytest.raises(ConfigError, match="aligned says how weights begin, so it does not go with start_from"):
        experiment(aligned=True, start_from="runs/other/checkpoint")
