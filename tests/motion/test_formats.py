"""Formats of the field: what each file says is read, and what is written is read again."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from daps_tokenizer import Clip
from daps_tokenizer.errors import InputError
from daps_tokenizer.motion.doubts import find_doubts
from daps_tokenizer.motion.features import standing
from daps_tokenizer.motion.kinematics import rotation_from_quaternion
from daps_tokenizer.motion.resample import resample
from daps_tokenizer.motion.robots import G1, H1
from tests.motion.motions import smooth_motion

WALK = smooth_motion(40, robot=G1)


def same_motion(found: Clip, expected: np.ndarray, atol: float = 1e-5) -> None:
    np.testing.assert_allclose(found.qpos[:, :3], expected[:, :3], atol=atol)
    np.testing.assert_allclose(
        rotation_from_quaternion(found.qpos[:, 3:7]), rotation_from_quaternion(expected[:, 3:7]), atol=atol
    )
    np.testing.assert_allclose(found.qpos[:, 7:], expected[:, 7:], atol=atol)


def test_a_csv_file_without_a_header_is_known_by_its_columns(tmp_path: Path) -> None:
    for robot in (H1, G1):
        np.savetxt(tmp_path / "walk.csv", smooth_motion(40, robot=robot), delimiter=",")
        assert Clip.load(tmp_path / "walk.csv").robot is robot


@pytest.mark.parametrize(("suffix", "kind"), [("csv", "lafan"), ("csv", "bones"), ("npz", "qpos"), ("npz", "mjlab")])
def test_every_format_is_written_and_read_again(tmp_path: Path, suffix: str, kind: str) -> None:
    file = tmp_path / f"walk.{suffix}"
    Clip(WALK, 50.0).save(file, kind=kind)  # type: ignore[arg-type]
    again = Clip.load(file)
    assert (again.robot, again.file_layout.kind) == (G1, kind)
    assert again.fps == {"lafan": 30.0, "bones": 120.0}.get(kind, 50.0)  # a CSV file does not say its frame rate
    same_motion(again, WALK)


def test_bones_seed_counts_in_centimetres_and_degrees_about_fixed_axes(tmp_path: Path) -> None:
    root = ["root_translateX", "root_translateY", "root_translateZ", "root_rotateX", "root_rotateY", "root_rotateZ"]
    header = ["Frame", *root, *(f"{name}_joint_dof" for name in reversed(G1.joint_names))]
    row = [0.0, 100.0, 0.0, 80.0, 0.0, 0.0, 90.0, *[0.0] * 28, 45.0]  # the last column is the first joint
    (tmp_path / "bones.csv").write_text("\n".join(",".join(map(str, line)) for line in (header, row, row)))
    clip = Clip.load(tmp_path / "bones.csv")
    np.testing.assert_allclose(clip.qpos[0, :3], [1.0, 0.0, 0.8])
    np.testing.assert_allclose(clip.qpos[0, 3:7], [0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5)])
    assert clip.qpos[0, 7] == pytest.approx(np.pi / 4) and not clip.qpos[0, 8:].any()
    assert Clip.load(tmp_path / "bones.csv", fps=60).fps == 60.0


def test_a_header_decides_the_order_of_columns(tmp_path: Path) -> None:
    names = ["root_x", "root_y", "root_z", "root_qx", "root_qy", "root_qz", "root_qw", *H1.joint_names]
    order = np.random.default_rng(0).permutation(26)
    walk = smooth_motion(10)
    header = ",".join(f"{names[i]}_joint" if i >= 7 else names[i] for i in order)
    np.savetxt(tmp_path / "walk.csv", walk[:, order], delimiter=",", header=header, comments="")
    same_motion(Clip.load(tmp_path / "walk.csv"), walk)
    np.savez(tmp_path / "walk.npz", qpos=walk[:, order], columns=np.array(names)[order], fps=50)
    same_motion(Clip.load(tmp_path / "walk.npz"), walk)


def test_mjlab_has_bodies_and_velocities_of_our_kinematics(tmp_path: Path) -> None:
    Clip(WALK, 50.0).save(tmp_path / "walk.npz", kind="mjlab")
    with np.load(tmp_path / "walk.npz") as arrays:
        assert arrays["body_pos_w"].shape == (40, 30, 3) and arrays["body_quat_w"].shape == (40, 30, 4)
        np.testing.assert_allclose(arrays["body_pos_w"][:, 0], WALK[:, :3], atol=1e-6)
        quaternions = arrays["body_quat_w"][:, 0][:, [1, 2, 3, 0]]
        np.testing.assert_allclose(
            rotation_from_quaternion(quaternions), rotation_from_quaternion(WALK[:, 3:7]), atol=1e-5
        )
        np.testing.assert_allclose(arrays["joint_vel"][5], (WALK[6, 7:] - WALK[4, 7:]) * 25, atol=1e-4)
        spin = np.linalg.norm(arrays["body_ang_vel_w"][10, 0])
        turned = rotation_from_quaternion(WALK[11, 3:7]) @ rotation_from_quaternion(WALK[9, 3:7]).T
        assert spin == pytest.approx(np.arccos((np.trace(turned) - 1) / 2) * 25, rel=1e-4)


def test_mjlab_joints_listed_breadth_first_are_put_in_order(tmp_path: Path) -> None:
    """As Isaac Lab, which BeyondMimic uses, lists them."""
    Clip(WALK, 50.0).save(tmp_path / "walk.npz", kind="mjlab")
    with np.load(tmp_path / "walk.npz") as file:
        arrays = dict(file)
    depths: list[int] = []
    for joint in G1.joints:
        depths.append(0 if joint.parent < 0 else depths[joint.parent] + 1)
    order = sorted(range(29), key=lambda number: depths[number])
    bodies = [0, *(1 + number for number in order)]
    arrays |= {name: arrays[name][:, order] for name in ("joint_pos", "joint_vel")}
    arrays |= {name: arrays[name][:, bodies] for name in ("body_pos_w", "body_quat_w")}
    np.savez(tmp_path / "isaac.npz", **arrays)
    same_motion(Clip.load(tmp_path / "isaac.npz"), WALK)
    arrays["joint_pos"] = arrays["joint_pos"][:, ::-1]
    np.savez(tmp_path / "odd.npz", **arrays)
    with pytest.raises(InputError, match=r"bodies are \d\.\d\d m away from where joint_pos puts them on the g1"):
        Clip.load(tmp_path / "odd.npz")


def test_clips_kept_as_differences_are_added_up(tmp_path: Path) -> None:
    units = np.round(np.concatenate([WALK, smooth_motion(30, 1, G1)]) / 1e-4).astype(np.int32)
    first, delta = units[[0, 40]], np.diff(units, axis=0, prepend=units[:1]).astype(np.int32)
    delta[40] = 0
    np.savez(tmp_path / "all.npz", first=first, delta=delta.T, split_points=[0, 40, 70], names=["walk", "run"], fps=30)
    same_motion(Clip.load(tmp_path / "all.npz", clip="walk"), WALK, atol=2e-4)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"joint_pos": np.zeros((4, 12)), "body_pos_w": np.zeros((4, 13, 3))}, "joint_pos .* do not fit together"),
        ({"joint_pos": np.zeros((4, 29)), "body_pos_w": np.zeros((4, 30, 3))}, "body_quat_w .* do not fit together"),
        ({"qpos": np.zeros((4, 36)), "columns": np.array(["odd"] * 36)}, "odd, which are no joints of the g1"),
        ({"qpos": np.zeros((4, 36)), "columns": np.array(G1.columns[7:])}, "columns has 29 names; expected 36"),
        ({"qpos": np.zeros((4, 36)), "columns": np.array([*G1.columns[:35], "root x"])}, "nowhere, and others twice"),
        ({"first": np.zeros((1, 3)), "delta": np.zeros((4, 2))}, "first .* and delta .* do not fit together"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "walk.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        Clip.load(tmp_path / "walk.npz")


def test_a_clip_of_another_robot_and_a_format_of_another_suffix_are_refused(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "walk.csv", WALK, delimiter=",")
    with pytest.raises(InputError, match="row 1 has 36 columns; expected 26 columns"):
        Clip.load(tmp_path / "walk.csv", robot=H1)
    with pytest.raises(InputError, match=r"'mjlab' is no format of \.csv files; expected lafan or bones"):
        Clip(WALK).to_bytes(".csv", kind="mjlab")


def test_another_frame_rate_is_the_same_motion() -> None:
    clip = Clip(WALK, 30.0).at(50.0)
    assert clip.fps == 50.0 and len(clip) == 66
    np.testing.assert_allclose(clip.qpos, resample(WALK, from_fps=30.0, to_fps=50.0), atol=1e-12)


def test_doubts_name_what_is_unlikely() -> None:
    still = np.tile(standing(G1), (20, 1))
    assert find_doubts(Clip(still)) == []
    swapped = still.copy()
    swapped[:, 3:7] = still[:, [6, 3, 4, 5]]  # w x y z
    assert "stands if its quaternion is read as w x y z" in find_doubts(Clip(swapped))[0]
    bent = still.copy()
    bent[:, 7 + G1.joint_names.index("left_knee")] = -2.0
    assert "left knee is beyond its limits in 100 % of the frames" in find_doubts(Clip(bent))[0]
    high = still.copy()
    high[:, 2] *= 100
    assert "the lower foot is 78.51 m above the ground" in find_doubts(Clip(high))[0]
    assert find_doubts(dataclasses.replace(Clip(still), fps=50.0)) == []
