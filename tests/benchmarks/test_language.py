"""The benchmark of motion by a text and a path: stretches in one frame, the classifier, and the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.studies.language import KINDS, Stretches, at_origin, classifier_of, write_language
from daps_tokenizer import Tokenizer
from daps_tokenizer.motion.features import compute_features, standing
from daps_tokenizer.motion.generation import first_direction
from daps_tokenizer.motion.kinematics import heading_quaternion
from daps_tokenizer.motion.robots import H1


def stretches(count: int, frames: int = 33) -> np.ndarray:
    random = np.random.default_rng(0)
    poses = np.tile(standing(H1), (count, frames, 1))
    poses[..., :2] = np.cumsum(random.normal(size=(count, frames, 2)) * 0.03, axis=1) + random.normal(
        size=(count, 1, 2)
    )
    heading = np.cumsum(random.normal(size=(count, frames)) * 0.1, axis=1) + random.normal(size=(count, 1))
    poses[..., 3:7] = heading_quaternion(heading)
    return poses


def test_stretches_begin_at_the_origin_and_are_the_same_motion() -> None:
    poses = stretches(3)
    moved = at_origin(poses)
    assert np.allclose(moved[:, 0, :2], 0) and np.allclose(np.abs(moved[:, 0, 3:7]), [0, 0, 0, 1])
    before, after = (compute_features(each, fps=30, robot=H1) for each in (poses, moved))
    assert np.allclose(before, after, atol=1e-5)


def test_the_classifier_tells_kinds_apart() -> None:
    tokenizer = Tokenizer.from_pretrained("daps-h1-motion")
    poses = stretches(12 * len(KINDS))
    kinds = np.arange(len(poses)) % len(KINDS)
    poses[..., 7 : 7 + len(KINDS)] += 0.3 * np.eye(len(KINDS))[kinds][:, None]
    classify = classifier_of(Stretches(poses[:36], kinds[:36]), tokenizer)
    assert (classify(poses[36:]) == kinds[36:]).mean() > 0.9


def test_a_path_sets_out_towards_its_first_point_that_is_far_enough() -> None:
    assert first_direction(np.array([[0.0, 0.0], [0.0, 0.1], [0.4, 0.0], [0.0, 5.0]])) == 0
    assert first_direction(np.array([[1.0, 1.0], [1.0, 1.1]])) == pytest.approx(np.pi / 2)


def test_the_report_has_every_row(tmp_path: Path) -> None:
    row = {
        "motion": "real", "stretches": 2, "recognised": 0.5, "recognised_of_four": 0.75, "by_kind": {"walk": 0.5},
        "foot_sliding": 3.0, "jerk": 100.0, "border": 1.0, "diversity": 1.0, "beyond_limits": None,
    }  # fmt: skip
    path = {"motion": "path told", "stretches": 2, "mean_error": 12.3, "end_error": 45.6}
    content = {
        "command": "python -m benchmarks language", "machine": {"cpu": "x", "date": "today"}, "generator": "toy",
        "weights": "toy abc", "rows": [row], "paths": [path], "samples": 2, "seconds_per_second": 0.1,
    }  # fmt: skip
    written = write_language(tmp_path, content)
    assert json.loads(written[0].read_text()) == content
    text = written[1].read_text()
    assert "| real | 2 | 50% (75%) | 3.0 | 100 | 1.00 | – | 1.00 |" in text and "| path told | 2 | 12 | 46 |" in text
