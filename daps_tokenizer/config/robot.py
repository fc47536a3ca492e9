"""A robot as a table: its joints, the points that are tracked on it, and which of these are feet.

Tables of built-in robots are in ``motion/robots``; ``python -m train robot`` makes one from an MJCF. A motion model
keeps its robot's table in its ``config.json``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from daps_tokenizer.config.checks import require, require_choice

FeatureGroup = Literal[
    "root", "foot_heights", "joints", "root_velocity", "joint_velocities", "positions", "rotations", "gravity"
]
FEATURE_GROUPS: tuple[FeatureGroup, ...] = get_args(FeatureGroup)
# What a pose is made of again.
_NEEDED: tuple[FeatureGroup, ...] = ("root", "joints", "root_velocity")
_TOLERANCE = 1e-6  # of a unit vector's length


@dataclass(frozen=True)
class Joint:
    """A hinge, and the link that it turns.

    Args:
        name: without ``_joint``.
        parent: the number of the link that carries it, −1 for the root.
        position: of the joint in its parent's frame, in metres.
        axis: it turns about, a unit vector in the link's frame.
        limits: the smallest and the largest angle, in radians.
        mounting: a unit quaternion x y z w that the link is mounted at, in its parent's frame.
    """

    name: str
    parent: int
    position: tuple[float, ...]
    axis: tuple[float, ...]
    limits: tuple[float, ...]
    mounting: tuple[float, ...] = (0.0, 0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        for key, size in (("position", 3), ("axis", 3), ("limits", 2), ("mounting", 4)):
            values = getattr(self, key)
            require(
                len(values) == size and all(map(math.isfinite, values)),
                f"joint {self.name}: {key} must be {size} finite numbers, not {list(values)}",
            )
        for key in ("axis", "mounting"):
            length = math.hypot(*getattr(self, key))
            require(abs(length - 1) < _TOLERANCE, f"joint {self.name}: {key} must have unit length, not {length:.6g}")
        require(self.limits[0] < self.limits[1], f"joint {self.name}: limits {list(self.limits)} must rise")


@dataclass(frozen=True)
class Site:
    """A point on a robot: the link it is fixed to (−1: the root) and its place in that link's frame, in metres."""

    name: str
    link: int
    position: tuple[float, ...]

    def __post_init__(self) -> None:
        require(
            len(self.position) == 3 and all(map(math.isfinite, self.position)),
            f"site {self.name}: position must be 3 finite numbers, not {list(self.position)}",
        )


@dataclass(frozen=True)
class Robot:
    """A robot with a free root and hinges.

    Args:
        name: what messages call it.
        height: of the root where the robot stands with all joints at 0, in metres.
        joints: in the order of a pose's angles; each comes after the joint that carries it.
        sites: points whose positions and rotations are features.
        centre: the site that the others' positions are measured from.
        feet: the two sites whose height and sliding are measured, the left one first.
        bones: pairs of sites, the lines of a stick figure.
        head: the site that a drawing marks with a disc, or "".
        features: which groups of features its models have, in the order of :data:`FEATURE_GROUPS`.
    """

    name: str
    height: float
    joints: tuple[Joint, ...]
    sites: tuple[Site, ...]
    centre: str
    feet: tuple[str, ...]
    bones: tuple[tuple[str, ...], ...] = ()
    head: str = ""
    features: tuple[str, ...] = FEATURE_GROUPS

    def __post_init__(self) -> None:
        require(len(self.joints) > 0, f"robot {self.name}: has no joints")
        for kind, names in (("joint", self.joint_names), ("site", self.site_names)):
            twice = sorted({name for name in names if names.count(name) > 1})
            require(not twice, f"robot {self.name}: has {kind} {', '.join(twice)} twice")
        for number, joint in enumerate(self.joints):
            require(
                -1 <= joint.parent < number,
                f"robot {self.name}: joint {joint.name} has parent {joint.parent}; expected -1 to {number - 1}",
            )
        for site in self.sites:
            require(
                -1 <= site.link < len(self.joints),
                f"robot {self.name}: site {site.name} is on link {site.link}; expected -1 to {len(self.joints) - 1}",
            )
        require(len(self.feet) == 2, f"robot {self.name}: needs two feet, not {list(self.feet)}")
        require(
            all(len(bone) == 2 for bone in self.bones), f"robot {self.name}: bones are pairs of sites, not {self.bones}"
        )
        for group in self.features:
            require_choice(f"robot {self.name}: features", group, FeatureGroup)
        require(
            set(_NEEDED) <= set(self.features)
            and list(self.features) == sorted(set(self.features), key=FEATURE_GROUPS.index),
            f"robot {self.name}: features must hold {', '.join(_NEEDED)}, each group once and in the order of "
            f"{', '.join(FEATURE_GROUPS)}",
        )
        used = [
            self.centre,
            *self.feet,
            *([self.head] if self.head else []),
            *(end for bone in self.bones for end in bone),
        ]
        for name in used:
            require(
                name in self.site_names, f"robot {self.name}: has no site {name!r}, only {', '.join(self.site_names)}"
            )

    @property
    def joint_names(self) -> tuple[str, ...]:
        """In the order of a pose's angles."""
        return tuple(joint.name for joint in self.joints)

    @property
    def site_names(self) -> tuple[str, ...]:
        """In the order of the sites."""
        return tuple(site.name for site in self.sites)

    @property
    def pose_size(self) -> int:
        """Numbers in a pose: root x y z, root quaternion x y z w, joint angles."""
        return 7 + len(self.joints)

    @property
    def columns(self) -> tuple[str, ...]:
        """What each number of a pose is, in words."""
        root = (*(f"root {axis}" for axis in "xyz"), *(f"root quaternion {axis}" for axis in "xyzw"))
        return root + tuple(name.replace("_", " ") for name in self.joint_names)
