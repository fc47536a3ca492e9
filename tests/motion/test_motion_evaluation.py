"""Motion models are evaluated and timed as image models are, on windows of clips."""

import dataclasses
import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality.report import QualityRequest, run_quality
from daps_tokenizer import Clip, Tokenizer
from daps_tokenizer.data.datasets import open_data
from daps_tokenizer.errors import InputError
from daps_tokenizer.evaluation.evaluate import measure
from daps_tokenizer.motion.dataset import VALIDATION_CLIPS, open_motion_data
from daps_tokenizer.motion.features import compute_features
from daps_tokenizer.motion.metrics import motion_metrics
from daps_tokenizer.motion.resample import resample
from tests.cli.helpers import run_well
from tests.motion.motions import LAFAN, needs_lafan, smooth_motion
from tests.settings import SMALL_MOTION
from tests.train.test_motion_data import write_archive
from train.data import load_dataset


@pytest.fixture(scope="module")
def tok(random_motion_folder: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(random_motion_folder)


def test_windows_of_lafan_are_those_that_training_is_validated_on(tmp_path: Path) -> None:
    write_archive(tmp_path, ("walk1_subject1", *VALIDATION_CLIPS))
    data = open_data(tmp_path / "lafan1_h1.npz", SMALL_MOTION)
    expected = load_dataset("motion", tmp_path, input_shape=(32, 127)).test
    assert len(data) == len(expected) == 4 * 9 and data.fit == "window"
    indices = np.arange(36)
    np.testing.assert_allclose(data.read(indices), expected.read(indices, seed=(0,)), atol=1e-4)
    assert len(open_data(tmp_path / "lafan1_h1.npz", SMALL_MOTION, split="train", limit=5)) == 5


def test_clips_of_ones_own_are_evaluated_whole(tmp_path: Path) -> None:
    Clip(smooth_motion(40)).save(tmp_path / "a.csv")
    Clip(smooth_motion(68), 60.0).save(tmp_path / "b.npz")
    assert len(open_motion_data(tmp_path, 32)) == 9 + 4  # 68 frames at 60 fps are 35 at 30
    windows = open_motion_data(tmp_path / "a.csv", 32)
    clip = compute_features(Clip.load(tmp_path / "a.csv").qpos, fps=30.0)
    first = windows.starts.tolist().index(0)
    np.testing.assert_array_equal(windows.read(np.array([first]))[0], clip[:32])
    assert (
        list(windows.entries())[first] == ("frame 0", -1) and windows.description == "a.csv, test, windows of 32 frames"
    )


def test_clips_are_brought_to_the_frame_rate_of_the_model(tmp_path: Path) -> None:
    Clip(smooth_motion(40)).save(tmp_path / "a.npz")
    assert SMALL_MOTION.motion is not None
    fast = dataclasses.replace(SMALL_MOTION, motion=dataclasses.replace(SMALL_MOTION.motion, fps=60.0))
    data = open_data(tmp_path / "a.npz", fast)
    assert len(data) == 79 - 32 + 1
    clip = compute_features(resample(smooth_motion(40), from_fps=30.0, to_fps=60.0), fps=60.0)
    starts = [int(name.removeprefix("frame ")) for name, _ in islice(data.entries(), 3)]
    np.testing.assert_allclose(data.read(np.arange(3)), [clip[start : start + 32] for start in starts], atol=1e-5)


def test_what_holds_no_windows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no clips; expected \.csv or \.npz files"):
        open_motion_data(tmp_path, 32)
    Clip(smooth_motion(20)).save(tmp_path / "short.csv")
    with pytest.raises(InputError, match=r"short\.csv: all clips are shorter than a window of 32 frames"):
        open_motion_data(tmp_path / "short.csv", 32)
    (tmp_path / "bad.npz").write_bytes(b"PK nothing")
    with pytest.raises(InputError, match=r"bad\.npz: cannot be read \(.*\); expected an NPZ archive"):
        open_motion_data(tmp_path / "bad.npz", 32)


def test_measured_are_log_p_and_the_errors_of_poses(tok: Tokenizer) -> None:
    features = np.stack([compute_features(smooth_motion(32, seed), fps=30.0) for seed in range(3)])
    codes = tok.encode(features)
    found = measure(tok, features, codes)
    expected = motion_metrics(tok.targets(features), tok.decode(codes), fps=30.0)
    assert {"log_p", "l2", "log_q", *expected} == set(found)
    np.testing.assert_allclose(found["joint_error"], expected["joint_error"])
    assert found["jerk"].shape == (3,)


def test_evaluate_and_benchmarks_report_motion(random_motion_folder: Path, tmp_path: Path) -> None:
    Clip(smooth_motion(40)).save(tmp_path / "walk.csv")
    model, data = str(random_motion_folder), tmp_path / "walk.csv"
    content = json.loads(run_well("evaluate", model, data, "--codes", "greedy", "--json").stdout)
    assert content["protocol"]["items"] == 9 and content["results"]["greedy"]["joint_error"]["mean"] > 0
    assert "joint_error" in run_well("evaluate", model, data, "--codes", "greedy", "--limit", 2).stdout
    request = QualityRequest((model,), data, "4", False, (2,), ("greedy", "best of 2"), 0, 1)
    paths = run_quality(request, tmp_path / "work", tmp_path / "out", name=None, command="c", perceptual=None)
    table = (tmp_path / "out" / "quality_random-motion.md").read_text()
    assert (
        "joints, degrees" in table and "foot sliding, cm/s" in table and "gain, nats" in table and "PSNR" not in table
    )
    assert all(path.is_file() for path in paths)


@needs_lafan
def test_real_windows_are_ten_thousand() -> None:
    data = open_motion_data(LAFAN, 32)
    assert len(data) == 10_000 and data.read(np.array([0, 9_999])).shape == (2, 32, 127)
