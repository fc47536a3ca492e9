"""docs/data.md: its recipes for the trainers of others run on a code set of digits."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from daps_tokenizer import Tokenizer
from daps_tokenizer.cli.main import main as daps_tokenize
from daps_tokenizer.data.code_set_writer import write_code_set
from daps_tokenizer.data.datasets import ArrayData
from tests.cli.helpers import digit
from tests.paths import ROOT

SECTION = (ROOT / "docs" / "data.md").read_text(encoding="utf-8").partition("### With other trainers")[2]
COMMANDS = re.findall(r"`(daps-tokenize convert [^`]*)`", SECTION)
LLAMA, NANOGPT = re.findall(r"```python\n(.*?)```", SECTION, flags=re.DOTALL)[:2]


@pytest.fixture
def codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """The codes (6, 8) of digits in ``my-codes``, which the page's commands have converted, in the current folder."""
    monkeypatch.chdir(tmp_path)
    images = np.stack([np.asarray(digit(seed))[..., None] for seed in range(6)])
    data = ArrayData(images, "digits", "crop", np.arange(6) + 2, tuple(map(str, range(10))))
    write_code_set(Tokenizer.from_pretrained("daps-mnist"), data, Path("my-codes"))
    assert len(COMMANDS) == 2
    for command in COMMANDS:
        result = CliRunner().invoke(daps_tokenize, command.split()[1:])
        assert result.exit_code == 0, result.output
    return np.load("my-codes/codes.npy")


def test_batches_of_nanogpt_begin_with_the_start_token_of_a_row(codes: np.ndarray) -> None:
    recipe: dict[str, Any] = {}
    exec(NANOGPT, recipe)
    given, wanted = recipe["get_batch"](32)
    assert given.shape == wanted.shape == (32, 8) and torch.equal(given[:, 1:], wanted[:, :-1])
    rows = [[256 + 2 + row, *codes[row]] for row in range(6)]
    for before, last in zip(given.tolist(), wanted[:, -1].tolist(), strict=True):
        assert [*before, last] in rows


def test_a_llama_of_hugging_face_learns_codes_and_draws_them(codes: np.ndarray) -> None:
    pytest.importorskip("transformers", reason="the transformers library is not installed")
    recipe: dict[str, Any] = {}
    exec(LLAMA.replace("range(2000)", "range(2)"), recipe)
    assert recipe["images"].shape == (4, 28, 28, 1)
    assert recipe["drawn"][:, 0].tolist() == [256 + 7] * 4 and int(recipe["drawn"][:, 1:].max()) < 256


def test_llamagen_finds_its_two_folders(codes: np.ndarray) -> None:
    folder = Path("codes/imagenet256")
    assert json.loads((folder / "meta.json").read_text())["num_classes"] == 10
    for row in range(6):
        assert np.load(folder / "imagenet256_codes" / f"{row}.npy").tolist() == [codes[row].tolist()]
        assert np.load(folder / "imagenet256_labels" / f"{row}.npy").tolist() == [row + 2]
