"""Windows labelled by what they show: what a row holds, what is held out, and that clips become such windows once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from daps_tokenizer.config.generator import Condition, GeneratorConfig, TokenizerReference, TransformerConfig
from daps_tokenizer.errors import ConfigError
from daps_tokenizer.motion.features import standing
from daps_tokenizer.motion.robots import H1
from train.data import Dataset
from train.generators import described
from train.generators import experiment as experiments
from train.generators.base import unpack
from train.generators.codes import CodesConfig, open_codes
from train.generators.experiment import GeneratorExperiment
from train.generators.kinds import KINDS, KindCodes, KindItems
from train.loop import fit
from train.optimisation import OptimiserConfig

N, V = 4, 6


def toy(count: int = 64) -> KindItems:
    """A window's kind decides its first codes, the window before its last ones. Windows follow each other in eights."""
    random = np.random.default_rng(0)
    kinds = random.integers(0, 3, count)
    before = np.where(np.arange(count) % 8 > 0, np.arange(count) - 1, -1)
    codes = np.tile(kinds[:, None], (1, N))
    codes[:, 2:] = 3 + np.where(before >= 0, kinds[before], 0)[:, None]
    return KindItems(
        codes, before, kinds, share=(np.arange(count) % 8) / 8, frames=np.full(count, 3000), chosen=np.arange(count)
    )


def config() -> GeneratorConfig:
    sizes = TransformerConfig(hidden_size=16, num_layers=1, num_heads=2)
    told, labels = (Condition("before", N, codes=True),), ("a", "b", "c")
    return GeneratorConfig(
        "toy", "causal", TokenizerReference("toy", ""), N, V, sizes, labels, conditions=told, book_size=2
    )


def test_a_row_is_taken_apart_again_and_the_window_before_is_hidden_at_times() -> None:
    items = toy()
    codes, told = unpack(config(), torch.from_numpy(items.read_first([0, 9])))
    assert told is not None and codes.tolist() == items.codes[[0, 9]].tolist()
    assert told.known.tolist() == [[0], [1]] and told.values[0][1].tolist() == items.codes[8].tolist()
    drawn = items.read(np.arange(64), seed=(0, 1))
    _, some = unpack(config(), torch.from_numpy(drawn))
    assert some is not None and 40 < some.known.sum() < 56  # of the 56 that have one
    assert np.array_equal(drawn, items.read(np.arange(64), seed=(0, 1)))


def test_held_out_windows_are_the_ends_of_clips_and_keep_their_labels() -> None:
    data = KindCodes(toy(), {}).split(8)
    assert isinstance(data.train, KindItems) and isinstance(data.test, KindItems)
    assert data.test.share[data.test.chosen].min() > data.train.share[data.train.chosen].max()
    assert data.test_labels is not None and np.array_equal(data.test_labels, toy().kinds[data.test.chosen])


def test_a_generator_learns_the_kind_and_the_window_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    books = torch.randn(N, V, 2, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(experiments, "_code_books", lambda tokenizer: books)
    codes = CodesConfig("unused", tokenizer="toy", dataset="kinds")
    experiment = GeneratorExperiment(
        "toy", "causal", codes, steps=250, batch_size=16, network=config().network, model=config(),
        optimiser=OptimiserConfig(learning_rate=1e-2), evaluate_every=250, checkpoint_every=250,
    )  # fmt: skip
    items = toy()
    data = Dataset(items, items, train_labels=items.labels, test_labels=items.labels, validation=items)
    record = fit(experiment, data, tmp_path / "run", show_progress=False, draw_pictures=False)
    assert record["validation"]["bits_per_item"] < 1.2  # 2 log2 3 without both, log2 3 with one


def test_clips_become_labelled_windows_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poses = np.tile(standing(H1), (3, 100, 1))
    poses[1, :, 0] = np.arange(100) / 30 * 0.6
    poses[2, :, 0] = np.arange(100) / 30 * 1.5
    clips = dict(zip(("walk1_subject1", "walk2_subject1", "run1_subject2"), poses, strict=True))
    monkeypatch.setattr(described, "load_clips", lambda path, robot: clips)
    config = CodesConfig(str(tmp_path / "codes"), tokenizer="daps-h1-motion", dataset="kinds")
    made = open_codes(config, tmp_path)
    assert isinstance(made, KindCodes) and made.classes == tuple(KINDS)
    items, windows = made.items, 5  # of each clip, and of its mirror image
    assert items.codes.shape == (2 * 3 * windows, 64)
    named = [made.classes[kind] for kind in items.labels]
    assert named == ["stand"] * 2 * windows + ["walk"] * 2 * windows + ["run"] * 2 * windows
    assert items.before[:windows].tolist() == [-1, -1, 0, 1, 2]  # windows overlap by half
    monkeypatch.setattr(described, "load_clips", lambda path, robot: pytest.fail("encoded twice"))
    again = open_codes(config, tmp_path)
    assert isinstance(again, KindCodes) and np.array_equal(again.items.codes, items.codes)
    with pytest.raises(ConfigError, match="windows of clips need a tokenizer of motion; daps-mnist is one of images"):
        open_codes(CodesConfig(str(tmp_path / "others"), tokenizer="daps-mnist", dataset="kinds"), tmp_path)
    with pytest.raises(ConfigError, match="kinds motion has greedy codes and mirror images, no samples or flip"):
        CodesConfig("codes", tokenizer="daps-h1-motion", dataset="kinds", flip=True)
