"""A clip, its codes, or motion that a text asks for, followed by a simulated Unitree G1, as a GIF of both.

    PYTHONPATH=. python examples/motion_control.py --text "walk forward" --way mpc -o followed.gif
    PYTHONPATH=. python examples/motion_control.py walk.daps --policy policy.onnx -o followed.gif
    PYTHONPATH=. python examples/motion_control.py walk.csv --model MODEL --way mpc -o followed.gif

Needs MuJoCo (`pip install ".[control]"`) and the MJCF of the robot (``g1_kinematics.xml``, see docs/control.md); run it
in a checkout of the repository. The GIF ends where the robot falls.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.studies.control.coded import lowered
from benchmarks.studies.control.follow import ExportedPolicy
from benchmarks.studies.control.measure import WAYS, follow_stretches
from benchmarks.studies.control.reference import CLIP_FPS
from benchmarks.studies.control.robot import CONTROL_FPS, Physics, Robot
from daps_tokenizer import Clip, Codes, Generator, Tokenizer, sample_motion
from daps_tokenizer.data.place import default_folder
from daps_tokenizer.errors import DapsError, InputError
from daps_tokenizer.files import write_bytes_atomically
from daps_tokenizer.motion.draw import animate
from daps_tokenizer.motion.robots import G1


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description="A simulated G1 that follows a clip or codes.")
    parser.add_argument("motion", type=Path, nargs="?", help="a clip of a G1 (CSV, NPZ), or its codes (.daps)")
    parser.add_argument("--text", help="in place of a clip: a description, of which a generator draws codes")
    parser.add_argument("--generator", default="daps-g1-text", help="draws the codes of --text")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--model", default="daps-g1-motion", help="the tokenizer")
    parser.add_argument("--way", choices=WAYS[:-1], default="greedy", help="what the servos get")
    parser.add_argument("--policy", type=Path, help="follows greedy codes: ONNX, from `benchmarks control export`")
    parser.add_argument("--mjcf", type=Path, default=default_folder() / "g1" / "g1_kinematics.xml")
    parser.add_argument("--seconds", type=float, default=5.0, help="at most")
    parser.add_argument("-o", "--output", type=Path, default=Path("followed.gif"))
    chosen = parser.parse_args(arguments)
    tokenizer, robot = Tokenizer.from_pretrained(chosen.model), Robot(chosen.mjcf)
    if (chosen.motion is None) == (chosen.text is None):
        raise InputError("expected either a clip or codes to follow, or --text")
    if chosen.text is not None:
        generator = Generator.from_pretrained(chosen.generator)
        codes = sample_motion(generator, tokenizer, chosen.text, seconds=chosen.seconds, seed=chosen.seed)
        (clip,) = tokenizer.decode_to_clips(codes)
    elif chosen.motion.suffix == ".daps":
        (clip,) = tokenizer.decode_to_clips(Codes.load(chosen.motion))
    else:
        clip = Clip.load(chosen.motion)
    if clip.robot.joint_names != G1.joint_names:
        raise InputError(f"{chosen.motion}: a motion of the {clip.robot.name}; expected one of the Unitree G1")
    way, policy = (chosen.way, None) if chosen.policy is None else ("policy", ExportedPolicy(chosen.policy))
    poses = lowered(robot, clip.at(CLIP_FPS).qpos)
    seconds = min(chosen.seconds, len(poses) / CLIP_FPS)
    ran, original = follow_stretches(tokenizer, Physics(robot), poses[None], way, seconds=seconds, policy=policy)
    up = max(2, round(ran.seconds[0] * CONTROL_FPS))
    shown = [original[0, :up], np.nan_to_num(ran.poses[0, :up])]
    for poses in shown:
        poses[:, 3:7] = poses[:, [4, 5, 6, 3]]  # MuJoCo's order is w x y z
    picture = animate(shown, ["motion", f"simulated, {way}"], fps=CONTROL_FPS, robot=G1)
    write_bytes_atomically(chosen.output, picture, overwrite=False)
    print(f"followed for {ran.seconds[0]:.1f} of {seconds:.1f} s, joints {ran.joint_error[0]:.1f} degrees off")
    print(chosen.output)


if __name__ == "__main__":
    try:
        main()
    except DapsError as error:
        sys.exit(f"error: {error}")
