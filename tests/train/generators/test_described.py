"""Described motion: what sentences say is measured, what a row holds, and that a generator learns from conditions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from daps_tokenizer.config.generator import Condition, GeneratorConfig, TokenizerReference, TransformerConfig
from daps_tokenizer.errors import ConfigError
from daps_tokenizer.motion.features import standing
from daps_tokenizer.motion.generation import REACH
from daps_tokenizer.motion.kinematics import heading_quaternion
from daps_tokenizer.motion.robots import G1, H1
from daps_tokenizer.tokenizer import Tokenizer
from train.data import Dataset
from train.generators import described
from train.generators.base import unpack
from train.generators.codes import CodesConfig
from train.generators.described import (
    DescribedCodes,
    DescribedItems,
    kept_arrays,
    motion_tokenizer,
    paths_around,
    split_by_share,
)
from train.generators.descriptions import HELD_OUT, PHRASES, Group, activities, sentences, turned_round
from train.generators.experiment import GeneratorExperiment
from train.loop import fit
from train.optimisation import OptimiserConfig


def moving(speed: float, *, turn: float = 0.0, off: float = 0.0, height: float = 0.76, rise: float = 0.0) -> np.ndarray:
    """33 poses of a G1 that moves at ``speed`` m/s, ``off`` degrees off its heading, and turns by degrees a second."""
    poses = np.tile(standing(G1), (33, 1))
    heading = np.radians(turn) * np.arange(33) / 30
    steps = speed / 30 * np.stack([np.cos(heading + np.radians(off)), np.sin(heading + np.radians(off))], 1)
    poses[1:, :2] = np.cumsum(steps[:-1], axis=0)
    poses[:, 2] = height + rise * np.linspace(0, 1, 33)
    poses[:, 3:7] = heading_quaternion(heading)
    return poses


@pytest.mark.parametrize(
    ("clip", "poses", "group"),
    [
        ("walk1_subject1", moving(0.0), Group("stand")),
        ("walk1_subject1", moving(0.3, turn=40), Group("walk", "slow", "forward", "left")),
        ("walk1_subject1", moving(0.6), Group("walk", "", "forward", "straight")),
        ("walk1_subject1", moving(1.2, off=180), Group("walk", "fast", "backwards", "straight")),
        ("walk1_subject1", moving(0.6, off=90, turn=-30), Group("walk", "", "sideways", "right")),
        ("run1_subject2", moving(0.4), Group("walk", "", "forward", "straight")),
        ("run1_subject2", moving(2.5), Group("run", "fast", "forward", "straight")),
        ("sprint1_subject2", moving(3.0), Group("sprint", "", "forward", "straight")),
        ("fallAndGetUp1_subject1", moving(0.0, height=0.7, rise=-0.5), Group("fall")),
        ("fallAndGetUp1_subject1", moving(0.0, height=0.2, rise=0.5), Group("rise")),
        ("fallAndGetUp1_subject1", moving(0.0, height=0.15), Group("lie")),
        ("dance1_subject1", moving(0.0, turn=90), Group("dance", "slow", "", "left")),
        ("fight1_subject2", moving(0.6), Group("fight", "", "", "straight")),
    ],
)
def test_descriptions_say_what_is_measured(clip: str, poses: np.ndarray, group: Group) -> None:
    assert activities(clip, poses, fps=30, robot=G1)[0] == group


def test_sentences_say_the_facts_and_held_out_ones_are_others() -> None:
    said = sentences(Group("walk", "slow", "backwards", "left"))
    assert len(said) == len(set(said)) == 8 and said == sentences(Group("walk", "slow", "backwards", "left"))
    assert all("left" in text and ("backwards" in text or "reverse" in text) for text in said)
    assert all(any(word in text for word in ("slow", "leisurely")) for text in said)
    assert turned_round((Group("walk", turn="left"), Group("walk"))) == (Group("walk", turn="right"), Group("walk"))
    for activity, phrases in HELD_OUT.items():
        assert not {*sentences(Group(activity), {activity: phrases})} & {*sentences(Group(activity))}
        assert not {*phrases} & {*PHRASES[activity]}


def test_paths_are_seen_from_the_first_frame_of_a_window() -> None:
    poses = np.concatenate([moving(0.9, turn=20), moving(0.9, turn=20), moving(0.9, turn=20)])
    poses[33:, :2] += poses[32, :2]
    exact, _ = paths_around(poses, np.array([32]))[0].reshape(2, 64, 2)
    assert np.linalg.norm(exact[31]) < 0.05 and np.linalg.norm(exact[32]) < 0.05  # the frames next to it
    turned = poses.copy()
    turned[:, :2] = poses[:, :2] @ np.array([[0.0, -1.0], [1.0, 0.0]]).T + 5
    heading = np.radians(20) * np.arange(33) / 30
    turned[:, 3:7] = np.tile(heading_quaternion(heading + np.pi / 2), (3, 1))
    assert np.allclose(paths_around(turned, np.array([32])), paths_around(poses, np.array([32])), atol=1e-4)


N, V, SIZE = 4, 6, 3
TOLD = (Condition("text", SIZE, guided=True), Condition("path", 128), Condition("before", N, codes=True))


def toy(count: int = 64) -> DescribedItems:
    """The text decides the codes: all 0, 1 or 2. Windows follow each other in clips of eight."""
    random = np.random.default_rng(0)
    kinds = random.integers(0, SIZE, count)
    before = np.where(np.arange(count) % 8 > 0, np.arange(count) - 1, -1)
    return DescribedItems(
        codes=np.tile(kinds[:, None], (1, N)),
        before=before,
        paths=random.normal(size=(count, 2, 128)).astype(np.float32),
        groups=np.stack([kinds, kinds], axis=1),
        texts=np.arange(SIZE)[:, None],
        embeddings=np.eye(SIZE, dtype=np.float32),
        share=(np.arange(count) % 8) / 8,
        frames=np.full(count, 3000),
        chosen=np.arange(count),
    )


def config() -> GeneratorConfig:
    sizes = TransformerConfig(hidden_size=16, num_layers=1, num_heads=2)
    return GeneratorConfig("toy", "causal", TokenizerReference("toy", ""), N, V, sizes, conditions=TOLD, book_size=2)


def test_a_row_is_taken_apart_again_and_what_begins_has_no_past() -> None:
    import torch

    items = toy()
    codes, told = unpack(config(), torch.from_numpy(items.read_first([0, 9])))
    assert told is not None and codes.tolist() == items.codes[[0, 9]].tolist()
    text, path, before = told.values
    assert text.argmax(1).tolist() == items.codes[[0, 9], 0].tolist()
    assert told.known.tolist() == [[1, 1, 0], [1, 1, 1]] and before[1].tolist() == items.codes[8].tolist()
    assert not path[0, :64].any() and np.allclose(path[1], items.paths[9, 0])
    drawn = items.read(np.arange(64), seed=(0, 1))
    _, some = unpack(config(), torch.from_numpy(drawn))
    assert some is not None and 0 < some.known[:, 0].mean() < 1
    assert np.array_equal(drawn, items.read(np.arange(64), seed=(0, 1)))
    assert np.array_equal(drawn[1::2], items.read(np.arange(1, 64, 2), seed=(0, 1)))  # whatever process reads them


def test_held_out_windows_are_the_ends_of_clips() -> None:
    data = DescribedCodes(toy(), {}).split(8)
    assert isinstance(data.train, DescribedItems) and isinstance(data.test, DescribedItems)
    assert data.test.share[data.test.chosen].min() > data.train.share[data.train.chosen].max()
    with pytest.raises(ConfigError, match="validation_items must be from 1 to 63, not 64"):
        DescribedCodes(toy(), {}).split(64)


def test_no_frame_of_a_held_out_window_or_of_its_path_is_trained_on() -> None:
    starts = np.arange(0, 3000 - 64, 16)  # of the windows of the shortest clip
    kept, held_out = split_by_share(starts / 3000, np.full(len(starts), 3000), 20)
    first = starts[held_out].min() - REACH  # of the path that leads to the first of them
    last = starts[kept].max() + REACH  # of a window, and of the path that leads on
    assert len(held_out) == 20 and 0 < first - last < 50


def test_conditions_are_hidden_as_often_as_they_should_be() -> None:
    items = toy(4000)
    rows = items.read(np.arange(4000), seed=(0, 1))
    text, path, before = rows[:, -3:].T
    assert text.mean() == pytest.approx(0.85, abs=0.02)
    assert path.mean() == pytest.approx(0.6, abs=0.03)
    assert before[items.before >= 0].mean() == pytest.approx(0.9, abs=0.02)
    assert not before[items.before < 0].any()


def test_mirror_images_are_described_the_other_way_round_and_follow_the_mirrored_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poses = np.tile(standing(H1), (100, 1))
    heading = np.radians(40) * np.arange(100) / 30
    poses[:, :2] = 0.6 / 30 * np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=1), axis=0)
    poses[:, 3:7] = heading_quaternion(heading)  # a walk that turns left
    asked: list[str] = []

    def encode(texts: list[str]) -> np.ndarray:
        """The number of a text, so that it can be found again."""
        asked.extend(texts)
        return np.array([[len(asked) - 1.0]])

    monkeypatch.setattr(described, "load_clips", lambda path, robot: {"walk1_subject1": poses})
    monkeypatch.setattr(described, "sentence_encoder", lambda: encode)
    items = described.open_described("daps-h1-motion", tmp_path, tmp_path / "codes").items
    windows = len(items) // 2
    for turn, of_clip in (("left", range(windows)), ("right", range(windows, 2 * windows))):
        for window in of_clip:
            said = [asked[int(items.embeddings[text, 0])] for text in items.texts[items.groups[window, 0]]]
            assert all(turn in text for text in said)
    original, mirrored = items.paths.reshape(2, windows, 2, 64, 2)
    assert original[:, 0, -1, 1].min() > 0.1  # to the left, which is y
    assert np.allclose(mirrored, original * [1, -1], atol=1e-5)


def test_a_generator_learns_what_it_is_told(tmp_path: Path) -> None:
    experiment = GeneratorExperiment(
        "toy", "causal", CodesConfig("unused"), steps=120, batch_size=16, network=config().network, model=config(),
        optimiser=OptimiserConfig(learning_rate=1e-2), evaluate_every=120, checkpoint_every=120,
    )  # fmt: skip
    items = toy()
    data = Dataset(items, items, train_labels=items.labels, test_labels=items.labels, validation=items)
    record = fit(experiment, data, tmp_path / "run", show_progress=False, draw_pictures=False)
    assert record["validation"]["bits_per_item"] < 0.5  # log2 3 without the text


def test_no_window_of_a_short_clip_shares_frames_with_one_that_is_held_out() -> None:
    starts = np.arange(0, 256, 16)
    items = dataclasses.replace(toy(len(starts)), share=starts / 300, frames=np.full(len(starts), 300))
    split = DescribedCodes(items, {}).split(4)
    kept, held_out = (starts[part.chosen] for part in (split.train, split.test))  # type: ignore[union-attr]
    assert held_out.tolist() == [192, 208, 224, 240] and 96 <= kept.max() <= 192 - 80


def test_windows_are_made_anew_of_other_clips_and_where_they_are_half_written(tmp_path: Path) -> None:
    clips, made = tmp_path / "clips.npz", []

    def codes(content: bytes) -> np.ndarray:
        clips.write_bytes(content)
        make = lambda: made.append(content) or {"codes": np.array([len(made)])}  # noqa: E731
        return kept_arrays(tmp_path, "described", {"model": "toy"}, clips, make)["codes"]

    assert [codes(content).item() for content in (b"one", b"one", b"two")] == [1, 1, 2]
    (tmp_path / "described.json").unlink()  # as a process leaves it that is killed while it writes the arrays
    (tmp_path / "described.npz").write_bytes(b"half")
    assert codes(b"two").item() == 3


def test_windows_that_do_not_follow_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    short = SimpleNamespace(config=SimpleNamespace(name="short", motion="any", input_shape=(24, 85)))
    monkeypatch.setattr(Tokenizer, "from_pretrained", lambda name: short)
    with pytest.raises(ConfigError, match="windows are cut every 16 frames; short has windows of 24"):
        motion_tokenizer("short")


def test_conditions_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="conditions and code books need kind causal"):
        dataclasses.replace(config(), kind="flow")
    with pytest.raises(ConfigError, match="names of conditions must differ: text, text"):
        dataclasses.replace(config(), conditions=(TOLD[0], TOLD[0]))
    with pytest.raises(ConfigError, match="condition before: codes are 4, and need a book_size"):
        dataclasses.replace(config(), book_size=0)
    with pytest.raises(ConfigError, match="described motion has greedy codes and mirror images"):
        CodesConfig("codes", tokenizer="daps-g1-motion", dataset="described", samples=2)
