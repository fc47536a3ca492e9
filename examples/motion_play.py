"""Play a clip, or the codes of one, in MuJoCo: kinematically, without physics. Needs ``pip install mujoco``.

    python examples/motion_play.py walk.daps h1_kinematics.xml

The model is an MJCF file of the Unitree H1 whose joints are in the order of its CSV files, for instance LocoMuJoCo's.
``--headless`` opens no window and only sets every pose, which says whether the model is the right one.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from daps_tokenizer import Clip, Codes, Tokenizer

MUJOCO_ORDER = [0, 1, 2, 6, 3, 4, 5, *range(7, 26)]  # its quaternion is w x y z


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description="Play a motion in MuJoCo.")
    parser.add_argument("motion", type=Path, help="a clip (CSV, NPZ) or its codes (.daps)")
    parser.add_argument("mjcf", type=Path, help="the robot")
    parser.add_argument("--model", help="the tokenizer, if the codes' own is not built in")
    parser.add_argument("--headless", action="store_true")
    chosen = parser.parse_args(arguments)
    try:
        import mujoco
    except ModuleNotFoundError:
        sys.exit("MuJoCo is not installed; pip install mujoco")

    clip = open_clip(chosen.motion, chosen.model)
    robot = mujoco.MjModel.from_xml_path(str(chosen.mjcf))
    if robot.nq != len(MUJOCO_ORDER):
        sys.exit(f"{chosen.mjcf}: has {robot.nq} positions; expected {len(MUJOCO_ORDER)}, a free root and 19 joints")
    state = mujoco.MjData(robot)
    if chosen.headless:
        heights = []
        for pose in clip.qpos:
            state.qpos[:] = pose[MUJOCO_ORDER]
            mujoco.mj_forward(robot, state)
            heights.append(float(state.xpos[1:, 2].min()))
        print(f"{clip!r}: lowest body {min(heights):.3f} m, at most {max(heights):.3f} m above the ground")
        return
    from mujoco import viewer

    with viewer.launch_passive(robot, state) as window:
        while window.is_running():
            for pose in clip.qpos:
                started = time.perf_counter()
                state.qpos[:] = pose[MUJOCO_ORDER]
                mujoco.mj_forward(robot, state)
                window.sync()
                time.sleep(max(0.0, 1 / clip.fps - (time.perf_counter() - started)))


def open_clip(path: Path, model: str | None) -> Clip:
    """A clip, decoded first where its codes are given."""
    if path.suffix != ".daps":
        return Clip.load(path)
    codes = Codes.load(path)
    clip: Clip = Tokenizer.from_pretrained(model or codes.model).decode_to_clips(codes)[0]
    return clip


if __name__ == "__main__":
    main()
