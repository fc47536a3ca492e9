"""Running daps-tokenize in tests, and something for it to encode."""

import os
import sys

import numpy as np
from click.testing import CliRunner, Result
from PIL import Image

from daps_tokenizer import Codes, Tokenizer
from daps_tokenizer.cli.main import main
from tests.paths import ROOT

PYTHON_M = [sys.executable, "-m", "daps_tokenizer"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def digit(seed: int = 0, size: int = 28) -> Image.Image:
    """Something with strokes, (size, size) black and white."""
    strokes = np.random.default_rng(seed).normal(size=(7, 7)) > 0.3
    return Image.fromarray(np.where(strokes, 255, 0).astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def run_well(*arguments: object, stdin: bytes | None = None) -> Result:
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    return result


def refusal(*arguments: object, stdin: bytes | None = None) -> str:
    """The one line on standard error, of a run that exits with 2 and prints nothing else."""
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 2 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def save_codes(tok: Tokenizer, name: str, *seeds: int) -> Codes:
    codes = tok.encode([digit(seed) for seed in seeds])
    codes.save(name)
    return codes
