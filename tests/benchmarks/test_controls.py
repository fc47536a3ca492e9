"""Ways to train on are measured on the same held-out items, for as long as asked, and reported with paired errors."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.studies.autoregression import measure_autoregression
from benchmarks.studies.controls import MEASURES, WAYS, Point, plot, summarise, train_on, write_text
from daps_tokenizer.evaluation.timing import describe_machine
from daps_tokenizer.model.autoencoder import Autoencoder
from tests.conftest import random_checkpoint
from tests.paths import ROOT
from tests.settings import TINY_GRID, of_kind
from train.data import Dataset
from train.experiment import Experiment, Precision, load_experiment
from train.items import ArrayItems
from train.methods import build_method


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(TINY_GRID, tmp_path_factory.mktemp("checkpoint"))


CONFIGS = ROOT / "train" / "configs"
EXPERIMENT = Experiment(name="control", model=TINY_GRID, dataset="cifar10", method="vqvae", steps=1, batch_size=1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("way", WAYS["cifar10"])
def test_every_way_starts_from_the_same_items_and_has_its_time(
    way: str, precision: Precision, checkpoint: Path
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (128, 16, 16, 3), dtype=np.uint8)
    dataset = Dataset(ArrayItems(images), ArrayItems(images[:8]))
    told: list[Point] = []
    experiment = replace(EXPERIMENT, precision=precision)
    found = train_on(
        WAYS["cifar10"][way], checkpoint, experiment, dataset, images[:8],
        seconds=0.5, points=2, seed=0, on_point=told.append,
    )  # fmt: skip
    assert found == told and found[0].steps == 0 < found[1].steps < found[2].steps
    assert found[1].seconds >= 0.25 and found[2].seconds >= 0.5
    for point in found:
        assert {kind: values.shape for kind, values in point.values.items()} == dict.fromkeys(MEASURES, (8,))
        assert (point.values["searched"] >= point.values["greedy"]).all()


def test_a_quantiser_has_greedy_codes_alone(tmp_path: Path) -> None:
    config = of_kind(TINY_GRID, "nearest")
    images = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), dtype=np.uint8)
    dataset, way = Dataset(ArrayItems(images), ArrayItems(images[:8])), WAYS["photos"]["VQ-VAE"]
    found = train_on(
        way, random_checkpoint(config, tmp_path), replace(EXPERIMENT, model=config), dataset, images[:8],
        seconds=0.2, points=1, seed=0,
    )  # fmt: skip
    run = {"start": "k", "way": "VQ-VAE", "seed": 0, "machine": describe_machine()} | summarise(way, found)
    content = {"commands": ["c"], "dataset": "photos", "precision": "fp32", "items": 8, "runs": [run]}
    assert [set(point.values) for point in found] == [{"greedy", "PSNR"}] * 2
    assert "| – | – |" in write_text("Ways", content) and plot(content).startswith(b"\x89PNG")


def test_gains_are_paired_item_by_item() -> None:
    start = {kind: np.array([0.0, 1000.0, 2000.0]) for kind in MEASURES}
    end = {kind: np.array([1.0, 1002.0, 2003.0]) for kind in MEASURES}
    way = WAYS["cifar10"]["counterfactual"]
    run = summarise(way, [Point(0.0, 0, start), Point(60.0, 10, end)])
    last = run["curve"][-1]
    assert last["greedy_gain"] == 2.0 and last["greedy_gain_error"] == pytest.approx(1 / 3**0.5)
    assert last["images"] == 10 * way.batch_size
    content = {
        "commands": ["c"],
        "dataset": "cifar10",
        "precision": "fp32",
        "items": 3,
        "runs": [{"start": "k", "way": "counterfactual", "seed": 0, "machine": describe_machine()} | run],
    }
    text = write_text("Ways", json.loads(json.dumps(content)))
    assert "| k | counterfactual | 0 | 60 | 640 | 1002.0 (+2.0 ± 0.6) |" in text and way.tuned in text
    assert "counterfactual (seed 0): date " in text
    assert plot(content).startswith(b"\x89PNG")


def test_an_unknown_way_is_refused(checkpoint: Path) -> None:
    done = CliRunner().invoke(main, ["controls", "--checkpoint", str(checkpoint), "--way", "PPO"])
    assert done.exit_code == 2 and "--way 'PPO' is unknown; the ways are 'counterfactual', 'local'" in done.output


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("photo_controls_fsq", "starts from random weights; --checkpoint says what to start from"),
        ("mnist", "its dataset is mnist; there are ways for cifar10, photos"),
    ],
)
def test_an_experiment_that_says_too_little_is_refused(name: str, error: str) -> None:
    done = CliRunner().invoke(main, ["controls", "--experiment", str(CONFIGS / f"{name}.yaml")])
    assert done.exit_code == 2 and error in done.output


@pytest.mark.parametrize("way", WAYS["photos"])
def test_the_ways_of_photographs_train_the_models_of_their_configs(way: str) -> None:
    """Quantisers have models of their own; the others start from a VQ-VAE through the autoregressive network."""
    own = {"FSQ": ["fsq"], "VQ-VAE": ["vqvae", "start"]}.get(way, ["start"])
    for name in own:
        model = Autoencoder(load_experiment(CONFIGS / f"photo_controls_{name}.yaml").model)
        build_method(WAYS["photos"][way].method, model, WAYS["photos"][way].settings)


def test_runs_with_other_options_are_not_added_to_a_report(checkpoint: Path, tmp_path: Path) -> None:
    before = {
        "seconds": 9.0,
        "points": 6,
        "items": 1000,
        "dataset": "cifar10",
        "precision": "fp32",
        "runs": [{}],
    }
    (tmp_path / "controls_cifar10.json").write_text(json.dumps(before))
    done = CliRunner().invoke(main, ["controls", "--checkpoint", str(checkpoint), "--out", str(tmp_path)])
    assert done.exit_code == 2 and "holds runs with other options; choose another --name" in done.output


def test_a_model_whose_codes_ignore_each_other_loses_nothing_when_previous_codes_are_hidden() -> None:
    torch.manual_seed(0)
    model = Autoencoder(TINY_GRID).eval()
    inputs = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    dependent = measure_autoregression(model, inputs)
    assert dependent.log_q != pytest.approx(dependent.log_q_hidden, abs=1e-3)
    model.recognition.code_embedding.weight.data.zero_()
    independent = measure_autoregression(model, inputs)
    assert independent.log_q == pytest.approx(independent.log_q_hidden, abs=1e-3)
    assert independent.passes == 2.0 < dependent.passes
