"""``benchmarks spans``: every length of span draws the codes of the loop, and what each takes is told."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.studies.spans import CHOSEN, measure_spans, span_lengths, write_spans
from daps_tokenizer.evaluation.timing import describe_machine
from daps_tokenizer.model.autoencoder import Autoencoder
from tests.settings import TINY_GRID


def test_each_span_has_the_codes_of_the_loop_and_computes_less_the_shorter_it_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Autoencoder(TINY_GRID).eval()
    model.autoregressive.code_embedding.weight.data.mul_(4.0)
    inputs = np.random.default_rng(0).integers(0, 256, (4, *TINY_GRID.input_shape), dtype=np.uint8)
    found = measure_spans(model, inputs, [1, 2], 0.0)
    assert span_lengths(TINY_GRID) == [16, 8, 4, 1] and found["codes_equal"] == 1
    passes = {row["span"]: row["passes"] for row in found["rows"] if row["batch"] == 1}
    assert passes["16"] > passes["8"] > passes["4"] > passes["1"] == 1
    assert passes[CHOSEN] == passes["16"] and all(row["ms"] > 0 for row in found["rows"])
    content = {"command": "", "machine": describe_machine(), "model": "tiny", "data": "noise", "temperature": 0.0}
    text = write_spans(tmp_path, content | found)[1].read_text()
    assert "| span | batch 1 | batch 2 |" in text and "100.0000%" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "8", "--batch", "5"], "twice the largest batch"),
        (["--batch", "0"], "0 is not in the range"),
    ],
)
def test_too_few_images_are_refused(tmp_path: Path, arguments: list[str], message: str) -> None:
    pixels, labels = np.zeros((20, 28, 28), np.uint8), np.zeros(20, np.uint8)
    np.savez(tmp_path / "mnist.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    command = ["spans", "--model", "daps-mnist", "--data", str(tmp_path / "mnist.npz"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(main, [*command, *arguments])
    assert done.exit_code != 0 and message in done.output and not (tmp_path / "out").exists()
