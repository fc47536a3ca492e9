"""A robot's table (``daps_tokenizer/config/robot.py``) from its MJCF."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from daps_tokenizer.config import FEATURE_GROUPS, Joint, Robot, Site
from daps_tokenizer.errors import BackendError, InputError, reason_of
from daps_tokenizer.files import write_bytes_atomically
from daps_tokenizer.motion.kinematics import multiply_quaternions, rotate

_DIGITS = 9
_UNLIMITED = (-round(2 * math.pi, _DIGITS), round(2 * math.pi, _DIGITS))


def robot_from_mjcf(
    path: Path,
    *,
    name: str,
    track: Sequence[str],
    centre: str,
    feet: Sequence[str],
    bones: Sequence[str] = (),
    head: str = "",
    features: Sequence[str] = FEATURE_GROUPS,
    limits: Mapping[str, tuple[float, float]] | None = None,
) -> Robot:
    """Read a robot's kinematic tree with MuJoCo.

    Args:
        path: of the MJCF.
        name: of the robot.
        track: the sites, each ``NAME=BODY``, ``NAME=SITE`` or ``NAME=BODY@x,y,z`` with a place in the body's frame.
        centre, feet, head: names of sites, see :class:`~daps_tokenizer.config.Robot`.
        bones: pairs of names of sites, ``A-B``.
        features: groups of features, see :class:`~daps_tokenizer.config.Robot`.
        limits: of joints, in place of the file's.

    Raises:
        InputError: not an MJCF; a robot without a free root, or with joints that are no hinges through their body's
            origin; a body or site that it does not have.
        BackendError: MuJoCo is not installed.
    """
    model = _load(path)
    free = [j for j in range(model.njnt) if model.jnt_type[j] == 0]
    if len(free) != 1 or model.jnt_qposadr[free[0]] != 0:
        raise InputError(f"{path}: has {len(free)} free joints; expected one, of the root, before all others")
    root = int(model.jnt_bodyid[free[0]])
    # Of each body: the link that it is fixed to, and where it is in that link's frame.
    places: dict[int, tuple[int, np.ndarray, np.ndarray]] = {root: (-1, np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0]))}
    joints: list[Joint] = []
    for body in range(root + 1, model.nbody):
        parent = int(model.body_parentid[body])
        if parent not in places:
            continue  # of the world: a floor, a second object
        link, position, rotation = places[parent]
        position = position + rotate(rotation, model.body_pos[body])
        rotation = multiply_quaternions(rotation, model.body_quat[body][[1, 2, 3, 0]])
        first = int(model.body_jntadr[body])
        for j in range(first, first + int(model.body_jntnum[body])):
            joints.append(_joint(model, j, link, position, rotation, path))
            link, position, rotation = len(joints) - 1, np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0])
        places[body] = (link, position, rotation)
    known = {joint.name for joint in joints}
    for unknown in sorted(set(limits or {}) - known):
        raise InputError(f"{path}: has no joint {unknown!r} to limit; it has {', '.join(sorted(known))}")
    table = tuple(
        Joint(j.name, j.parent, j.position, j.axis, (limits or {}).get(j.name, j.limits), j.mounting) for j in joints
    )
    sites = tuple(_site(model, each, places, path) for each in track)
    pairs = tuple(tuple(bone.split("-")) for bone in bones)
    return Robot(
        name,
        round(float(model.body_pos[root][2]), _DIGITS),
        table,
        sites,
        centre,
        tuple(feet),
        pairs,
        head,
        tuple(features),
    )


def write_robot(robot: Robot, path: Path, *, overwrite: bool) -> None:
    """Write a robot's table as JSON, a joint or a site a line.

    Raises:
        OutputExistsError: the file is there and ``overwrite`` is False.
    """
    content = dataclasses.asdict(robot)
    lines = [f' "{key}": {_lines(value)}' for key, value in content.items()]
    write_bytes_atomically(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode(), overwrite=overwrite)


def _lines(value: Any) -> str:
    if isinstance(value, tuple) and value and isinstance(value[0], dict):
        return "[\n  " + ",\n  ".join(json.dumps(each) for each in value) + "\n ]"
    return json.dumps(value)


def _load(path: Path) -> Any:
    try:
        import mujoco
    except ModuleNotFoundError as error:
        raise BackendError("reading an MJCF needs MuJoCo, which is not installed: pip install mujoco") from error
    try:
        return mujoco.MjModel.from_xml_path(str(path))
    except ValueError as error:
        reason = reason_of(error)[:200]
        raise InputError(f"{path}: cannot be read as an MJCF ({reason})") from None


def _joint(model: Any, j: int, link: int, position: np.ndarray, rotation: np.ndarray, path: Path) -> Joint:
    own = model.joint(j).name
    body = model.body(int(model.jnt_bodyid[j])).name
    name = own.removesuffix("_joint") if own.endswith("_joint") else body.removesuffix("_link")
    if int(model.jnt_type[j]) != 3:
        raise InputError(f"{path}: joint {own} is no hinge; only hinges and the root's free joint are supported")
    if np.abs(model.jnt_pos[j]).max() > 1e-9 or abs(float(model.qpos0[model.jnt_qposadr[j]])) > 1e-9:
        raise InputError(
            f"{path}: joint {own} has a pos or a ref; only hinges through their body's origin are supported"
        )
    low, high = (round(float(v), 6) for v in model.jnt_range[j]) if model.jnt_limited[j] else _UNLIMITED
    return Joint(name, link, _rounded(position), _rounded(model.jnt_axis[j]), (low, high), _rounded(rotation))


def _site(model: Any, given: str, places: dict[int, tuple[int, np.ndarray, np.ndarray]], path: Path) -> Site:
    name, _, where = given.partition("=")
    target, _, offset = where.partition("@")
    bodies = {model.body(number).name: number for number in places}
    named = {model.site(number).name: number for number in range(model.nsite)}
    try:
        place = np.array([float(part) for part in offset.split(",")] if offset else [0.0, 0.0, 0.0])
    except ValueError:
        place = np.empty(0)
    if place.shape != (3,):
        raise InputError(f"{given!r}: expected NAME=BODY@x,y,z with three numbers in metres")
    if target in bodies:
        body = bodies[target]
    elif target in named and int(model.site_bodyid[named[target]]) in places and not offset:
        body, place = int(model.site_bodyid[named[target]]), np.array(model.site_pos[named[target]])
    else:
        listed = ", ".join([*bodies, *named])
        raise InputError(f"{path}: has no body or site {target!r} to track as {name!r}; it has {listed}")
    link, position, rotation = places[body]
    return Site(name, link, _rounded(position + rotate(rotation, place)))


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple((np.asarray(values, np.float64).round(_DIGITS) + 0.0).tolist())
