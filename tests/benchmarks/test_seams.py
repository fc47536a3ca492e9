"""Seams are measured on the same pixels with and without a border, and large photographs in processes of their own."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.large import generated_photo, measure_here, measure_large, write_large
from benchmarks.studies.seams import _errors, measure_seams, write_seams
from daps_tokenizer import Tokenizer
from daps_tokenizer.backends.torch import TorchBackend
from daps_tokenizer.data.datasets import ArrayData
from daps_tokenizer.errors import BackendError, InputError
from daps_tokenizer.evaluation.timing import describe_machine
from daps_tokenizer.hub import ModelFolder
from daps_tokenizer.model.autoencoder import Autoencoder
from tests.settings import TINY_GRID
from tests.test_tokenizer import digits


@pytest.fixture(scope="module")
def tok(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    torch.manual_seed(0)
    model = Autoencoder(TINY_GRID).eval().requires_grad_(False)
    backend = TorchBackend(model, device="cpu", dtype=torch.float32)
    return Tokenizer(ModelFolder(tmp_path_factory.mktemp("unused"), TINY_GRID), backend)


def test_errors_are_told_apart_by_their_distance_from_the_border() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    reconstruction = image.copy()
    reconstruction[8] = 3  # the row below the border
    found = _errors(image, reconstruction)
    assert found["0"] == 9 * 16 / 60 and found["jump"] == 9 * 16 / 32  # nothing jumps across the other border
    reconstruction = image.copy()
    reconstruction[:2] = 4
    found = _errors(image, reconstruction)
    assert found["4"] > 0 and found["jump"] == 0


def test_seams_of_real_tiles(tok: Tokenizer, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    done: list[int] = []
    results = measure_seams(tok, ArrayData(images, "noise"), [0, 2], seed=0, on_progress=done.append)
    assert set(results) == {"apart", "one grid", "no border"} and done == [1, 2]
    assert list(results["apart"]) == ["0", "1", "2", "4", "jump"]
    assert results["apart"]["0"]["mean"] != results["one grid"]["0"]["mean"]
    content = {
        "command": "the command",
        "machine": describe_machine(),
        "data": "noise",
        "items": 2,
        "weights_sha256": "0" * 64,
        "results": results,
    }
    json_path, table_path = write_seams(tmp_path, "tiny", content)
    assert json.loads(json_path.read_text())["results"] == results
    table = table_path.read_text()
    assert "| 0 pixels from the border |" in table and "| 2 to 3 pixels from the border |" in table
    assert "| 4 pixels from the border and more |" in table and "| jump across the border |" in table


def test_a_model_without_a_grid_has_no_seams_to_measure(random_mnist_folder: Path) -> None:
    with pytest.raises(InputError, match="random-mnist decodes every tile by itself"):
        measure_seams(Tokenizer.from_pretrained(random_mnist_folder), ArrayData(digits(1), "digits"), [0], seed=0)


def test_a_large_photograph_is_measured_and_reported(random_mnist_folder: Path, tmp_path: Path) -> None:
    row = measure_here(str(random_mnist_folder), 60, 40, 1)
    assert (row.tiles, row.code_bytes) == (6, 48) and row.peak_memory_mb > 10
    content = {"command": "the command", "machine": describe_machine(), "threads": 1}
    json_path, table_path = write_large(tmp_path, "m", [row], content)
    assert json.loads(json_path.read_text())["rows"][0]["tiles"] == 6
    assert "| 60×40 | 6 | 48 |" in table_path.read_text()


def test_a_model_that_cannot_be_measured_says_why() -> None:
    with pytest.raises(BackendError, match=r"nowhere on 40×40 pixels could not be measured: .*nowhere"):
        measure_large("nowhere", [(40, 40)], threads=1)


def test_a_size_that_is_none_is_refused_in_one_line() -> None:
    for size in ("12", "0x5", "axb"):
        result = CliRunner().invoke(main, ["large", "--model", "daps-cifar10", "--size", size])
        assert result.exit_code == 2 and f"WIDTHxHEIGHT in pixels, for example 4000x3000, not '{size}'" in result.stderr


def test_generated_photographs_are_neither_flat_nor_noise() -> None:
    photo = generated_photo(200, 300, 3)
    assert photo.shape == (200, 300, 3) and photo.dtype == np.uint8
    steps = np.abs(np.diff(photo.astype(int), axis=1))
    assert photo.std() > 15 and np.median(steps) < 12
