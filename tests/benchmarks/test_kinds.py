"""The benchmark of motion of a kind: every row and the report, on a few short clips."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.studies import kinds
from benchmarks.studies.kinds import measure_kinds, write_kinds
from benchmarks.studies.language import KINDS
from daps_tokenizer import Generator, Tokenizer
from daps_tokenizer.motion.dataset import VALIDATION_CLIPS
from daps_tokenizer.motion.features import standing
from daps_tokenizer.motion.robots import H1


def clips() -> dict[str, np.ndarray]:
    """Of every kind some that move one joint of their own, and the four that are held out."""
    random = np.random.default_rng(0)
    names = ["walk9_x", "run9_x", "jumps9_x", "fallAndGetUp9_x", "dance9_x", "fight9_x", *VALIDATION_CLIPS]
    found = {}
    for name in names:
        kind = next(number for number, of in enumerate(KINDS.values()) if re.split(r"\d", name)[0] in of)
        poses = np.tile(standing(H1), (1100, 1))
        poses[:, 7 + kind] += 0.3 * np.sin(np.arange(1100) / 5 + random.normal()) + 0.2
        poses[:, 0] = np.cumsum(0.03 * random.random(1100))
        found[name] = poses
    return found


def test_every_row_is_measured_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "load_clips", lambda path, robot: clips())
    monkeypatch.setattr(kinds, "SWEPT", ((0.0, 0.9), (2.0, 0.5)))
    generator = Generator.from_pretrained("daps-h1-motion-causal", num_threads=1)
    tokenizer = Tokenizer.from_pretrained("daps-h1-motion", num_threads=1)
    found = measure_kinds(generator, tokenizer, tmp_path, samples=4)
    real, reconstructed, drawn, uniform = found["rows"]
    assert real["stretches"] == reconstructed["stretches"] == 16 and drawn["stretches"] == uniform["stretches"] == 24
    assert real["recognised"] == 1 and set(real["by_kind"]) == {"walk", "run", "dance", "fight"}
    assert set(drawn["by_kind"]) == set(KINDS) and uniform["recognised"] is None
    assert drawn["bits_per_window"] > 0 and uniform["bits_per_window"] == 640
    assert reconstructed["kernel_of_four"] < uniform["kernel_of_four"]
    content = {"command": "x", "machine": {"cpu": "x", "date": "today"}, "generator": "toy", "weights": "toy abc"}
    written = write_kinds(tmp_path, content | found)
    assert json.loads(written[0].read_text())["rows"] == found["rows"]
    text = written[1].read_text()
    assert "| real, held out | 16 | 100% | – |" in text and "| guidance 2, temperature 0.5 | 24 |" in text
    assert "| uniform prior | 24 | – | – |" in text
