"""A motion tokenizer that begins as a transform codec: how the codec is fitted, and what is trained after."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from daps_tokenizer.config import GenerativeConfig, RecognitionConfig, TokenizerConfig, TransformConfig
from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.generative import SpectralGenerator
from daps_tokenizer.motion.features import mirror_features
from tests.motion.motions import smooth_motion
from tests.settings import LAFAN, TINY_MOTION
from train.data import Dataset
from train.evaluate import evaluate
from train.experiment import Experiment
from train.items import ArrayItems
from train.loop import fit
from train.methods import build_method
from train.methods.base import Batch, TrainedModel
from train.motion import MotionWindows, normalisation_of, windows_of
from train.transform_codec import deal, lloyd, nearest, quantise, water_filling

CLIPS = [smooth_motion(120, seed) for seed in range(3)]
SETTINGS = {"stride": 1, "book_samples": 2000, "book_rounds": 3, "correction_steps": 30, "correction_batch": 64}


def small_config() -> TokenizerConfig:
    return TokenizerConfig(
        name="small",
        modality="motion",
        input_shape=(4, 127),
        num_tokens=8,
        vocab_size=16,
        recognition=RecognitionConfig(hidden_size=16, num_heads=2, num_layers=1, mlp_ratio=2),
        generative=GenerativeConfig("spectral", embedding_size=24, hidden_size=16, num_layers=1),
        likelihood=LAFAN.likelihood,
        normalisation=normalisation_of(CLIPS),
        transform=TransformConfig(frequencies=3, components=20, size=24),
    )


@pytest.fixture(scope="module")
def windows() -> MotionWindows:
    return windows_of(CLIPS, 4)


def experiment(**changes: object) -> Experiment:
    settings: dict[str, object] = {
        "name": "codec",
        "model": small_config(),
        "dataset": "motion",
        "method": "codec",
        "settings": SETTINGS,
        "steps": 3,
        "batch_size": 16,
        "evaluation_items": 50,
    }
    return Experiment(**(settings | changes))  # type: ignore[arg-type]


def test_water_filling_spends_the_bits_where_the_variance_is() -> None:
    variances = np.array([16.0, 4.0, 1.0, 0.01])
    rates = water_filling(variances, 3.0)
    np.testing.assert_allclose(rates, [2.0, 1.0, 0.0, 0.0], atol=1e-6)
    errors = variances * 4.0**-rates
    np.testing.assert_allclose(errors, [1.0, 1.0, 1.0, 0.01], atol=1e-5)


def test_coefficients_are_dealt_so_that_codes_carry_equally_many_bits() -> None:
    dealt = deal(np.array([4.0, 1.0, 3.0, 2.0, 0.0, 0.0]), 2)
    assert dealt.tolist() == [[0, 1, 4], [2, 3, 5]]
    rates = np.random.default_rng(0).exponential(size=120)
    carried = rates[deal(rates, 10)].sum(1)
    assert carried.max() - carried.min() < 0.1 * carried.mean()


def test_lloyd_finds_clusters_that_are_far_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    samples = centres.repeat_interleave(50, 0) + 0.1 * torch.randn(150, 2, generator=generator)
    book = lloyd(samples, 12, 10, generator)
    assert (samples - book[nearest(samples, book)]).square().sum(1).max() < 0.5


def test_quantising_takes_the_nearest_entry_of_each_book() -> None:
    books = [torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0, 0.0], [2.0, 2.0]])]
    quantised = quantise(torch.tensor([[0.7, 0.4, 0.5], [0.2, 1.5, 1.5]]), books)
    torch.testing.assert_close(quantised, torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 2.0]]))


def test_the_fitted_codec_is_what_both_models_compute(windows: MotionWindows) -> None:
    torch.manual_seed(0)
    model = Autoencoder(small_config())
    method = build_method("codec", model, SETTINGS | {"correction_steps": 0})
    method.prepare(windows, seed=0)
    found = evaluate(TrainedModel(model), windows)
    left_out, quantised, corrected = method.fitted.tolist()
    assert left_out < quantised == pytest.approx(corrected, rel=1e-4)
    # The codec was fitted to mirror images too, which are as many and coded about as well.
    constant = -0.5 * 4 * 127 * np.log(2 * np.pi * 0.25)
    assert found["greedy_log_p"] == pytest.approx(constant - 2 * quantised, rel=0.1)
    assert found["greedy_log_p"] > constant - 2 * 4 * 127 * 0.5  # half of the variance at most is left


def test_the_correction_lowers_the_error(windows: MotionWindows) -> None:
    torch.manual_seed(0)
    method = build_method("codec", Autoencoder(small_config()), SETTINGS | {"correction_steps": 200})
    method.prepare(windows, seed=0)
    assert method.fitted[2] < method.fitted[1]


def test_only_the_generative_model_is_trained(windows: MotionWindows, tmp_path: Path) -> None:
    start = Autoencoder(small_config())
    method = build_method("codec", start, SETTINGS)
    assert not any(parameter.requires_grad for parameter in start.recognition.parameters())
    method.prepare(windows, seed=0)
    losses = method(
        Batch(torch.from_numpy(windows.read(np.arange(20), seed=()))), torch.Generator().manual_seed(0), 0.0
    )
    losses.total.backward()
    assert isinstance(start.generative, SpectralGenerator)
    assert all(parameter.grad is not None for parameter in start.generative.parameters())
    assert losses.metrics["fitted_quantised"] == method.fitted[1]


def test_a_mirrored_clip_is_as_likely_to_be_seen(windows: MotionWindows) -> None:
    method = build_method("codec", Autoencoder(small_config()), SETTINGS | {"correction_steps": 0})
    method.prepare(windows, seed=0)
    items = windows.read(np.arange(40), seed=())
    pair = [method(Batch(torch.from_numpy(x)), torch.Generator().manual_seed(3), 0.0) for x in (items, items)]
    assert pair[0].total == pair[1].total  # the generator alone decides
    both = [
        method(Batch(torch.from_numpy(x)), torch.Generator().manual_seed(seed), 0.0).total
        for seed, x in ((3, items), (4, items), (3, mirror_features(items)))
    ]
    assert both[0] != both[1] and both[0] != both[2]


def test_a_run_fits_the_codec_once_and_goes_on(windows: MotionWindows, tmp_path: Path) -> None:
    dataset = Dataset(windows, windows)
    whole = fit(experiment(), dataset, tmp_path / "whole", show_progress=False, draw_pictures=False)
    fit(experiment(), dataset, tmp_path / "parts", max_seconds=0.0, show_progress=False, draw_pictures=False)
    parts = fit(experiment(), dataset, tmp_path / "parts", show_progress=False, draw_pictures=False)
    assert parts["validation"] == whole["validation"] and whole["steps"] == 3
    record = json.loads((tmp_path / "whole" / "checkpoint" / "training.json").read_text())
    assert record["experiment"]["method"] == "codec"


def test_a_later_run_starts_from_a_model_folder(windows: MotionWindows, tmp_path: Path) -> None:
    """As export writes it: without ``training.json``, whose content is in ``config.json``."""
    dataset = Dataset(windows, windows)
    first = fit(experiment(), dataset, tmp_path / "first", show_progress=False, draw_pictures=False)
    folder = tmp_path / "first" / "checkpoint"
    record = json.loads((folder / "training.json").read_text())
    (folder / "training.json").unlink()
    config = dataclasses.replace(small_config(), name="exported", training=record)
    (folder / "config.json").write_text(config.to_json())
    second = experiment(method="daps", settings={"num_samples": 4}, start_from=str(folder), steps=1, name="second")
    found = fit(second, dataset, tmp_path / "second", show_progress=False, draw_pictures=False)
    assert [stage["experiment"]["name"] for stage in found["stages_before"]] == ["codec"]
    assert found["stages_before"][0]["steps"] == first["steps"]


def test_models_and_data_that_have_no_codec_are_refused() -> None:
    with pytest.raises(ConfigError, match="codec trains models with a transform"):
        build_method("codec", Autoencoder(TINY_MOTION), {})
    with pytest.raises(ConfigError, match="distil has nothing to do where code books"):
        build_method("distil", Autoencoder(small_config()), {})
    with pytest.raises(ConfigError, match="start_sharpness: a model with a transform has the sharpness that its codec"):
        build_method("daps", Autoencoder(small_config()), {"start_sharpness": 2.0}).start()
    method = build_method("codec", Autoencoder(small_config()), SETTINGS)
    with pytest.raises(ConfigError, match="codec is fitted to dataset motion"):
        method.prepare(ArrayItems(np.zeros((4, 4, 127), np.float32)), seed=0)


@pytest.mark.parametrize("wrong", [{"stride": 0}, {"own_rounds": -1}, {"prior": 0.0}, {"sharpness": -1.0}])
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="codec needs"):
        experiment(settings=SETTINGS | wrong)
