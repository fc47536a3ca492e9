"""Checkpoints of several methods are measured on the same test items, with all their stages."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.studies import compare
from benchmarks.studies.compare import compare_checkpoints, write_comparison
from daps_tokenizer.errors import InputError, ModelFileError
from daps_tokenizer.evaluation.timing import describe_machine
from daps_tokenizer.model.autoencoder import Autoencoder, load_weights
from tests.conftest import random_checkpoint
from tests.paths import ROOT
from tests.settings import TINY_MLP, of_kind
from train.data import load_dataset
from train.evaluate import evaluate
from train.experiment import load_experiment
from train.methods.base import TrainedModel

CONFIGS = ROOT / "train" / "configs"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    arrays = {f"x_{split}": random.integers(0, 256, (12, 28, 28), dtype=np.uint8) for split in ("train", "test")}
    np.savez(tmp_path / "mnist.npz", y_train=np.zeros(12, np.uint8), y_test=np.zeros(12, np.uint8), **arrays)
    return tmp_path


def checkpoint(folder: Path, kind: str, methods: list[str]) -> Path:
    about = {"name": folder.name, "dataset": "mnist", "batch_size": 4}
    stages = [{"experiment": about | {"method": method}, "steps": 10, "seconds": 2.5} for method in methods]
    return random_checkpoint(of_kind(TINY_MLP, kind), folder, {**stages[-1], "stages_before": stages[:-1]})


def test_methods_stand_side_by_side_with_all_their_stages(data: Path, tmp_path: Path) -> None:
    folders = [
        checkpoint(data / "a", "nearest", ["vqvae"]),
        checkpoint(data / "b", "autoregressive", ["vqvae", "daps"]),
    ]
    rows = compare_checkpoints(folders, data, limit=6, seed=0)
    assert [row["methods"] for row in rows] == [["vqvae"], ["autoregressive vqvae", "daps"]]
    assert [row["crops"] for row in rows] == [40, 80] and [row["seconds"] for row in rows] == [2.5, 5.0]
    expected = evaluate(TrainedModel(_load(folders[1])), load_dataset("mnist", data).test, limit=6)
    assert rows[1]["greedy_log_p"]["mean"] == pytest.approx(expected["greedy_log_p"])
    assert rows[0]["items"] == 6 and "sampled_log_p" in rows[1] and "sampled_log_p" not in rows[0]
    assert rows[0]["gain"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    difference = rows[1]["greedy_log_p"]["mean"] - rows[0]["greedy_log_p"]["mean"]
    assert rows[1]["gain"]["mean"] == pytest.approx(difference, abs=1e-3)
    content = {"command": "the command", "machine": describe_machine(), "seed": 0, "rows": rows}
    json_path, table_path = write_comparison(tmp_path / "out", "compare", content)
    assert json.loads(json_path.read_text())["rows"] == rows
    assert "| autoregressive vqvae, then daps | 10 + 10 | 80 |" in table_path.read_text()


def _load(folder: Path) -> Autoencoder:
    model = Autoencoder(TINY_MLP)
    load_weights(model, folder / "model.safetensors")
    return model


def test_a_folder_that_is_no_checkpoint_is_refused(data: Path) -> None:
    with pytest.raises(ModelFileError, match=r"no config.json and training.json"):
        compare_checkpoints([data], data, limit=None, seed=0)


def test_checkpoints_of_different_datasets_are_refused(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [checkpoint(data / name, "nearest", ["vqvae"]) for name in ("a", "b")]
    measure = compare.measure_checkpoint

    def measure_as_another(folder: Path, where: Path, **options: Any) -> Any:
        found = measure(folder, where, **options)
        found.record["experiment"]["dataset"] = {"a": "mnist", "b": "cifar10"}[folder.name]
        return found

    monkeypatch.setattr(compare, "measure_checkpoint", measure_as_another)
    with pytest.raises(InputError, match=r"b: its data are cifar10, and those of .*a mnist"):
        compare_checkpoints(folders, data, limit=6, seed=0)


def test_methods_compared_on_photographs_see_as_much() -> None:
    found = {
        name: load_experiment(CONFIGS / f"photo_compare_{name}.yaml") for name in ("vqvae", "fsq", "daps_start", "daps")
    }
    steps = {name: experiment.steps for name, experiment in found.items()}
    assert steps["vqvae"] == steps["fsq"] == steps["daps_start"] + steps["daps"]
    assert len({experiment.batch_size for experiment in found.values()}) == 1
    assert len({experiment.data for experiment in found.values()}) == 1
    bits = [experiment.model.bits_per_item for experiment in found.values()]
    assert max(bits) - min(bits) < 3
    counts = [sum(p.numel() for p in Autoencoder(experiment.model).parameters()) for experiment in found.values()]
    assert max(counts) < 1.1 * min(counts)
