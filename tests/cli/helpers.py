"""Running daps-tokenize in tests, and something for it to encode."""

import os
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
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


def on_terminal(arguments: list[str], *, stream: str) -> tuple[int, str, bytes]:
    """Run with one stream on a terminal: exit code, what the terminal got, and what the other stream got."""
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    other = {"stdout": "stderr", "stderr": "stdout"}[stream]
    environment = {name: value for name, value in ENVIRONMENT.items() if name not in ("COLORTERM", "NO_COLOR")}
    streams: dict[str, int] = {stream: theirs, other: subprocess.PIPE}
    with subprocess.Popen([*PYTHON_M, *arguments], env=environment | {"TERM": "xterm-256color"}, **streams) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # Linux's way to say that the program has closed its end
            while chunk := os.read(ours, 4096):
                shown += chunk
        pipe = process.stdout or process.stderr
        assert pipe
        piped = pipe.read()
    os.close(ours)
    return process.returncode, shown.decode(), piped
