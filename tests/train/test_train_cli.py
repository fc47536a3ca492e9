"""``python -m train``: experiments in YAML, the datasets they name, and one line for everything that is wrong."""

import contextlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image

from daps_tokenizer.cli.main import main as daps_tokenize
from daps_tokenizer.errors import ConfigError, InputError, ModelFileError
from daps_tokenizer.hub import built_in_models
from daps_tokenizer.model.autoencoder import Autoencoder, load_weights
from daps_tokenizer.model.sampling import sample_codes
from tests.paths import DATA, ROOT
from tests.settings import TINY_MLP
from train import evaluate as evaluation
from train.__main__ import main
from train.checkpoint import read_record
from train.data import Dataset, data_folder, load_dataset
from train.evaluate import BATCH, evaluate, evaluate_checkpoint
from train.experiment import Experiment, load_experiment
from train.items import ArrayItems
from train.loop import fit
from train.methods import build_method
from train.methods.base import TrainedModel
from train.widen import is_smaller

CONFIGS = sorted(
    path for path in (ROOT / "train" / "configs").glob("*.yaml") if not path.stem.startswith("table_")
)  # tables have tests of their own
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the datasets are neither in $DAPS_DATA nor ../shared/data")


def write_yaml(folder: Path, **changes: object) -> Path:
    """An experiment of one step on the tiny model; a change to None leaves the key out."""
    content: dict[str, Any] = {
        "name": "tiny",
        "model": json.loads(json.dumps(asdict(TINY_MLP))),
        "dataset": "mnist",
        "method": "daps",
        "settings": {"num_samples": 4},
        "steps": 1,
        "batch_size": 4,
        "log_every": 1,
    } | changes
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return path


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """A folder with an ``mnist.npz`` of noise."""
    folder, rng = tmp_path / "data", np.random.default_rng(0)
    folder.mkdir()
    images = {f"x_{split}": rng.integers(0, 256, (8, 28, 28), dtype=np.uint8) for split in ("train", "test")}
    np.savez(folder / "mnist.npz", y_train=np.arange(8), y_test=np.arange(8), **images)
    return folder


# --- the command


@pytest.mark.slow
def test_fit_trains_in_bfloat16_if_told_and_prints_what_it_reached(digits: Path, tmp_path: Path) -> None:
    path = write_yaml(tmp_path, precision="bf16")
    found = subprocess.run(
        [sys.executable, "-m", "train", "fit", str(path), "--data", str(digits), "--quiet"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    result = json.loads(found.stdout)
    assert (result["run"], result["steps"], result["items"]) == ("runs/tiny", 1, 8)
    assert math.isfinite(result["sampled_log_p"])
    left = {path.name for path in (tmp_path / "runs" / "tiny").iterdir()}
    assert left == {"checkpoint", "metrics.jsonl"}


def test_a_start_given_on_the_command_line_is_the_one_that_counts(digits: Path, tmp_path: Path) -> None:
    found = CliRunner().invoke(
        main,
        ["fit", str(write_yaml(tmp_path, start_from="else/where")), "--data", str(digits), "--start-from", "no/where"],
    )
    assert (found.exit_code, found.stdout) == (2, "")
    assert "no/where: no such folder; expected a checkpoint or a model folder" in found.stderr


def test_evaluate_measures_a_checkpoint_on_the_whole_test_set_and_writes_it_down(digits: Path, tmp_path: Path) -> None:
    fit(
        load_experiment(write_yaml(tmp_path)),
        load_dataset("mnist", digits),
        tmp_path / "run",
        show_progress=False,
        draw_pictures=False,
    )
    checkpoint = tmp_path / "run" / "checkpoint"
    found = CliRunner().invoke(main, ["evaluate", str(checkpoint), "--data", str(digits)])
    assert found.exit_code == 0, found.output
    result = json.loads(found.stdout)
    record = json.loads((checkpoint / "training.json").read_text())
    assert result == record["evaluation"] and (result["dataset"], result["items"]) == ("mnist, test set", 8)
    for metric in ("log_p", "l2", "psnr", "ssim"):  # training watched the same eight items
        assert result[f"greedy_{metric}"] == pytest.approx(record["validation"][f"greedy_{metric}"], rel=1e-4)
    assert result["entropy"] == -result["sampled_log_q"] > 0


def test_a_checkpoint_that_a_run_replaces_while_it_is_measured_stays_whole(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(steps: int) -> None:
        settings = load_experiment(write_yaml(tmp_path, steps=4))
        options: dict[str, Any] = {"show_progress": False, "draw_pictures": False}
        fit(settings, load_dataset("mnist", digits), tmp_path / "run", max_seconds=0 if steps == 1 else None, **options)

    train(1)
    measure = evaluation.measure_checkpoint

    def slowly(*arguments: Any, **options: Any) -> Any:
        measured = measure(*arguments, **options)
        train(4)
        return measured

    monkeypatch.setattr(evaluation, "measure_checkpoint", slowly)
    checkpoint = tmp_path / "run" / "checkpoint"
    with pytest.raises(ModelFileError, match="a run wrote another checkpoint while this one was measured"):
        evaluate_checkpoint(checkpoint, digits)
    assert read_record(checkpoint)["steps"] == 4  # and the sums of its files are right


def test_what_was_measured_of_a_checkpoint_is_not_said_of_the_next_one(digits: Path, tmp_path: Path) -> None:
    settings = load_experiment(write_yaml(tmp_path, steps=2))
    options: dict[str, Any] = {"show_progress": False, "draw_pictures": False}
    fit(settings, load_dataset("mnist", digits), tmp_path / "run", max_seconds=0, **options)
    checkpoint = tmp_path / "run" / "checkpoint"
    evaluate_checkpoint(checkpoint, digits)
    assert "evaluation" in read_record(checkpoint)
    fit(settings, load_dataset("mnist", digits), tmp_path / "run", **options)
    assert read_record(checkpoint)["steps"] == 2 and "evaluation" not in read_record(checkpoint)


def test_a_checkpoint_and_the_model_that_is_exported_from_it_have_one_result(
    random_mnist_checkpoint: Path, random_mnist_folder: Path, digits: Path, tmp_path: Path
) -> None:
    checkpoint = shutil.copytree(random_mnist_checkpoint, tmp_path / "checkpoint")
    (checkpoint / "training.json").write_text('{"experiment": {"dataset": "mnist"}}')
    result = evaluate_checkpoint(checkpoint, digits)
    found = CliRunner().invoke(
        daps_tokenize, ["evaluate", str(random_mnist_folder), str(digits / "mnist.npz"), "--json"]
    )
    assert found.exit_code == 0, found.output
    exported = json.loads(found.stdout)["results"]
    for way in ("greedy", "sampled"):
        for metric in ("log_p", "log_q", "l2", "psnr", "ssim"):
            assert exported[way][metric]["mean"] == pytest.approx(result[f"{way}_{metric}"], rel=1e-4)


def test_an_evaluation_is_the_mean_over_items_whatever_the_batches() -> None:
    torch.manual_seed(0)
    model = Autoencoder(TINY_MLP)
    items = np.random.default_rng(0).integers(0, 256, (BATCH + 3, 28, 28, 1), dtype=np.uint8)
    found = evaluate(TrainedModel(model), ArrayItems(items))
    with torch.no_grad():
        x = model.standardise(torch.from_numpy(items))
        greedy = sample_codes(model.recognition, model.recognition.context(x), torch.zeros(len(x), 8), temperature=0.0)
        mean = model.likelihood.moments(model.generative(greedy.codes)).mean
        log_p = model.log_likelihood(x, greedy.codes)
        mse = (model.to_input_units(mean).double() - 255 * x).square().mean((1, 2, 3))
    assert found["greedy_log_p"] == pytest.approx(float(log_p.mean()), rel=1e-5)
    assert found["greedy_l2"] == pytest.approx(float((mean - x).flatten(1).norm(dim=1).mean()), rel=1e-5)
    assert found["greedy_psnr"] == pytest.approx(float((10 * torch.log10(255**2 / mse)).mean()), rel=1e-5)
    assert 0 < found["entropy"] <= 8 * math.log(16) and 1 <= found["code_perplexity"] <= found["codes_used"] <= 16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, "unknown key 'colour'; known keys are aligned, batch_size,"),
        ({"steps": None}, "key 'steps' is missing"),
        ({"steps": "many"}, "steps: expected int, found 'many'"),
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"dataset": "imagenet"}, "dataset must be one of mnist, cifar10, photos, motion, not 'imagenet'"),
        ({"precision": "fp16"}, "precision must be one of fp32, bf16, not 'fp16'"),
        ({"method": "gan"}, "method 'gan' is not known; known methods are daps,"),
        ({"settings": {"temperature": 1.0}}, "settings of daps: unknown key 'temperature'; known keys are"),
        ({"settings": {"num_samples": 1}}, "num_samples must be at least 2 with global credit, not 1"),
        ({"optimiser": {"schedule": "linear"}}, "schedule must be one of constant, cosine, not 'linear'"),
        ({"optimiser": {"learning_rate": -1.0}}, "learning_rate must be positive, not -1.0"),
        ({"optimiser": {"warmup_steps": -1}}, "warmup_steps must be at least 0, not -1"),
        ({"optimiser": {"clip_norm": float("nan")}}, "clip_norm: expected a finite number, found nan"),
        ({"optimiser": {"final_fraction": 2.0}}, "final_fraction must be between 0 and 1, not 2.0"),
        ({"model": "nowhere.yaml"}, "nowhere.yaml: no such file; expected a model in YAML, its path relative to the"),
        ({"model": {"name": "x"}}, "model: key 'generative' is missing"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_wrong_with_an_experiment_is_said_in_one_line(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = write_yaml(tmp_path, **changes)
    found = CliRunner().invoke(main, ["fit", str(path)])
    assert (found.exit_code, found.stdout) == (2, "")
    (line,) = found.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path}") and message in line


@pytest.mark.parametrize("content", [b"a: [1,\nb: {", b"\xff\xfe\x00", b"- a list", b""])
def test_a_file_that_is_no_experiment_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^{path}: (not valid YAML|expected a mapping)[^\n]*$"):
        load_experiment(path)


def test_an_experiment_that_is_not_there_or_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file; expected an experiment in YAML"):
        load_experiment(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=f"{tmp_path}: cannot be read .*; expected an experiment in YAML"):
        load_experiment(tmp_path)


# --- the experiments that come with the project


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_experiment_of_the_project_is_valid(path: Path) -> None:
    experiment = load_experiment(path)
    build_method(experiment.method, Autoencoder(experiment.model), experiment.settings)
    if experiment.start_from is not None and not experiment.start_from.startswith("runs/"):
        # Models of windows fit images of any size: it is the weights that have to.
        load_weights(Autoencoder(experiment.model), ROOT / experiment.start_from / "model.safetensors")
    elif experiment.start_from is not None:
        stages: dict[str, Experiment] = {e.name: e for e in map(load_experiment, CONFIGS)}
        before = stages[Path(experiment.start_from).parent.name]
        assert experiment.start_from == f"runs/{before.name}/checkpoint"
        assert before.dataset == experiment.dataset
        if is_smaller(before.model, experiment.model):  # it is widened (tests/train/test_widen.py)
            return
        fits = Autoencoder(experiment.model).load_state_dict(Autoencoder(before.model).state_dict())
        assert not fits.missing_keys and not fits.unexpected_keys


def test_every_start_is_in_the_repository_or_made_by_an_experiment_of_it() -> None:
    made = {f"runs/{load_experiment(path).name}/checkpoint" for path in CONFIGS}
    texts = [path.read_text() for path in (ROOT / "train" / "configs").glob("*.yaml")]  # tables too
    starts = {start for text in texts for start in re.findall(r"start_from: ([^,\s]+)", text)}
    kept = {f"train/starts/{folder.name}" for folder in (ROOT / "train" / "starts").iterdir()}
    built_in = {f"daps_tokenizer/pretrained/{name}" for name in built_in_models()}
    assert starts <= made | kept | built_in
    assert kept <= starts  # what nothing starts from is not kept


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit"], "error: Missing argument 'CONFIG' (see main fit --help)\n"),
        (["fti"], "error: No such command 'fti'. Did you mean 'fit'? (see main --help)\n"),
    ],
)
def test_a_wrong_call_gets_one_line(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", message)


def test_without_a_command_the_commands_are_listed() -> None:
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 2 and result.stderr.startswith("Usage:") and "\n  fit " in result.stderr


def test_a_start_that_is_not_there_says_how_it_is_made(tmp_path: Path, digits: Path) -> None:
    config = write_yaml(tmp_path, start_from="runs/first/checkpoint")
    with contextlib.chdir(tmp_path):
        result = CliRunner().invoke(main, ["fit", str(config), "--data", str(digits), "--quiet"])
    assert result.exit_code == 2
    message = " ".join(result.output.split())
    assert "start_from: runs/first/checkpoint: no such folder; expected a checkpoint or a model folder" in message
    assert "run that first, or all stages in order with `python -m train chain`" in message


def test_the_experiments_of_the_project_have_names_of_their_own() -> None:
    assert len({load_experiment(path).name for path in CONFIGS}) == len(CONFIGS) > 0


# --- datasets


def arrays(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """All training and all test items of a dataset that is in memory."""
    train, test = (items.read(np.arange(len(items)), seed=(0,)) for items in (dataset.train, dataset.test))
    return train, test


@needs_data
def test_mnist_is_60_000_and_10_000_digits() -> None:
    mnist = load_dataset("mnist", DATA)
    train, test = arrays(mnist)
    assert train.shape == (60_000, 28, 28, 1) and test.shape == (10_000, 28, 28, 1)
    assert train.dtype == test.dtype == np.uint8
    assert mnist.train_labels[:3].tolist() == [5, 0, 4] and mnist.test_labels[:3].tolist() == [7, 2, 1]


@needs_data
@pytest.mark.slow
def test_cifar10_is_50_000_and_10_000_photographs_in_ten_equal_classes() -> None:
    cifar10 = load_dataset("cifar10", DATA)
    train, test = arrays(cifar10)
    assert train.shape == (50_000, 32, 32, 3) and test.shape == (10_000, 32, 32, 3)
    assert train.dtype == test.dtype == np.uint8
    assert np.bincount(cifar10.train_labels).tolist() == [5000] * 10
    assert np.bincount(cifar10.test_labels).tolist() == [1000] * 10
    moments = train[::10] / 255.0
    np.testing.assert_allclose(moments.mean((0, 1, 2)), [0.4914, 0.4822, 0.4465], atol=0.01)  # as configs/models says
    np.testing.assert_allclose(moments.std((0, 1, 2)), [0.247, 0.2435, 0.2616], atol=0.01)


@needs_data
def test_cifar10_mosaics_are_cut_row_by_row(tmp_path: Path) -> None:
    (tmp_path / "cifar10").mkdir()
    for split, labels in (("train", 1000), ("test", 1000)):
        name = f"cifar10/{split}_00.webp"
        (tmp_path / name).symlink_to(DATA / name)
        np.save(tmp_path / f"cifar10/{split}_labels.npy", np.zeros(labels, np.uint8))
    mosaic = np.asarray(Image.open(DATA / "cifar10" / "train_00.webp").convert("RGB"))
    train, _ = arrays(load_dataset("cifar10", tmp_path))
    np.testing.assert_array_equal(train[1], mosaic[:32, 32:64])
    np.testing.assert_array_equal(train[40], mosaic[32:64, :32])


def test_data_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{tmp_path}/none: no such folder; .*--data .*DAPS_DATA"):
        data_folder(tmp_path / "none")
    with pytest.raises(InputError, match=r"mnist\.npz: no such file; expected the Keras archive with x_train"):
        load_dataset("mnist", tmp_path)
    with pytest.raises(InputError, match=r"cifar10: no train_\*\.webp; expected CIFAR-10 as mosaics"):
        load_dataset("cifar10", tmp_path)


@pytest.mark.parametrize(
    "damage", ["cut short", "empty", "text", "one array", "array missing", "other lengths", "no list"]
)
def test_a_damaged_mnist_is_refused(damage: str, digits: Path) -> None:
    path = digits / "mnist.npz"
    with np.load(path) as archive:
        arrays = dict(archive)
    content = path.read_bytes()
    if damage == "array missing":
        np.savez(path, **{name: array for name, array in arrays.items() if name != "x_test"})
    elif damage == "other lengths":
        np.savez(path, **arrays | {"y_train": np.arange(3)})
    elif damage == "no list":
        np.savez(path, **arrays | {"y_test": 7})
    elif damage == "one array":
        with path.open("wb") as file:
            np.save(file, arrays["x_test"])
    else:
        path.write_bytes({"cut short": content[:-200], "empty": b"", "text": b"no archive"}[damage])
    with pytest.raises(InputError, match="expected"):
        load_dataset("mnist", digits)


@pytest.mark.parametrize("damage", ["cut short", "another size", "no labels", "one of the labels", "no test"])
def test_a_damaged_cifar10_is_refused(damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "cifar10"
    folder.mkdir()
    mosaic = Image.fromarray(np.zeros((800, 1280, 3), np.uint8))
    for split in ("train", "test"):
        mosaic.save(folder / f"{split}_00.webp", lossless=True)
        np.save(folder / f"{split}_labels.npy", np.zeros(1000, np.uint8))
    assert arrays(load_dataset("cifar10", tmp_path))[0].shape == (1000, 32, 32, 3)
    victim = folder / ("train_labels.npy" if "labels" in damage else "test_00.webp")
    if damage.startswith("no"):
        victim.unlink()
    elif damage == "one of the labels":
        np.save(victim, 7)
    elif damage == "another size":
        mosaic.resize((640, 800)).save(victim)
    else:
        victim.write_bytes(victim.read_bytes()[:20])
    with pytest.raises(InputError, match=r"(00\.webp|labels\.npy|no test_\*\.webp).*; expected"):
        load_dataset("cifar10", tmp_path)


def test_a_chain_runs_stage_after_stage_and_skips_what_is_finished(tmp_path: Path, digits: Path) -> None:
    with contextlib.chdir(tmp_path):
        first = write_yaml(tmp_path, name="first", method="vqvae", settings={}, steps=2).rename(tmp_path / "first.yaml")
        second = write_yaml(tmp_path, name="second", start_from="runs/first/checkpoint", steps=2)
        for _ in range(2):
            result = CliRunner().invoke(main, ["chain", str(first), str(second), "--data", str(digits), "--quiet"])
            assert result.exit_code == 0, result.output
        record = json.loads(Path("runs/second/checkpoint/training.json").read_text())
    assert [stage["experiment"]["name"] for stage in record["stages_before"]] == ["first"]
    assert (record["steps"], record["stages_before"][0]["steps"]) == (2, 2)


@pytest.mark.parametrize("command", ["fit", "chain"])
def test_a_run_that_is_out_of_time_says_where_it_stands(command: str, tmp_path: Path, digits: Path) -> None:
    config = write_yaml(tmp_path, steps=1000)
    with contextlib.chdir(tmp_path):
        arguments = [command, str(config), "--data", str(digits), "--quiet", "--max-seconds", "0.01"]
        result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0
    assert "tiny is at step 1 of 1000; run the same command again to resume" in result.output


def test_a_chain_checks_every_config_before_it_runs_one(tmp_path: Path, digits: Path) -> None:
    first = write_yaml(tmp_path).rename(tmp_path / "first.yaml")
    with contextlib.chdir(tmp_path):
        result = CliRunner().invoke(main, ["chain", str(first), "missing.yaml", "--data", str(digits)])
    assert result.exit_code == 2 and "missing.yaml: no such file" in result.output
    assert not (tmp_path / "runs").exists()
