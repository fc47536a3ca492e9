"""Every method of the paper's table: it can be named, it resumes, and it learns."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from tests.settings import TINY_GRID, TINY_MLP, of_kind
from train.data import Dataset
from train.evaluate import evaluate
from train.experiment import Experiment
from train.items import ArrayItems
from train.loop import fit
from train.methods import METHODS as BY_NAME
from train.methods import Batch, build_method
from train.optimisation import OptimiserConfig

LEARNED = {"beta_initial": 0.5, "beta_final": 0.05}
METHODS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "daps": ("daps", "autoregressive", LEARNED | {"num_samples": 4, "eta_initial": 5.0}),
    "daps_na": ("daps", "independent", LEARNED | {"num_samples": 4, "eta_initial": 5.0}),
    "reinforce": ("reinforce", "autoregressive", LEARNED | {"num_samples": 4}),
    "ppo": ("ppo", "autoregressive", {"num_samples": 4}),
    "gumbel": ("gumbel", "autoregressive", LEARNED),
    "gumbel_na": ("gumbel", "independent", LEARNED),
    "gr_mck": ("gr_mck", "autoregressive", LEARNED | {"inner_samples": 5}),
    "gr_mck_na": ("gr_mck", "independent", LEARNED | {"inner_samples": 5}),
    "vqvae": ("vqvae", "nearest", {}),
    "vqvae_warm": ("vqvae", "autoregressive", {}),
    "fsq": ("fsq", "levels", {}),
    "gaussian_vae": ("gaussian_vae", "gaussian", LEARNED),
}
methods = pytest.mark.parametrize("name", METHODS)


def digits(count: int = 64) -> Dataset:
    """White rectangles of random place and size on black: few things to know about each."""
    rng = np.random.default_rng(0)
    images = np.zeros((count, 28, 28, 1), np.uint8)
    for image in images:
        top, left, height, width = (int(rng.integers(2, 14)) for _ in range(4))
        image[top : top + height, left : left + width] = 255
    return Dataset(ArrayItems(images), ArrayItems(images))


def experiment(name: str, model: TokenizerConfig = TINY_MLP, **changes: Any) -> Experiment:
    method, kind, settings = METHODS[name]
    values = {"steps": 4, "batch_size": 16, "log_every": 1, "evaluation_items": 16} | changes
    return Experiment(name, of_kind(model, kind), "mnist", method, settings=settings, **values)


def run(settings: Experiment, folder: Path, dataset: Dataset | None = None, **options: Any) -> dict[str, Any]:
    return fit(settings, dataset or digits(), folder, show_progress=False, draw_pictures=False, **options)


@methods
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(name: str, tmp_path: Path) -> None:
    settings = replace(experiment(name), steps=6)
    whole = run(settings, tmp_path / "whole")["validation"]
    run(settings, tmp_path / "parts", max_seconds=0.0)
    assert run(settings, tmp_path / "parts")["validation"] == pytest.approx(whole, rel=1e-5)


@pytest.mark.slow
@methods
def test_120_steps_on_32_images_raise_what_the_method_is_for(name: str, tmp_path: Path) -> None:
    optimiser = OptimiserConfig(learning_rate=3e-3)
    settings = experiment(name, steps=120, batch_size=32, optimiser=optimiser, evaluate_every=120)
    torch.manual_seed(settings.seed)
    method = build_method(settings.method, Autoencoder(settings.model), settings.settings)
    method.start()
    method.before_checkpoint()
    data = digits(32)
    before = evaluate(method, data.train)["sampled_log_p"]
    mean = torch.from_numpy(data.train.read(np.arange(32), seed=(0,)) / 255.0).mean(0).clamp(1e-3, 1 - 1e-3)
    without_codes = float((mean * mean.log() + (1 - mean) * (1 - mean).log()).sum())
    found = run(settings, tmp_path / "run", data)["validation"]["sampled_log_p"]
    assert found > before + 50
    if name not in ("ppo", "reinforce"):  # the plain policy gradient is slow to use the codes
        assert found > without_codes + 5


@pytest.mark.parametrize(("batch_norm", "moves"), [("batch", True), ("frozen", False)])
@pytest.mark.parametrize("name", ["daps", "daps_na", "reinforce", "ppo", "gumbel", "gr_mck", "vqvae_warm"])
def test_frozen_batch_norm_keeps_its_running_statistics(name: str, batch_norm: str, moves: bool) -> None:
    method, kind, settings = METHODS[name]
    built = build_method(method, Autoencoder(of_kind(TINY_GRID, kind)), settings | {"batch_norm": batch_norm})
    before = built.model.generative.norms[0].running_mean.clone()
    images = torch.randint(256, (2, *TINY_GRID.input_shape), dtype=torch.uint8)
    built.train()(Batch(images), torch.Generator(), 0.0)
    assert torch.equal(built.model.generative.norms[0].running_mean, before) != moves


@pytest.mark.parametrize("name", ["daps", "reinforce", "ppo", "gumbel", "vqvae"])
def test_batch_norm_is_batch_or_frozen(name: str) -> None:
    with pytest.raises(ConfigError, match="batch or frozen, not 'off'"):
        BY_NAME[name].settings_type(batch_norm="off")
