"""Probes of frozen codes, and what a task reward wins and costs: measured on data where the answer is known."""

import dataclasses
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.studies.motion_category import motion_by_category
from benchmarks.studies.probes import choose_labelled, codes_of, embedded, load_autoencoder, one_hot, probe_accuracy
from benchmarks.studies.reward import run_rewards, write_rewards
from benchmarks.studies.task import TaskRow, run_task, write_task
from daps_tokenizer.errors import ConfigError, InputError, ModelFileError
from daps_tokenizer.evaluation.timing import describe_machine
from daps_tokenizer.model.autoencoder import Autoencoder, save_weights
from daps_tokenizer.motion.features import standing
from tests.conftest import random_checkpoint
from tests.settings import CIFAR10, TINY_GRID, TINY_MLP
from tests.train.test_training import experiment
from train.code_search import CodeSearch
from train.data import Dataset
from train.items import ArrayItems

pytest.importorskip("sklearn")


def stripes(count: int = 60) -> Dataset:
    """Three classes, each with a stripe of its own on noise."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 100, (count, 28, 28, 1), dtype=np.uint8), np.arange(count) % 3
    for label in range(3):
        images[labels == label, 9 * label : 9 * label + 9] = 255
    items = ArrayItems(images)
    return Dataset(items, items, labels.astype(np.uint8), labels.astype(np.uint8))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(TINY_MLP, tmp_path_factory.mktemp("checkpoint"))


# --- features and probes


def test_one_hot_codes_have_a_one_for_each_code_at_its_position() -> None:
    codes = np.array([[2, 0], [1, 2]])
    assert one_hot(codes, 3).toarray().tolist() == [[0, 0, 1, 1, 0, 0], [0, 1, 0, 0, 0, 1]]


def test_embedded_codes_are_the_vectors_of_the_table_or_means_over_squares_of_a_large_grid() -> None:
    small, large = Autoencoder(TINY_GRID), Autoencoder(CIFAR10)
    codes = np.random.default_rng(0).integers(0, 16, (2, 16))
    table = small.generative.embedding.weight.detach().numpy()
    np.testing.assert_array_equal(embedded(codes, small), table[codes].reshape(2, -1))
    codes = np.random.default_rng(0).integers(0, 512, (2, 64))
    found = embedded(codes, large).reshape(2, 4, 4, 128)
    vectors = large.generative.embedding.weight.detach().numpy()[codes].reshape(2, 8, 8, 128)
    np.testing.assert_allclose(found[:, 1, 2], vectors[:, 2:4, 4:6].mean((1, 2)), rtol=1e-5)


def test_greedy_codes_are_those_of_the_model(checkpoint: Path) -> None:
    autoencoder, items = load_autoencoder(str(checkpoint)), stripes().train
    codes = codes_of(autoencoder, items, limit=7)
    context = autoencoder.recognition.context(
        autoencoder.standardise(torch.from_numpy(items.read(np.arange(7), seed=(0,))))
    )
    logits = autoencoder.recognition.logits(context, torch.from_numpy(codes))
    np.testing.assert_array_equal(codes, logits.argmax(-1).numpy())


def test_searched_codes_explain_items_better_than_greedy_ones(checkpoint: Path) -> None:
    autoencoder, items = load_autoencoder(str(checkpoint)), stripes().train
    x = autoencoder.standardise(torch.from_numpy(items.read(np.arange(7), seed=(0,))))
    greedy, searched = (codes_of(autoencoder, items, limit=7, search=s) for s in (None, CodeSearch(proposals=3)))
    before, after = (autoencoder.log_likelihood(x, torch.from_numpy(codes)) for codes in (greedy, searched))
    assert (after >= before).all() and (after > before).any()


def test_searched_codes_are_probed_next_to_greedy_ones(checkpoint: Path, tmp_path: Path) -> None:
    options = {"counts": (6,), "seeds": 1, "features": ("one-hot",), "probes": ("linear",), "proposals": 2}
    rows = run_task({"tiny": str(checkpoint)}, "stripes", stripes(), tmp_path, **options)  # type: ignore[arg-type]
    assert [row.model for row in rows] == ["tiny", "tiny, searched"]


def test_labels_are_chosen_evenly_from_all_classes() -> None:
    labels = np.repeat([4, 7, 9], [50, 30, 20])
    for count in (3, 10, 31):
        chosen = choose_labelled(labels, count, seed=1)
        of_each = [int((labels[chosen] == name).sum()) for name in (4, 7, 9)]
        assert len(set(chosen.tolist())) == count and max(of_each) - min(of_each) <= 1
    assert choose_labelled(labels, 10, 1).tolist() != choose_labelled(labels, 10, 2).tolist()
    assert sorted(choose_labelled(labels, 1000, 0).tolist()) == list(range(100))


@pytest.mark.parametrize("probe", ["linear", "mlp"])
@pytest.mark.parametrize("dense", [True, False])
def test_probes_learn_what_is_in_the_codes_and_nothing_else(probe: str, dense: bool) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 400)
    codes = rng.integers(0, 8, (400, 4))
    noise = one_hot(codes, 8)
    codes[:, 2] = labels
    matrix = one_hot(codes, 8)
    if dense:
        matrix, noise = matrix.toarray(), noise.toarray()
    found = [
        probe_accuracy(probe, each[:300], labels[:300], each[300:], labels[300:], seed=0)  # type: ignore[arg-type]
        for each in (matrix, noise)
    ]
    assert found[0] > 0.98 and found[1] < 0.5


def test_the_report_has_every_model_and_is_not_measured_twice(checkpoint: Path, tmp_path: Path) -> None:
    options = {"counts": (6, 10**9), "seeds": 2, "features": ("one-hot", "embedded"), "probes": ("linear",)}
    rows = run_task({"tiny": str(checkpoint)}, "stripes", stripes(), tmp_path, **options)  # type: ignore[arg-type]
    assert [(row.features, row.labels, row.seed) for row in rows] == [
        (name, *cell) for name in ("one-hot", "embedded") for cell in ((6, 0), (6, 1), (60, 0))
    ]
    assert all(row.bits == 32 and 0.3 < row.accuracy <= 1 for row in rows)
    kept = next(tmp_path.glob("*.json"))
    kept.write_text(kept.read_text().replace('"accuracy": 1.0', '"accuracy": 0.123'))
    again = run_task({"tiny": str(checkpoint)}, "stripes", stripes(), tmp_path, **options)  # type: ignore[arg-type]
    assert [asdict(row) for row in again] == json.loads(kept.read_text())["rows"]
    paths = write_task(
        tmp_path / "out", "task_stripes", "stripes", rows, describe_machine(), ["python -m benchmarks task"]
    )
    assert "| tiny | 32 | one-hot | linear |" in paths[1].read_text()
    assert paths[2].read_bytes().startswith(b"\x89PNG")


def test_a_model_that_was_trained_on_is_probed_again(checkpoint: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(checkpoint, tmp_path / "model"))

    def probe(max_seconds: float | None = None) -> list[TaskRow]:
        options = {"counts": (6,), "seeds": 1, "features": ("one-hot",), "probes": ("linear",)}
        work = tmp_path / "work"
        return run_task({"tiny": str(model)}, "stripes", stripes(), work, max_seconds=max_seconds, **options)  # type: ignore[arg-type]

    assert len(probe()) == 1
    torch.manual_seed(1)
    save_weights(Autoencoder(TINY_MLP), model / "model.safetensors")
    assert probe(max_seconds=-1) == [], "there is no measurement of these weights"
    assert len(probe()) == 1
    (model / "model.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"model\.safetensors: cannot be read \(No such file"):
        probe()


def test_probes_need_labels(checkpoint: Path, tmp_path: Path) -> None:
    data = Dataset(stripes().train, stripes().test)
    with pytest.raises(InputError, match="probes need labels"):
        run_task({"tiny": str(checkpoint)}, "x", data, tmp_path, counts=(10,), seeds=1, features=(), probes=())


def test_motion_is_labelled_by_the_kind_that_its_clip_is_named_after(tmp_path: Path) -> None:
    clips = {
        "run1_subject2": 70,
        "walk2_subject4": 40,
        "dance1_subject1": 33,
        "jumps1_subject1": 50,
        "run2_subject1": 64,
    }
    poses = standing()[None].repeat(sum(clips.values()), 0).astype(np.float32)
    ends = np.cumsum([0, *clips.values()])
    np.savez(tmp_path / "h1.npz", data=poses, split_points=ends, names=list(clips), fps=30)
    data = motion_by_category(tmp_path / "h1.npz", 32)
    assert data.train_labels is not None and data.train_labels.tolist() == [2, 2, 0]  # run, run, dance; no jumps
    assert data.test_labels is not None and sorted(data.test_labels.tolist()) == [2, 2, 3]
    assert data.train.read(np.arange(3), seed=(0,)).shape == (3, 32, 127)


# --- a task reward


def test_cells_of_a_reward_are_trained_measured_and_kept(tmp_path: Path) -> None:
    base = experiment(TINY_MLP, settings={"num_samples": 4}, steps=2)
    cells = [("class_log_prob", 0.0, 0), ("class_correct", 3.0, 1)]
    rows = run_rewards(base, stripes(), tmp_path, cells=cells)
    assert [(row.reward, row.weight, row.seed, row.steps) for row in rows] == [
        ("class_log_prob", 0.0, 0, 2),
        ("class_correct", 3.0, 1, 2),
    ]
    assert run_rewards(base, stripes(), tmp_path, cells=cells, max_seconds=0) == rows
    assert run_rewards(base, stripes(), tmp_path, cells=[("class_correct", 9.0, 0)], max_seconds=0) == []
    with pytest.raises(ConfigError, match="holds a run with another steps"):
        run_rewards(dataclasses.replace(base, steps=3), stripes(), tmp_path, cells=cells)
    paths = write_rewards(tmp_path / "out", base, rows, describe_machine(), "python -m benchmarks reward")
    assert "| class_correct | 3 | 1 |" in paths[1].read_text() and paths[2].read_bytes().startswith(b"\x89PNG")
    others = [dataclasses.replace(rows[0], weight=7.0)]
    text = write_rewards(tmp_path / "out", base, others, describe_machine(), "another command")[1].read_text()
    assert "| class_correct | 3 | 1 |" in text and " | 7 | 1 |" in text
    assert "`python -m benchmarks reward`" in text and "`another command`" in text


def test_rewards_are_for_daps_with_labels(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="method daps on a dataset with labels"):
        run_rewards(experiment(TINY_MLP, "vqvae"), stripes(), tmp_path, cells=[("class_correct", 1.0, 0)])
