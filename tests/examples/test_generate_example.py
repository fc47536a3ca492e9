"""The example that draws digits, and the generators in the package that it draws with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from daps_tokenizer import Generator
from daps_tokenizer.hub import built_in_generators, open_generator, open_model
from tests.cli.helpers import ENVIRONMENT
from tests.paths import ROOT


def test_digits_are_drawn(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "generate.py"), str(tmp_path / "digits.png")]
    subprocess.run(command, env=ENVIRONMENT, check=True)
    picture = np.asarray(Image.open(tmp_path / "digits.png"))
    assert picture.shape == (280, 280)
    assert 0.05 < (picture > 127).mean() < 0.3  # strokes, not noise


@pytest.mark.parametrize("name", sorted(built_in_generators()))
def test_a_built_in_generator_draws_codes_of_the_built_in_tokenizer(name: str) -> None:
    folder = open_generator(name)
    config, tokenizer = folder.config, open_model(folder.config.tokenizer.name).config
    assert config.name == name and config.tokenizer.weights_sha256 == tokenizer.weights_sha256
    assert (config.num_tokens, config.vocab_size) == (tokenizer.num_tokens, tokenizer.vocab_size)
    assert sum(path.stat().st_size for path in folder.path.iterdir()) < 10e6
    steps = 2 if config.kind == "flow" else None
    label = config.labels[0] if config.labels else None
    codes = Generator.from_pretrained(name).sample(label, 2, seed=0, steps=steps)
    assert codes.shape == (2, tokenizer.num_tokens)
