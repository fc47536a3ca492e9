"""A robot of one's own: from its MJCF to a table, and from there to a tokenizer that training takes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from daps_tokenizer.config import Robot, TokenizerConfig, config_from_dict
from daps_tokenizer.errors import ConfigError, InputError
from daps_tokenizer.motion.clips import Clip
from daps_tokenizer.motion.features import compute_features, feature_table, to_qpos
from daps_tokenizer.motion.kinematics import link_frames, mirror_of
from daps_tokenizer.motion.robots import load_robot
from tests.motion.motions import random_poses, smooth_motion
from train.__main__ import main
from train.data import Dataset
from train.experiment import Experiment
from train.loop import fit
from train.motion import load_clips, model_yaml, windows_of

mujoco = pytest.importorskip("mujoco")

LEG = """<body name="{side}_thigh_link" pos="0 {y} -0.1"><inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/>
  <joint name="{side}_hip_joint" axis="0 1 0" range="-1 1"/>
  <body name="{side}_shank_link" pos="0 0 -0.3" euler="0 0.2 0"><inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/>
    <joint name="{side}_knee_joint" axis="0 0.6 0.8" range="0 2"/>
    <body name="{side}_foot_link" pos="0 0 -0.3"><inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/></body>
</body></body>"""
MJCF = f"""<mujoco><compiler angle="radian"/><worldbody><geom name="floor" type="plane" size="1 1 1"/>
<body name="base_link" pos="0 0 0.7"><freejoint/><inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/>
{LEG.format(side="left", y=0.1)}{LEG.format(side="right", y=-0.1)}
<body name="head_link" pos="0 0 0.3"><inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/></body></body>
</worldbody></mujoco>"""
OPTIONS = ["--track", "base=base_link", "--track", "left_foot=left_foot_link@0.05,0,0"]
OPTIONS += ["--track", "right_foot=right_foot_link@0.05,0,0", "--track", "head=head_link", "--centre", "base"]
OPTIONS += ["--feet", "left_foot", "right_foot", "--without", "joint_velocities"]


def refusal(arguments: list[str]) -> str:
    """What the command prints on one line where it refuses."""
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2 and result.output.count("\n") == 1
    return result.output


@pytest.fixture
def mjcf(tmp_path: Path) -> Path:
    path = tmp_path / "walker.xml"
    path.write_text(MJCF)
    return path


@pytest.fixture
def walker(mjcf: Path) -> Robot:
    table = mjcf.with_suffix(".json")
    result = CliRunner().invoke(main, ["robot", str(mjcf), "-o", str(table), *OPTIONS], catch_exceptions=False)
    assert result.output == f"{table}: walker, 4 joints, 4 tracked points\n"
    return load_robot(table)


def test_its_links_are_where_mujoco_has_them(mjcf: Path, walker: Robot) -> None:
    """Axes that are none of x, y and z, mounted at an angle, and a body that no joint turns."""
    model = mujoco.MjModel.from_xml_path(str(mjcf))
    data, poses = mujoco.MjData(model), random_poses(50, robot=walker)
    _, positions = link_frames(poses, walker)
    for number, pose in enumerate(poses):
        data.qpos[:] = pose[[0, 1, 2, 6, 3, 4, 5, *range(7, 11)]]
        mujoco.mj_kinematics(model, data)
        expected = data.xpos[model.jnt_bodyid]
        np.testing.assert_allclose(np.stack([each[number] for each in positions]), expected, atol=1e-6)
    assert [site.link for site in walker.sites] == [-1, 1, 3, -1] and walker.sites[3].position == (0.0, 0.0, 0.3)


def test_its_features_become_poses_again(walker: Robot) -> None:
    poses = smooth_motion(40, robot=walker)
    features = compute_features(poses, fps=30.0, robot=walker)
    assert features.shape[1] == len(feature_table(walker)) and "left_hip_velocity" not in feature_table(walker).names
    np.testing.assert_allclose(
        to_qpos(features, fps=30.0, start=poses[0], robot=walker)[:, 7:], poses[:, 7:], atol=1e-6
    )
    assert mirror_of(walker) is None  # both knees have the same axis, which no mirror leaves alone


def test_a_tokenizer_for_it_trains(walker: Robot, tmp_path: Path) -> None:
    clips = {name: smooth_motion(60, seed, walker) for seed, name in enumerate(("walk", "run", "turn"))}
    data = np.concatenate(list(clips.values()))
    np.savez(tmp_path / "clips.npz", data=data, split_points=[0, 60, 120, 180], names=list(clips), fps=30)
    output = tmp_path / "model.yaml"
    arguments = ["motion-model", str(tmp_path / "walker.json"), str(tmp_path / "clips.npz"), "-o", str(output)]
    arguments += ["--hold-out", "turn", "--weight", "joints=2"]
    assert CliRunner().invoke(main, arguments, catch_exceptions=False).exit_code == 0
    content = yaml.safe_load(output.read_text())
    content["vocab_size"] = 16
    content["generative"] = {"kind": "transformer", "embedding_size": 16, "hidden_size": 16, "num_layers": 1}
    content["recognition"] = {"hidden_size": 16, "num_heads": 2, "num_layers": 1, "mlp_ratio": 2}
    del content["transform"]
    config = config_from_dict(TokenizerConfig, content, source="model.yaml")
    assert config.motion is not None and config.motion.robot == walker
    windows = windows_of(list(load_clips(tmp_path / "clips.npz", walker).values()), 32, walker)
    experiment = Experiment("own", config, "motion", "vqvae", steps=2, batch_size=4, evaluation_items=4)
    record = fit(experiment, Dataset(windows, windows), tmp_path / "run", show_progress=False, draw_pictures=False)
    assert record["steps"] == 2


def test_weights_divide_the_standard_deviations(walker: Robot) -> None:
    clips = [smooth_motion(60, robot=walker)]
    plain, heavy = (yaml.safe_load(model_yaml(walker, clips, name="m", weights=w)) for w in ({}, {"joints": 2.0}))
    ratios = np.array(plain["normalisation"]["std"]) / np.array(heavy["normalisation"]["std"])
    joints = [name in walker.joint_names for name in feature_table(walker).names]
    np.testing.assert_allclose(ratios, np.where(joints, 2.0, 1.0), rtol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--track", "hand=left_hand_link"], "has no body or site 'left_hand_link' to track as 'hand'"),
        (["--track", "hand=head_link@1,2"], r"expected NAME=BODY@x,y,z with three numbers"),
        (["--limit", "left_elbow=0,1"], "has no joint 'left_elbow' to limit"),
        (["--limit", "left_hip=0"], "expected JOINT=LOW,HIGH in radians"),
        (["--centre", "chest"], "robot walker: has no site 'chest', only base, "),
        (["--without", "joints"], "features must hold root, joints, root_velocity"),
        (["--without", "dreams"], "--without must be one of root, "),
    ],
)
def test_what_the_robot_does_not_have_is_refused(mjcf: Path, changes: list[str], message: str) -> None:
    arguments = ["robot", str(mjcf), "-o", str(mjcf.with_suffix(".json")), *OPTIONS, *changes]
    assert re.search(message, refusal(arguments))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("<freejoint/>", ""), "has 0 free joints; expected one, of the root"),
        (('axis="0 1 0" range', 'type="slide" axis="0 1 0" range'), "joint left_hip_joint is no hinge"),
        (('axis="0 1 0" range', 'pos="0 0 1" axis="0 1 0" range'), "joint left_hip_joint has a pos or a ref"),
        (("<worldbody>", "<nothing>"), "cannot be read as an MJCF"),
    ],
)
def test_an_mjcf_of_another_kind_is_refused(mjcf: Path, change: tuple[str, str], message: str) -> None:
    mjcf.write_text(MJCF.replace(*change))
    assert re.search(message, refusal(["robot", str(mjcf), "-o", str(mjcf.with_suffix(".json")), *OPTIONS]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feet": ["left_foot"]}, "needs two feet"),
        ({"sites": [{"name": "base", "link": 9, "position": [0, 0, 0]}]}, "site base is on link 9; expected -1 to 3"),
        ({"joints": []}, "has no joints"),
        ({"bones": [["base", "tail"]]}, "has no site 'tail'"),
        ({"speed": 1}, "unknown key 'speed'"),
    ],
)
def test_an_impossible_table_is_refused(walker: Robot, tmp_path: Path, change: dict[str, object], message: str) -> None:
    table = tmp_path / "walker.json"
    table.write_text(json.dumps(json.loads(table.read_text()) | change))
    with pytest.raises(ConfigError, match=message):
        load_robot(table)
    with pytest.raises(InputError, match=r"'h2': cannot be read \(.*\); expected a robot's table \(JSON\) or h1, g1"):
        load_robot("h2")


def test_clips_of_it_are_read_where_it_is_named(walker: Robot, tmp_path: Path) -> None:
    np.savetxt(tmp_path / "walk.csv", smooth_motion(10, robot=walker), delimiter=",")
    assert Clip.load(tmp_path / "walk.csv", robot=walker).robot == walker
