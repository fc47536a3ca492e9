"""Tables of the built-in robots, each made from an MJCF by the command in docs/motion.md.

``h1`` and ``g1`` are the Unitree H1 (19 joints) and G1 (29 joints). Lengths, axes and limits are those of the MJCF
models that Unitree and LocoMuJoCo publish under the BSD-3-Clause licence. One limit of the H1 is Unitree's URDF's:
hip pitch reaches from −3.14 to 2.53 there, ±1.57 in the MJCF, and motions retargeted to the H1 use the former.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import os
from pathlib import Path

from daps_tokenizer.config import Robot, TokenizerConfig, config_from_dict
from daps_tokenizer.errors import InputError

BUILT_IN = ("h1", "g1")


@functools.cache
def built_in_robot(name: str) -> Robot:
    """One of the robots in :data:`BUILT_IN`."""
    text = (importlib.resources.files(__package__) / f"{name}.json").read_text(encoding="utf-8")
    return config_from_dict(Robot, json.loads(text), source=f"{name}.json")


def load_robot(robot: str | os.PathLike[str]) -> Robot:
    """A robot by its built-in name, ``h1`` or ``g1``, or by the path of its table.

    Raises:
        InputError: neither, or a file that cannot be read.
        ConfigError: a table that no robot has, with the key.
    """
    if robot in BUILT_IN:
        return built_in_robot(str(robot))
    try:
        content = json.loads(Path(robot).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not JSON"
        raise InputError(
            f"{os.fspath(robot)!r}: cannot be read ({reason}); expected a robot's table (JSON) or {', '.join(BUILT_IN)}"
        ) from None
    return config_from_dict(Robot, content, source=str(robot))


def robot_of(config: TokenizerConfig) -> Robot:
    """The robot whose motion a model takes: the H1 where its config names none."""
    return config.motion.robot or H1 if config.motion is not None else H1


H1, G1 = (built_in_robot(name) for name in BUILT_IN)
