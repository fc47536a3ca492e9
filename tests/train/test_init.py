"""``train init``, ``train statistics`` and ``--set``: an experiment of one's own without writing YAML by hand."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from PIL import Image

from daps_tokenizer.errors import ConfigError
from daps_tokenizer.model.autoencoder import Autoencoder
from tests.train.test_train_cli import write_yaml
from train.__main__ import main
from train.experiment import load_experiment
from train.init import choose_grid
from train.methods import build_method


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twenty images, half of them black and half white, in two folders."""
    for number in range(20):
        place = tmp_path / "my images" / ("black" if number % 2 else "white")
        place.mkdir(parents=True, exist_ok=True)
        value = 0 if number % 2 else 255
        Image.fromarray(np.full((20, 30, 3), value, np.uint8)).save(place / f"{number:02}.png")
    return tmp_path / "my images"


@pytest.mark.parametrize(
    ("size", "bits", "side", "vocab_bits"),
    [(64, 640, 8, 10), (32, 576, 8, 9), (256, 10240, 32, 10), (28, 490, 7, 10), (64, 160, 4, 10), (96, 1440, 12, 10)],
)
def test_the_grid_of_codes_has_exactly_the_bits_that_are_asked_for(
    size: int, bits: int, side: int, vocab_bits: int
) -> None:
    grid = choose_grid(size, bits)
    assert (grid.side, grid.vocab_bits, grid.bits) == (side, vocab_bits, bits)


def test_bits_that_are_not_possible_are_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="--bits 650 is not possible for 64×64 pixels; the nearest are 640 or 704"):
        choose_grid(64, 650)
    with pytest.raises(ConfigError, match="--size must be a multiple of 2, not 33"):
        choose_grid(33, 640)


@pytest.mark.parametrize(("size", "bits", "window"), [(16, 160, None), (64, 2560, (8, 8)), (24, 360, None)])
def test_what_init_writes_can_be_trained(images: Path, tmp_path: Path, size: int, bits: int, window: object) -> None:
    result = run("init", images, "--size", str(size), "--bits", str(bits), "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    vqvae, daps = (load_experiment(tmp_path / "out" / f"{name}.yaml") for name in ("vqvae", "daps"))
    assert daps.start_from == f"runs/{vqvae.name}/checkpoint" and vqvae.name == f"my-images-{size}-vqvae"
    assert vqvae.model == daps.model and vqvae.model.bits_per_item == bits
    assert vqvae.model.recognition.window == (window or ())
    assert vqvae.model.normalisation.mean == (0.5, 0.5, 0.5) and vqvae.model.normalisation.std == (0.5, 0.5, 0.5)
    for stage in (vqvae, daps):
        assert stage.validation_items == 1 and stage.data is not None and stage.data.test_items == 1
        build_method(stage.method, Autoencoder(stage.model), stage.settings)


def test_init_overwrites_nothing_and_says_what_is_missing(images: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    result = run("init", images, "--size", "64", "--bits", "640", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "out already exists; choose another folder with --out" in " ".join(
        result.output.split()
    )
    result = run("init", tmp_path / "none", "--size", "64", "--bits", "640", "--out", tmp_path / "new")
    assert result.exit_code == 2 and "none: no such folder; expected a folder of images" in result.output
    for file in list(images.rglob("*.png"))[:17]:
        file.unlink()
    result = run("init", images, "--size", "64", "--bits", "640", "--out", tmp_path / "new")
    assert result.exit_code == 2 and "holds 3 images; at least 4 are needed" in result.output
    assert not (tmp_path / "new").exists()


def test_statistics_are_those_of_all_pixels_and_can_be_pasted_into_yaml(images: Path) -> None:
    result = run("statistics", images, "--channels", "1")
    assert result.exit_code == 0
    assert yaml.safe_load(result.output) == {"normalisation": {"mean": [0.5], "std": [0.5]}}


def test_set_replaces_settings_of_every_type(tmp_path: Path) -> None:
    path = write_yaml(tmp_path)
    changes = ["steps=7", "optimiser.learning_rate=1e-3", "optimiser.learning_rates={head: 2.0}", "model.vocab_size=32"]
    experiment = load_experiment(path, [*changes, "aligned=true", "settings.num_samples=5", "name=other"])
    assert (experiment.steps, experiment.aligned, experiment.name) == (7, True, "other")
    assert (experiment.optimiser.learning_rate, experiment.optimiser.learning_rates) == (1e-3, {"head": 2.0})
    assert experiment.model.vocab_size == 32 and experiment.settings == {"num_samples": 5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("steps", "--set steps: expected KEY=VALUE, as steps=100"),
        ("steps=many", "steps: expected int, found 'many'"),
        ("steps=1.5", "steps: expected int, found 1.5"),
        ("stepps=3", "unknown key 'stepps'; known keys are"),
        ("optimiser.rate=3", "unknown key 'rate'; known keys are"),
        ("steps.more=3", "--set steps.more=3: steps holds no settings of its own"),
        ("steps=[1", "--set steps=[1: the value is not valid YAML"),
    ],
)
def test_a_change_that_cannot_be_is_named(change: str, message: str, tmp_path: Path) -> None:
    result = run("fit", write_yaml(tmp_path), "--set", change)
    assert result.exit_code == 2 and message in result.output
