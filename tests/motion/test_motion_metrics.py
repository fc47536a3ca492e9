"""What metrics of motion say of motions that are known, and what is drawn of them."""

import io

import numpy as np
import pytest
from PIL import Image

from daps_tokenizer.errors import InputError
from daps_tokenizer.motion.draw import animate
from daps_tokenizer.motion.features import standing
from daps_tokenizer.motion.kinematics import forward_kinematics, heading_quaternion
from daps_tokenizer.motion.metrics import feet_on_the_ground, motion_metrics
from daps_tokenizer.motion.plot import plot_joints
from daps_tokenizer.motion.robots import H1
from tests.motion.motions import smooth_motion

FEET = [H1.site_names.index(foot) for foot in H1.feet]


def still(frames: int = 20) -> np.ndarray:
    """A robot that stands on the ground, (1, frames, 26)."""
    pose = standing()
    pose[2] += 0.02 - forward_kinematics(pose[None]).position("left_foot")[0, 2]
    return np.tile(pose, (1, frames, 1))


def test_a_perfect_reconstruction_has_no_error_and_the_originals_own_sliding_and_jerk() -> None:
    clips = np.stack([smooth_motion(20), smooth_motion(20, seed=1)])
    found = motion_metrics(clips, clips, fps=30.0)
    for name in ("joint_error", "root_error", "site_error"):
        np.testing.assert_array_equal(found[name], np.zeros(2))
    for name in ("foot_sliding", "jerk"):
        np.testing.assert_array_equal(found[name], found[f"{name}_original"])


def test_errors_are_in_degrees_and_centimetres() -> None:
    clips = still()
    bent = clips.copy()
    bent[..., 7:] += np.radians(2.0)
    assert motion_metrics(clips, bent, fps=30.0)["joint_error"][0] == pytest.approx(2.0)
    moved = clips.copy()
    moved[..., 0] += 0.05
    found = motion_metrics(clips, moved, fps=30.0)
    assert found["root_error"][0] == pytest.approx(5.0) and found["site_error"][0] == pytest.approx(0.0, abs=1e-9)
    turned = clips.copy()
    turned[..., 3:7] = heading_quaternion(np.array(0.1))
    found = motion_metrics(clips, turned, fps=30.0)
    assert found["root_error"][0] == 0 and found["site_error"][0] > 0.5


def test_feet_that_stand_in_the_original_slide_in_a_reconstruction_that_moves() -> None:
    clips = still()
    assert feet_on_the_ground(forward_kinematics(clips[0]).positions[None][:, :, FEET], fps=30.0).all()
    moving = clips.copy()
    moving[0, :, 0] += 0.1 * np.arange(20) / 30.0
    found = motion_metrics(clips, moving, fps=30.0)
    assert found["foot_sliding"][0] == pytest.approx(10.0) and found["foot_sliding_original"][0] == 0
    jumping = clips.copy()
    jumping[..., 2] += 0.5
    assert motion_metrics(jumping, moving, fps=30.0)["foot_sliding"][0] == 0


def test_jerk_is_the_third_derivative() -> None:
    clips = still()
    clips[0, :, 0] = 2.0 * (np.arange(20) / 30.0) ** 3
    assert motion_metrics(clips, clips, fps=30.0)["jerk"][0] == pytest.approx(12.0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("frames", [2, 3])
def test_a_clip_of_few_frames_has_errors_but_no_jerk(frames: int) -> None:
    found = motion_metrics(still(frames), still(frames), fps=30.0)
    assert np.isnan(found.pop("jerk")[0]) and np.isnan(found.pop("jerk_original")[0])
    assert all(value == [0.0] for value in found.values())


def test_clips_are_drawn_side_by_side_at_their_own_speed() -> None:
    clip = smooth_motion(30)
    with Image.open(io.BytesIO(animate([clip, clip, clip], ["a", "b", "c"], fps=30.0))) as gif:
        assert gif.size == (720, 260) and gif.n_frames == 26 and gif.info["duration"] == 40  # type: ignore[attr-defined]
        first = np.asarray(gif.convert("RGB"))
        gif.seek(20)
        assert (np.asarray(gif.convert("RGB")) != first).any()
        blue = (first[..., 2].astype(int) - first[..., 0] > 60).sum(0)
        assert all(blue[240 * i : 240 * (i + 1)].sum() > 100 for i in range(3))  # left limbs, in every panel
    with pytest.raises(InputError, match=r"clips of \[30, 20\] frames; expected at least one, all of one length"):
        animate([clip, clip[:20]], ["a", "b"], fps=30.0)


def test_a_camera_follows_each_clip_where_they_have_nothing_to_do_with_each_other() -> None:
    clip = smooth_motion(10)
    far = clip.copy()
    far[:, :2] += [30, 0]  # out of the first one's picture

    def blue(content: bytes) -> list[int]:
        with Image.open(io.BytesIO(content)) as gif:
            first = np.asarray(gif.convert("RGB")).astype(int)
        limbs = (first[..., 2] - first[..., 0] > 60).sum(0)
        return [int(limbs[240 * i : 240 * (i + 1)].sum()) for i in range(2)]

    together, apart = (blue(animate([clip, far], ["", ""], fps=30.0, follow_each=each)) for each in (False, True))
    assert together[1] < 20 and abs(apart[0] - apart[1]) < 20


def test_joints_are_plotted() -> None:
    clip = smooth_motion(30)
    with Image.open(io.BytesIO(plot_joints(clip, clip, fps=30.0))) as plot:
        assert plot.format == "PNG" and plot.size == (1280, 840)
