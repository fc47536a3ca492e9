"""What the numbers of an item mean: what they are standardised by, and the frames and features of motion."""

from __future__ import annotations

import math
from dataclasses import dataclass

from daps_tokenizer.config.checks import require
from daps_tokenizer.config.robot import Robot


@dataclass(frozen=True)
class NormalisationConfig:
    """Mean and standard deviation of the training set: per channel of pixels in [0, 1], or per motion feature."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        require(
            len(self.mean) == len(self.std),
            f"normalisation has {len(self.mean)} means and {len(self.std)} standard deviations",
        )
        require(
            all(math.isfinite(m) for m in self.mean) and all(math.isfinite(s) and s > 0 for s in self.std),
            "normalisation needs finite means and positive, finite standard deviations",
        )


@dataclass(frozen=True)
class MotionConfig:
    """What the numbers of a motion model mean: its frame rate, and the names of joints and features in their order.

    ``robot``: whose motion it is; without one, the Unitree H1's.
    """

    fps: float
    joint_names: tuple[str, ...]
    feature_names: tuple[str, ...]
    robot: Robot | None = None

    def __post_init__(self) -> None:
        require(math.isfinite(self.fps) and self.fps > 0, f"motion.fps must be a positive number, not {self.fps}")
        for name, values in (("joint_names", self.joint_names), ("feature_names", self.feature_names)):
            require(len(values) > 0, f"motion.{name} is empty")
            require(len(set(values)) == len(values), f"motion.{name} has a name twice")
        if self.robot is not None:
            require(
                self.joint_names == self.robot.joint_names,
                f"motion.joint_names must be the joints of the robot {self.robot.name}, in its order",
            )
