"""Motion by a text and a path: what is drawn depends on both, windows follow each other, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from daps_tokenizer import Codes, Generator, Tokenizer, sample_motion
from daps_tokenizer.codes.layouts import ClipLayout
from daps_tokenizer.errors import InputError
from daps_tokenizer.motion import generation
from daps_tokenizer.motion.generation import approach, check_path, motion_conditions, read_path, relative_path
from daps_tokenizer.motion.kinematics import heading_quaternion, split_heading


@pytest.fixture(autouse=True)
def embeddings_without_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every text has an embedding of its own."""

    def encode(texts: list[str]) -> np.ndarray:
        made = [np.random.default_rng(list(text.encode())).normal(size=384) for text in texts]
        return np.stack(made).astype(np.float32)

    monkeypatch.setattr(generation, "sentence_encoder", lambda: encode)


@pytest.fixture(scope="module")
def gen() -> Generator:
    return Generator.from_pretrained("daps-g1-text", num_threads=1)


@pytest.fixture(scope="module")
def tok() -> Tokenizer:
    return Tokenizer.from_pretrained("daps-g1-motion")


def line(seconds: float, *, speed: float = 1.0, angle: float = 0.0) -> np.ndarray:
    along = np.arange(round(30 * seconds)) / 30 * speed
    return along[:, None] * np.array([np.cos(angle), np.sin(angle)])


def test_clips_have_the_length_that_was_asked_for_and_a_seed_repeats_them(gen: Generator, tok: Tokenizer) -> None:
    codes = sample_motion(gen, tok, "a walk", seconds=2.5, num_samples=2, seed=0)
    assert codes.shape == (2, 3, tok.num_tokens)  # 75 frames are two windows of 32 and a part of a third
    assert tok.decode(codes).shape == (2, 75, 36)
    assert codes == sample_motion(gen, tok, "a walk", seconds=2.5, num_samples=2, seed=0)
    assert codes != sample_motion(gen, tok, "a walk", seconds=2.5, num_samples=2, seed=1)
    assert sample_motion(gen, tok, "a walk", seconds=0.1).shape == (1, 1, tok.num_tokens)


def test_text_path_and_the_window_before_decide_what_is_drawn(gen: Generator, tok: Tokenizer) -> None:
    walk, run, anything = (sample_motion(gen, tok, text, seconds=2, seed=0) for text in ("a walk", "a run", None))
    assert walk != run and walk != anything
    straight, curved = line(3), line(3)
    curved[:, 1] += 2 * np.linspace(0, 1, 90) ** 2
    ahead, left = (sample_motion(gen, tok, "a walk", path=path, seed=0) for path in (straight, curved))
    assert ahead != left and ahead != sample_motion(gen, tok, "a walk", seconds=3, seed=0)
    embedding = generation.sentence_encoder()(["a walk"])[0]
    first = gen.sample(num_samples=1, seed=5, conditions={"text": embedding})
    alone = gen.sample(num_samples=1, seed=6, conditions={"text": embedding})
    after = gen.sample(num_samples=1, seed=6, conditions={"text": embedding, "before": first.numpy()[0]})
    assert after != alone


def test_a_motion_starts_where_its_path_does_and_looks_along_it(gen: Generator, tok: Tokenizer) -> None:
    path = line(4, angle=np.pi / 2) + np.array([3.0, -1.0])
    codes = sample_motion(gen, tok, path=path, num_samples=2, seed=0)
    assert codes.layout is not None and codes.layout.frames == 120
    assert np.allclose(codes.layout.starts, [[3.0, -1.0, np.pi / 2]] * 2, atol=1e-5)
    assert np.allclose(tok.decode(codes)[:, 0, :2], [3.0, -1.0], atol=1e-5)


def test_of_several_draws_the_one_nearest_to_the_path_is_taken(gen: Generator, tok: Tokenizer) -> None:
    path = line(64 / 30, speed=0.5)
    off = []
    for candidates in (1, 16):
        codes = sample_motion(gen, tok, path=path, num_samples=4, seed=0, candidates=candidates)
        off.append(np.linalg.norm(tok.decode(codes)[..., :2] - path, axis=-1).mean())
    assert off[1] < off[0]


class Walker:
    """A tokenizer with two codes for each window: the centimetres that the robot walks ahead in a frame, and the
    degrees that it turns."""

    config = SimpleNamespace(
        name="walker", weights_sha256="a" * 64, vocab_size=16, input_shape=(32, 1), motion=SimpleNamespace(fps=30.0)
    )

    def decode(self, codes: Codes) -> np.ndarray:
        assert isinstance(codes.layout, ClipLayout)
        poses = np.zeros((len(codes.numpy()), codes.layout.frames, 36))
        for clip, (windows, (x, y, heading)) in enumerate(zip(codes.numpy(), codes.layout.starts, strict=True)):
            for frame in range(codes.layout.frames):
                poses[clip, frame, :2] = x, y
                poses[clip, frame, 3:7] = heading_quaternion(np.array(heading))
                centimetres, degrees = windows[frame // 32]
                x += 0.01 * centimetres * np.cos(heading)
                y += 0.01 * centimetres * np.sin(heading)
                heading += np.radians(degrees)
        return poses


class Drawn:
    """A generator that returns given codes, window after window, and records what it was told."""

    name, labels, num_tokens = "drawn", (), 2
    tokenizer = SimpleNamespace(name="walker", weights_sha256="a" * 64)
    conditions = motion_conditions(2)

    def __init__(self, windows: np.ndarray) -> None:
        self.told: list[dict[str, np.ndarray]] = []
        self._windows = windows

    def sample(self, *arguments: object, conditions: dict[str, np.ndarray], **options: object) -> Codes:
        self.told.append(conditions)
        return Codes(self._windows[len(self.told) - 1], 16, "walker", "a" * 64)


def test_every_window_is_told_the_codes_before_it_and_the_path_seen_from_where_the_robot_is() -> None:
    windows = np.array([[[1, 1], [2, 0]], [[3, 0], [1, 2]], [[2, 1], [2, 2]]])  # of two motions
    path = np.array([3.0, -1.0]) + np.stack([0.001 * np.arange(96) ** 1.5, 0.02 * np.arange(96)], axis=1)
    gen, tok = Drawn(windows), Walker()
    drawn = sample_motion(gen, tok, path=path, num_samples=2, seed=0, candidates=1)  # type: ignore[arg-type]
    assert np.array_equal(drawn.numpy(), windows.swapaxes(0, 1)) and len(gen.told) == 3
    assert "before" not in gen.told[0]
    assert np.array_equal(gen.told[1]["before"], windows[0]) and np.array_equal(gen.told[2]["before"], windows[1])

    ahead = np.concatenate([path, np.repeat(path[-1:], 40, axis=0)])  # a path stays at its last point
    for motion, (start, poses) in enumerate(zip(drawn.layout.starts, tok.decode(drawn), strict=True)):  # type: ignore[union-attr]
        xy, heading = poses[:, :2], split_heading(poses[:, 3:7])[0]
        for window in range(3):
            frame = 32 * window
            # The robot stood where it starts. Later it is one frame on from where the last window led it.
            place, angle = (start[:2], start[2]) if window == 0 else (xy[frame], heading[frame])
            past = np.tile(place, (32, 1)) if window == 0 else xy[frame - 32 : frame]
            strayed = place - ahead[frame]
            future = [ahead[frame + i] + (1 - i / 32) * strayed for i in range(1, 33)]
            seen = np.concatenate([past, future]) - place
            expected = np.stack(
                [
                    np.cos(angle) * seen[:, 0] + np.sin(angle) * seen[:, 1],
                    np.cos(angle) * seen[:, 1] - np.sin(angle) * seen[:, 0],
                ],
                axis=1,
            )
            told = gen.told[window]["path"][motion].reshape(64, 2)
            assert np.allclose(told, expected, atol=1e-3)  # the place is extrapolated along a straight line


def test_a_path_looks_the_same_from_everywhere() -> None:
    points = np.random.default_rng(0).normal(size=(64, 2))
    seen = relative_path(points, np.array([1.0, 2.0]), np.array(0.5))
    turn = np.array([[np.cos(1.2), -np.sin(1.2)], [np.sin(1.2), np.cos(1.2)]])
    elsewhere = relative_path(points @ turn.T + [5, 6], turn @ [1.0, 2.0] + [5, 6], np.array(0.5 + 1.2))
    assert np.allclose(seen, elsewhere, atol=1e-5)
    ahead = relative_path(np.tile([0.0, 1.0], (64, 1)), np.zeros(2), np.array(np.pi / 2))
    assert np.allclose(ahead.reshape(64, 2), [1, 0], atol=1e-6)  # what lies ahead is along x


def test_one_who_strayed_comes_back_within_a_window() -> None:
    path = line(32 / 30)
    moved = approach(path, np.array([0.0, 0.5]), np.array([0.0, 0.0]))
    assert np.allclose(moved[-1], path[-1]) and 0.45 < moved[0, 1] < 0.5


def test_paths_are_read_by_frame_or_by_time(tmp_path: Path) -> None:
    (tmp_path / "frames.csv").write_text("x,y\n0,0\n0.1,0\n0.2,0.1\n")
    assert np.allclose(read_path(tmp_path / "frames.csv", fps=30), [[0, 0], [0.1, 0], [0.2, 0.1]])
    (tmp_path / "times.csv").write_text("t,x,y\n0,0,0\n1,1,0\n2,1,1\n")
    points = read_path(tmp_path / "times.csv", fps=30)
    assert len(points) == 61 and np.allclose(points[[15, 30, 45, 60]], [[0.5, 0], [1, 0], [1, 0.5], [1, 1]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x,y\n0,0\n", "1 points; a path has at least 2"),
        ("x,y\n0,0\n1,north\n", r"row 3: '1, north'; expected finite numbers"),
        ("0,0\n0,nan\n", r"row 2: '0, nan'; expected finite numbers"),
        ("0,0\n0,0,0,0\n", "row 2 has 4 columns; expected x and y, or t, x and y"),
        ("0\n1\n", "row 1 has 1 columns"),
        ("0,0,0\n1,0,0\n1,1,0\n", "row 3: t does not rise"),
        ("0,0,0\n1e9,0,0\n", "expected at most 120"),
        ("0,0\n5,0\n", r"150 m/s after point 1; expected at most 12, with 30 points a second"),
        ("", "0 points"),
    ],
)
def test_a_path_that_is_none_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "path.csv").write_text(content)
    with pytest.raises(InputError, match=f"path.csv: .*{message}"):
        read_path(tmp_path / "path.csv", fps=30)
    with pytest.raises(InputError, match=r"nothing.csv: cannot be read"):
        read_path(tmp_path / "nothing.csv", fps=30)
    os.mkfifo(tmp_path / "pipe.csv")  # which would be waited for
    with pytest.raises(InputError, match=r"pipe.csv: cannot be read \(not a regular file\)"):
        read_path(tmp_path / "pipe.csv", fps=30)
    with pytest.raises(InputError, match="path: "):
        check_path([[0], [1, 2]], fps=30)


@pytest.fixture(scope="module")
def of_kinds() -> Generator:
    return Generator.from_pretrained("daps-h1-motion-causal", num_threads=1)


def test_motion_of_a_label_is_drawn_window_after_window(of_kinds: Generator) -> None:
    tok = Tokenizer.from_pretrained("daps-h1-motion")
    assert {"walk", "run", "dance", "fight"} < set(of_kinds.labels)
    both = sample_motion(of_kinds, tok, label=["walk", "run"], seconds=2, num_samples=2, seed=0)
    assert both.shape == (4, 2, tok.num_tokens) and tok.decode(both).shape == (4, 60, 26)
    walk = sample_motion(of_kinds, tok, label="walk", seconds=2, num_samples=2, seed=0)
    assert np.array_equal(walk.numpy(), both.numpy()[:2])  # rows take their random numbers in order
    assert walk != sample_motion(of_kinds, tok, seconds=2, num_samples=2, seed=0)
    first = walk.numpy()[0, 0]
    alone, after = (of_kinds.sample("walk", seed=6, conditions=told) for told in (None, {"before": first}))
    assert alone != after


def test_what_a_generator_of_labels_cannot_be_told_is_refused(of_kinds: Generator, gen: Generator) -> None:
    tok = Tokenizer.from_pretrained("daps-h1-motion")
    told: list[dict[str, object]] = [{"text": "a walk"}, {"path": line(2)}]
    for each in told:
        with pytest.raises(InputError, match=f"daps-h1-motion-causal takes no {next(iter(each))} but labels: stand,"):
            sample_motion(of_kinds, tok, **each)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="label 'swim' is not known to daps-h1-motion-causal; labels are stand, walk"):
        sample_motion(of_kinds, tok, label="swim")
    with pytest.raises(InputError, match="label 'walk' is not known to daps-g1-text, which was trained without labels"):
        sample_motion(gen, Tokenizer.from_pretrained("daps-g1-motion"), label="walk")


def test_what_cannot_be_drawn_is_refused(gen: Generator, tok: Tokenizer) -> None:
    with pytest.raises(InputError, match="daps-mnist-flow draws single items and takes labels: 0, 1"):
        sample_motion(Generator.from_pretrained("daps-mnist-flow"), tok, "a walk")
    with pytest.raises(InputError, match="uniform draws single items and takes no text"):
        sample_motion(Generator.uniform(tok), tok, "a walk")
    with pytest.raises(InputError, match=r"daps-g1-text draws codes of daps-g1-motion \(weights .*not of daps-mnist"):
        sample_motion(gen, Tokenizer.from_pretrained("daps-mnist"), "a walk")
    with pytest.raises(InputError, match=r"the path has 30 points, which are 1.0 s, not 2 s"):
        sample_motion(gen, tok, path=line(1), seconds=2)
    with pytest.raises(InputError, match=r"expected \(points, 2\)"):
        sample_motion(gen, tok, path=np.zeros((5, 3)))
    for seconds in (0, 121, float("nan"), True):
        with pytest.raises(InputError, match="seconds must be"):
            sample_motion(gen, tok, seconds=seconds)
    for name in ("num_samples", "seed", "guidance", "temperature", "candidates"):
        with pytest.raises(InputError, match=name):
            sample_motion(gen, tok, "a walk", seconds=1, **{name: -1})


def test_conditions_that_do_not_fit_are_refused(gen: Generator) -> None:
    causal = Generator.from_pretrained("daps-mnist-causal")
    with pytest.raises(InputError, match="condition 'text' is not known to daps-mnist-causal; it has no conditions"):
        causal.sample(conditions={"text": np.zeros(384)})
    with pytest.raises(InputError, match="condition 'colour' is not known to daps-g1-text; conditions are text, path"):
        gen.sample(conditions={"colour": np.zeros(3)})
    with pytest.raises(InputError, match=r"condition text: numbers of shape \(3,\); expected \(384,\) or \(2, 384\)"):
        gen.sample(num_samples=2, conditions={"text": np.zeros(3)})
    with pytest.raises(InputError, match="condition path: expected finite numbers"):
        gen.sample(conditions={"path": np.full(128, np.nan)})
    for codes in (np.zeros(gen.num_tokens), np.full(gen.num_tokens, gen.vocab_size)):
        with pytest.raises(InputError, match="condition before: expected codes, integers from 0 to"):
            gen.sample(conditions={"before": codes})
    with pytest.raises(InputError, match="label 'walk' is not known to daps-g1-text"):
        gen.sample("walk")
