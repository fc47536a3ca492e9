"""Tokenizer: clips to codes and back, with real graphs of a small model whose weights are random."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from daps_tokenizer import BestOf, Clip, ClipLayout, Codes, LocalSearch, Tokenizer
from daps_tokenizer.backends.protocol import Decoded
from daps_tokenizer.errors import CodesError, ConfigError, InputError
from daps_tokenizer.inputs import InputOptions
from daps_tokenizer.modalities import open_modality
from daps_tokenizer.motion.features import compute_features, feature_table
from daps_tokenizer.motion.inputs import MotionInputs
from daps_tokenizer.motion.kinematics import split_heading
from tests.motion.motions import LAFAN, needs_lafan, smooth_motion
from tests.settings import LAFAN as LAFAN_CONFIG
from tests.settings import SMALL_MOTION
from tests.test_tokenizer import digits

WALK = smooth_motion(80)


@pytest.fixture(scope="module")
def tok(random_motion_folder: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(random_motion_folder)


@pytest.fixture(scope="module")
def inputs() -> MotionInputs:
    return MotionInputs(SMALL_MOTION)


def through_features(inputs: MotionInputs, clips: object, **options: float) -> np.ndarray:
    """What a model without error would give back."""
    batch = inputs.prepare(clips, InputOptions(**options))  # type: ignore[arg-type]
    return inputs.restore(batch.pieces.reshape(*batch.leading, 32, -1), batch.layout)


def test_it_says_what_it_is(tok: Tokenizer) -> None:
    assert (tok.modality, tok.input_shape, tok.num_tokens, tok.vocab_size) == ("motion", (32, 127), 64, 64)


def test_a_clip_becomes_windows_of_codes_and_comes_back_as_long(tok: Tokenizer) -> None:
    codes = tok.encode(WALK)
    assert codes.shape == (1, 3, 64) and "windows=3" in repr(codes)
    assert codes.layout.cut == ClipLayout(80, 3, 0, 30.0)  # type: ignore[union-attr]
    poses = tok.decode(codes)
    assert poses.shape == (1, 80, 26) and poses.dtype == np.float64
    np.testing.assert_array_equal(poses, tok.reconstruct(WALK))


def test_a_clip_at_the_end_of_the_range_of_places_comes_back(tok: Tokenizer) -> None:
    far = WALK.copy()
    far[:, 0] += 10_000 - far[:, 0].max()
    (clip,) = tok.decode_to_clips(tok.encode(far))
    assert clip.qpos[:, 0].max() <= 10_000


def test_features_that_are_no_numbers_are_refused(tok: Tokenizer) -> None:
    for dtype in (str, complex):
        with pytest.raises(InputError, match=r"features are of type .*; expected floating-point numbers"):
            tok.encode(np.zeros((32, 127), dtype))


def test_clips_in_every_form_have_the_same_codes(tok: Tokenizer, tmp_path: Path) -> None:
    Clip(WALK).save(tmp_path / "walk.npz")
    expected = tok.encode(WALK).numpy()
    for same in (tmp_path / "walk.npz", Clip(WALK), [WALK], WALK[None]):
        np.testing.assert_array_equal(tok.encode(same).numpy(), expected)
    assert tok.encode([WALK, smooth_motion(80, seed=1)]).shape == (2, 3, 64)


def test_decoded_clips_know_their_frame_rate_and_can_be_saved(tok: Tokenizer, tmp_path: Path) -> None:
    (clip,) = tok.decode_to_clips(tok.encode(Clip(WALK, 50.0)))
    assert (len(clip), clip.fps) == (80, 50.0)
    clip.save(tmp_path / "again.csv")
    assert len(Clip.load(tmp_path / "again.csv", fps=50)) == 80
    assert len(tok.decode_to_clips(tok.sample(WALK, num_samples=3))) == 3


def test_codes_of_a_file_decode_to_where_the_clip_was(tok: Tokenizer, tmp_path: Path) -> None:
    moved = WALK.copy()
    moved[:, :2] += (30.0, -4.0)
    codes = tok.encode(moved)
    codes.save(tmp_path / "walk.daps")
    loaded = Codes.load(tmp_path / "walk.daps")
    assert loaded == codes
    poses = tok.decode(loaded)[0]
    np.testing.assert_allclose(poses[0, :2], moved[0, :2], atol=1e-5)
    heading, original = (split_heading(p[0, 3:7])[0] for p in (poses, moved))
    assert heading == pytest.approx(float(original), abs=1e-5)


def test_features_alone_lose_next_to_nothing_at_any_frame_rate_and_overlap(inputs: MotionInputs) -> None:
    for options in ({}, {"overlap": 8}, {"fps": 15.0}, {"fps": 60.0}, {"fps": 50.0, "overlap": 16}):
        poses = through_features(inputs, WALK, **options)
        # Otherwise seams are softened, or frames are left out and interpolated.
        exact = options.get("overlap", 0) > 0 and options.get("fps", 30.0) <= 30
        assert poses.shape == (1, 80, 26)
        np.testing.assert_allclose(poses[0, :-1, 7:], WALK[:-1, 7:], atol=1e-4 if exact else 0.05)
        np.testing.assert_allclose(poses[0, :-1, :2], WALK[:-1, :2], atol=0.1)  # feet are planted between anchors


def test_clips_together_have_the_windows_and_the_poses_of_each_alone(inputs: MotionInputs) -> None:
    clips = np.stack([smooth_motion(800, seed) for seed in range(5)])  # more than are computed at once
    for options in ({}, {"fps": 50.0, "overlap": 8}):
        chosen = InputOptions(**options)  # type: ignore[arg-type]
        together, alone = inputs.prepare(clips, chosen), [inputs.prepare(clip, chosen) for clip in clips]
        windows = np.concatenate([each.pieces for each in alone])
        np.testing.assert_allclose(together.pieces, windows, rtol=0, atol=1e-5)
        assert isinstance(together.layout, ClipLayout)
        assert together.layout.starts == sum((each.layout.starts for each in alone), ())  # type: ignore[union-attr]
        poses = np.concatenate([through_features(inputs, clip, **options) for clip in clips])
        np.testing.assert_allclose(through_features(inputs, clips, **options), poses, rtol=0, atol=1e-5)


def test_clips_of_any_lengths_are_encoded_one_after_the_other(tok: Tokenizer, tmp_path: Path) -> None:
    Clip(WALK).save(tmp_path / "walk.npz")
    content = (tmp_path / "walk.npz").read_bytes()
    found = list(tok.encode_each([content, smooth_motion(40), tmp_path / "walk.npz"]))
    assert [codes.shape for codes in found] == [(1, 3, 64), (1, 2, 64), (1, 3, 64)]
    assert found[0] == found[2] == tok.encode(content) == tok.encode(WALK)


def test_no_clips_have_no_codes(tok: Tokenizer) -> None:
    nothing = tok.encode([])
    assert nothing.shape == (0, 64) and nothing == tok.encode(np.empty((0, 40, 26)))
    assert tok.decode(nothing).shape == tok.targets([]).shape == (0, 32, 26) and tok.decode_to_clips(nothing) == []
    assert tok.decode(tok.encode(WALK)[:0]).shape == (0, 80, 26)


def test_overlapping_windows_are_more_and_decode_to_the_same_length(tok: Tokenizer) -> None:
    codes = tok.encode(WALK, overlap=16)
    assert codes.shape == (1, 4, 64) and codes.layout.overlap == 16  # type: ignore[union-attr]
    assert tok.decode(codes).shape == (1, 80, 26)
    assert tok.log_prob(WALK, codes, overlap=16).shape == (1,)


def test_samples_of_a_clip_have_an_axis_before_the_windows(tok: Tokenizer) -> None:
    clips = np.stack([WALK, smooth_motion(80, seed=1)])
    clips[1, :, 0] += 7.0
    samples = tok.sample(clips, num_samples=3, seed=1)
    assert samples.shape == (2, 3, 3, 64)
    poses = tok.decode(samples)
    assert poses.shape == (2, 3, 80, 26)
    np.testing.assert_allclose(poses[:, :, 0, :2], np.repeat(clips[:, None, 0, :2], 3, 1), atol=1e-5)
    np.testing.assert_array_equal(tok.decode(samples[1, 2]), poses[1, 2])
    np.testing.assert_array_equal(tok.decode(samples[:, 0]), poses[:, 0])
    assert tok.log_prob(clips, samples).shape == tok.likelihood(clips, samples).log_likelihood.shape == (2, 3)


def test_log_likelihood_is_summed_over_windows_and_agrees_with_the_distribution(tok: Tokenizer) -> None:
    codes = tok.encode(WALK)
    mean, variance = tok.decode_distribution(codes)
    assert mean.shape == (1, 3, 32, 127) and (variance == 0.25).all()
    features = MotionInputs(tok.config).prepare(WALK, InputOptions()).pieces
    standardised = (features - np.array(tok.config.normalisation.mean)) / np.array(tok.config.normalisation.std)
    error = np.square(standardised - mean[0]).sum()
    assert tok.likelihood(WALK, codes).squared_error[0] == pytest.approx(error, rel=1e-4)
    expected = -0.5 * (error / 0.25 + 3 * 32 * 127 * np.log(2 * np.pi * 0.25))
    assert tok.likelihood(WALK, codes).log_likelihood[0] == pytest.approx(expected, rel=1e-4)


def test_features_of_the_models_size_are_items_without_windows(tok: Tokenizer) -> None:
    features = np.stack([compute_features(smooth_motion(32, seed), fps=30.0) for seed in range(2)])
    codes = tok.encode(features)
    assert codes.shape == (2, 64) and codes.layout is None
    assert tok.decode(codes).shape == (2, 32, 26) and tok.targets(features).shape == (2, 32, 26)
    assert tok.log_prob(features, codes).shape == (2,)
    (first, _) = tok.decode_to_clips(codes)
    assert first.fps == 30.0 and first.qpos[0, :2].tolist() == [0, 0]
    with pytest.raises(InputError, match="expected finite numbers"):
        tok.encode(np.full((1, 32, 127), np.nan))


def test_codes_that_a_generative_model_made_become_one_clip_with_a_layout(tok: Tokenizer) -> None:
    made = np.random.default_rng(0).integers(0, 64, (1, 4, 64))
    assert tok.decode(made).shape == (1, 4, 32, 26)
    codes = Codes(made, 64, tok.config.name, "", ClipLayout(frames=128, windows=4, overlap=0, fps=30.0))
    poses = tok.decode(codes)
    assert poses.shape == (1, 128, 26) and poses[0, 0, :2].tolist() == [0, 0]


def test_prepare_gives_the_clips_to_compare_with(tok: Tokenizer) -> None:
    np.testing.assert_allclose(tok.targets(Clip(WALK, 50.0)), WALK[None], atol=1e-12)


def test_searches_work_on_clips_and_take_a_score_that_sees_features(tok: Tokenizer) -> None:
    forward = feature_table().names.index("root_velocity_x")
    clip = WALK[:32]

    def speed(features: np.ndarray, decoded: Decoded, codes: np.ndarray) -> np.ndarray:
        assert features.shape == decoded.reconstruction.shape == (len(codes), 32, 127)
        return decoded.reconstruction[..., forward].mean(1)

    def speed_of(codes: Codes) -> float:
        mean = tok.decode_distribution(codes).mean[..., forward]
        return float(mean.mean()) * 0.1

    greedy = tok.encode(clip)
    for search in (BestOf(4, temperature=2.0, score=speed), LocalSearch(proposals=1, score=speed)):
        assert speed_of(tok.encode(clip, search=search)) > speed_of(greedy)
    better = tok.encode(clip, search=LocalSearch(proposals=1))
    assert tok.likelihood(clip, better).log_likelihood[0] >= tok.likelihood(clip, greedy).log_likelihood[0]
    with pytest.raises(InputError, match="score must be a function"):
        BestOf(4, score=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"score must return one number for each of 1 inputs, not .* \(1, 64\)"):
        tok.encode(clip, search=BestOf(2, score=lambda features, decoded, codes: codes))


def test_what_does_not_fit_is_refused(tok: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"fit= is not an option of motion models; accepted are fps, overlap"):
        tok.encode(WALK, fit="crop")
    with pytest.raises(InputError, match=r"80 frames at 30 fps and 81 frames at 30 fps; tok\.encode_each"):
        tok.encode([WALK, smooth_motion(81)])
    for overlap in (32, -1, "8", True):
        for method in (tok.encode, tok.targets):
            with pytest.raises(InputError, match="overlap of windows of 32 frames must be an integer from 0 to 31"):
                method(WALK, overlap=overlap)
    with pytest.raises(InputError, match="fps must be a number from 1 to 1000, not 0"):
        tok.encode(WALK, fps=0)
    with pytest.raises(InputError, match="decode_to_pil is for image models; random-motion is one of motion"):
        tok.decode_to_pil(tok.encode(WALK))
    with pytest.raises(TypeError, match="unexpected keyword argument 'speed'"):
        tok.encode(WALK, speed=3)  # type: ignore[call-arg]
    with pytest.raises(CodesError, match="the codes have other windows than the inputs"):
        tok.log_prob(WALK, tok.encode(WALK), overlap=4)
    with pytest.raises(CodesError, match=r"codes of shape \(1, 3, 64\) are not of 2 motions"):
        tok.log_prob(np.stack([WALK, WALK]), tok.encode(WALK))


def test_a_layout_of_something_else_is_refused(tok: Tokenizer, random_mnist_folder: Path) -> None:
    codes = tok.encode(WALK)
    assert isinstance(codes.layout, ClipLayout)
    longer = dataclasses.replace(codes, layout=dataclasses.replace(codes.layout, frames=200))
    with pytest.raises(CodesError, match="3 windows of 32 frames with an overlap of 0 do not make a clip of 200"):
        tok.decode(longer)
    with pytest.raises(CodesError, match="layout has 2 starts for codes of 1 clips; expected one each, or none"):
        dataclasses.replace(codes, layout=dataclasses.replace(codes.layout, starts=((0.0, 0.0, 0.0),) * 2))
    images = Tokenizer.from_pretrained(random_mnist_folder)
    tiled = images.encode(digits(1).repeat(2, 1), fit="tile")
    with pytest.raises(CodesError, match="codes of a motion model have windows, not tiles"):
        tok.decode(Codes(np.zeros((1, 2, 64), int), 64, "random-motion", "", tiled.layout))
    with pytest.raises(CodesError, match="codes of an image model have tiles, not windows"):
        images.decode(Codes(np.zeros((1, 3, 8), int), 256, "random-mnist", "", codes.layout.cut))
    with pytest.raises(InputError, match=r"overlap= is not an option of image models; accepted are fit, value_range"):
        images.encode(digits(1), overlap=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 0}, "layout.frames must be an integer from 1 to"),
        ({"windows": 1.5}, "layout.windows must be an integer from 1 to"),
        ({"overlap": -1}, "layout.overlap must be an integer from 0 to"),
        ({"fps": 0.0}, "layout.fps must be a number from 1 to 1000, not 0.0"),
        ({"fps": float("nan")}, "layout.fps must be a number from 1 to 1000, not nan"),
        ({"fps": "30"}, "layout.fps must be a number from 1 to 1000, not '30'"),
        ({"fps": None}, "layout.fps must be a number from 1 to 1000, not None"),
        ({"starts": ((0.0, 0.0),)}, r"layout.starts\[0\] must be x, y and heading, three finite numbers"),
        ({"starts": ((0.0, 0.0, float("inf")),)}, r"layout.starts\[0\] must be x, y and heading"),
        ({"starts": ((0.0, 0.0, 10**400),)}, r"layout.starts\[0\] must be x, y and heading"),
        ({"starts": (("a", "b", "c"),)}, r"layout.starts\[0\] must be .* not \('a', 'b', 'c'\)"),
        ({"starts": (5,)}, r"layout.starts\[0\] must be .* not 5"),
        ({"starts": 5}, r"layout.starts must be a tuple of \(x, y, heading\), not of type int"),
        ({"starts": np.zeros((1, 3))}, "layout.starts must be a tuple of .* not of type ndarray"),
    ],
)
def test_an_impossible_layout_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(CodesError, match=message):
        dataclasses.replace(ClipLayout(80, 3, 0, 30.0), **changes)  # type: ignore[arg-type]


def test_a_model_of_other_features_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"lafan: config\.json does not have the 127 motion\.feature_names"):
        open_modality(LAFAN_CONFIG)


@needs_lafan
def test_a_real_clip_survives_its_features(inputs: MotionInputs) -> None:
    clip = Clip.load(LAFAN, clip="walk2_subject4")
    part = Clip(clip.qpos[1000:1900])
    poses = through_features(inputs, part, overlap=4)[0]
    assert np.linalg.norm(poses[:, :3] - part.qpos[:, :3], axis=1).max() < 0.2  # feet are planted between anchors
    errors = np.abs(poses[:, 7:] - part.qpos[:, 7:])
    legs = [any(word in name for word in ("hip", "knee", "ankle")) for name in clip.robot.joint_names]
    assert errors[:, ~np.array(legs)].max() < 1e-4 and errors[:, legs].mean() < 0.01  # legs hold the feet
    softened = through_features(inputs, part)[0]
    assert np.abs(softened[:, 7:] - part.qpos[:, 7:]).mean() < 5e-3
