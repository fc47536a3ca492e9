"""Search is measured as the searches themselves say, and reported in full."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.search.measure import Grid, measure_search, nearest_codes
from benchmarks.search.report import write_search
from benchmarks.studies.prior import CodePrior, bits, measure_prior, train_prior, write_prior
from daps_tokenizer import LocalSearch, Tokenizer
from daps_tokenizer.data.datasets import ArrayData
from daps_tokenizer.evaluation.timing import describe_machine
from tests.test_tokenizer import digits

GRID = Grid(proposals=(1, 2), sweeps=2, best_of=(2,))


def test_search_is_measured_as_local_search_says(random_mnist_folder: Path, tmp_path: Path) -> None:
    tok, images = Tokenizer.from_pretrained(random_mnist_folder), digits(6)
    done: list[int] = []
    found = measure_search(str(random_mnist_folder), ArrayData(images, "digits"), GRID, on_progress=done.append)
    assert done == [6]
    rows = {row.name: row for row in found}
    assert len(rows) == len(found) == 1 + 1 + 3 * 2 * 2
    codes = tok.encode(images, search=LocalSearch(sweeps=2, proposals=2))
    searched = rows["local search, 2 proposals, 2 sweeps"]
    assert searched.log_p == pytest.approx(tok.likelihood(images, codes).log_likelihood.mean(), rel=1e-6)
    assert searched.decodes == 1 + 2 * (8 * 2 + 1) and rows["greedy"].decodes == 1
    assert all(row.log_p >= rows["greedy"].log_p for row in found if row.family != "squared error")
    assert all(row.seconds > 0 and row.psnr is not None for row in found)
    content = {"command": "c", "machine": describe_machine(), "data": "digits", "items": 6, "weights_sha256": "0" * 64}
    paths = write_search(tmp_path, "m", found, content)
    assert len(json.loads(paths[0].read_text())["results"]) == len(found)
    assert "| nearest codes, 1 proposal, 2 sweeps | 19 |" in paths[1].read_text()
    assert paths[2].read_bytes().startswith(b"\x89PNG")


def test_the_nearest_codes_are_the_nearest_vectors_of_the_table() -> None:
    table = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    codes = np.arange(12).reshape(3, 4)
    proposed = nearest_codes(table)(np.zeros((3, 1)), codes, 3)
    for (row, column), m in itertools.product(np.ndindex(codes.shape), range(3)):
        code = codes[row, column]
        distances = np.linalg.norm(table - table[code], axis=1)
        assert proposed[row, column, m] == np.argsort(distances)[m + 1]


def test_a_prior_learns_what_codes_have_in_common() -> None:
    first = np.random.default_rng(0).integers(0, 4, (200, 1))
    codes = (first + np.arange(6)) % 4  # two bits: all follows from the first code
    learned = bits(train_prior(codes, 4, steps=150, seed=0), codes)
    assert 1.9 < learned < 3.5 < bits(CodePrior(6, 4).eval(), codes)


def test_a_prior_sees_no_code_before_it_is_its_turn() -> None:
    torch.manual_seed(0)
    prior, codes = CodePrior(6, 4).eval(), torch.zeros(1, 6, dtype=torch.long)
    changed = codes.clone()
    changed[0, 3] = 2
    before, after = prior(codes), prior(changed)
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert (before[:, 3:] != after[:, 3:]).all()


def test_the_bits_of_every_way_to_encode_are_measured(random_mnist_folder: Path, tmp_path: Path) -> None:
    tok = Tokenizer.from_pretrained(random_mnist_folder)
    rows = measure_prior(tok, digits(40), digits(6), log_q_weights=(2.0,), steps=2, seed=0)
    assert [row["codes"] for row in rows] == ["greedy", "searched", "searched, λ = 2"]
    assert rows[1]["log_p"] > rows[0]["log_p"] and rows[2]["log_q"] >= rows[1]["log_q"]
    content = {"command": "c", "machine": describe_machine(), "train": "a", "data": "b", "steps": 2, "results": rows}
    paths = write_prior(tmp_path, "m", content | {"bits_per_item": 64.0, "weights_sha256": "0" * 64})
    assert "| searched, λ = 2 |" in paths[1].read_text() and json.loads(paths[0].read_text())["results"] == rows
