"""The path of a long clip: anchors end the drift."""

import dataclasses

import numpy as np
import pytest

from daps_tokenizer import Clip, ClipLayout, Codes
from daps_tokenizer.errors import CodesError
from daps_tokenizer.inputs import InputOptions
from daps_tokenizer.motion.inputs import MotionInputs
from daps_tokenizer.motion.kinematics import heading_quaternion, multiply_quaternions, split_heading
from daps_tokenizer.motion.path import anchors_of, follow_anchors
from daps_tokenizer.motion.robots import G1, H1
from tests.paths import EXAMPLES
from tests.settings import SMALL_MOTION

WALKS = {robot.name: Clip.load(EXAMPLES / name) for robot, name in ((H1, "walk.csv"), (G1, "walk_g1.csv"))}


def drifting(clip: Clip) -> np.ndarray:
    """The same steps with a root that turns and moves too much, as a decoder's would."""
    poses = clip.qpos.copy()
    turned = np.linspace(0, 0.6, len(poses))
    poses[:, 3:7] = multiply_quaternions(heading_quaternion(turned), poses[:, 3:7])
    poses[:, 0] += np.linspace(0, 0.8, len(poses))
    return poses


@pytest.mark.parametrize("clip", WALKS.values(), ids=WALKS)
def test_a_path_passes_through_its_anchors(clip: Clip) -> None:
    frames = np.array([31, 63, 95, 119])
    anchors = np.array(anchors_of(clip.qpos, frames))
    bent = follow_anchors(drifting(clip), frames, anchors, fps=30.0, robot=clip.robot)
    off = bent[frames] - clip.qpos[frames]
    assert np.abs(off[:, :2]).max() < 0.0051  # half a centimetre, however many anchors came before
    heading, expected = (split_heading(poses[frames, 3:7])[0] for poses in (bent, clip.qpos))
    assert np.abs(np.exp(1j * heading) - np.exp(1j * expected)).max() < np.radians(0.26)
    np.testing.assert_array_equal(bent[:, 7:], clip.qpos[:, 7:])


def test_clips_keep_their_anchors_through_codes_and_files() -> None:
    inputs = MotionInputs(SMALL_MOTION)
    walk = WALKS["h1"].qpos
    layout = inputs.prepare(np.stack([walk, walk[::-1]]), InputOptions()).layout
    assert isinstance(layout, ClipLayout) and [len(anchors) for anchors in layout.anchors] == [4, 4]
    codes = Codes(np.zeros((2, 4, 64), int), 64, "small-motion", "", layout)
    again = Codes.from_bytes(codes.to_bytes())
    assert again == codes and again[1:].layout.anchors == layout.anchors[1:]  # type: ignore[union-attr]
    without = dataclasses.replace(codes, layout=dataclasses.replace(layout, anchors=()))
    assert b"anchors" not in without.to_bytes() and Codes.from_bytes(without.to_bytes()) == without
    assert len(codes.to_bytes()) - len(without.to_bytes()) < 8 * 16  # bytes of eight windows


def test_anchors_that_do_not_fit_are_refused() -> None:
    layout = ClipLayout(80, 3, 0, 30.0)
    with pytest.raises(CodesError, match=r"layout\.anchors\[0\] must be lists of three integers, not \(1, 2\)"):
        dataclasses.replace(layout, anchors=(((1, 2),),))  # type: ignore[arg-type]
    with pytest.raises(CodesError, match=r"layout\.anchors\[0\] has 4 anchors for 3 windows"):
        dataclasses.replace(layout, anchors=(((0, 0, 0),) * 4,))
    with pytest.raises(CodesError, match="layout has anchors of 2 clips for codes of 1; expected all, or none"):
        Codes(np.zeros((1, 3, 64), int), 64, "m", "", dataclasses.replace(layout, anchors=(((0, 0, 0),) * 3,) * 2))
    with pytest.raises(CodesError, match="layout does not fit the codes: it needs 3 anchors of each clip"):
        MotionInputs(SMALL_MOTION).restore(
            np.zeros((1, 3, 32, 127)), dataclasses.replace(layout, anchors=(((0, 0, 0),) * 2,))
        )
