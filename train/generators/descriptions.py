"""Descriptions of motion: what a window shows, measured, and sentences that say it.

Sentences are ours. Of every activity some ways to name it are held out: no generator is trained on them, and
``python -m benchmarks language`` asks with them.
"""

from __future__ import annotations

import itertools
import re
from typing import NamedTuple

import numpy as np

from daps_tokenizer.config import Robot
from daps_tokenizer.motion.kinematics import forward_kinematics, split_heading

# {a}: an adjective of speed, {d}: an adverb of speed.
PHRASES: dict[str, tuple[str, ...]] = {
    "stand": ("standing still", "someone stands", "the robot stands", "a person standing", "waiting", "not moving"),
    "walk": (
        "a {a}walk",
        "walking{d}",
        "someone walks{d}",
        "the robot walks{d}",
        "walk{d}",
        "a person is walking{d}",
        "a {a}stroll",
        "{a}steps",
    ),
    "run": (
        "a {a}run",
        "running{d}",
        "someone runs{d}",
        "the robot runs{d}",
        "run{d}",
        "a person is running{d}",
        "jogging{d}",
        "a {a}jog",
    ),
    "sprint": (
        "a sprint",
        "sprinting",
        "someone sprints",
        "the robot sprints",
        "sprint",
        "running as fast as possible",
        "a very fast run",
    ),
    "jump": (
        "a jump",
        "jumping",
        "someone jumps",
        "the robot jumps",
        "jump",
        "a person is hopping",
        "a leap into the air",
        "hops",
    ),
    "ready": ("getting ready to jump", "preparing a jump", "between two jumps", "a run-up before a jump"),
    "fall": ("falling down", "someone falls", "the robot falls", "fall", "a person falls to the ground", "a fall"),
    "rise": (
        "getting up",
        "someone gets up",
        "the robot gets up from the ground",
        "get up",
        "a person stands up again",
        "rising",
    ),
    "lie": ("lying on the ground", "someone lies down", "the robot lies on the floor", "lie still", "a person lying"),
    "tumble": (
        "falling and getting up",
        "someone falls and gets up",
        "the robot falls down and stands up again",
        "fall and get up",
        "a fall, then getting up",
        "a person tumbles and recovers",
    ),
    "dance": (
        "a {a}dance",
        "dancing{d}",
        "someone dances{d}",
        "the robot dances{d}",
        "dance{d}",
        "a person is dancing{d}",
        "{a}dance moves",
    ),
    "fight": (
        "a fight",
        "fighting",
        "someone fights",
        "the robot fights",
        "fight",
        "punches and kicks",
        "a person is boxing",
        "combat moves",
    ),
    "sport": (
        "fighting and sports",
        "playing sports",
        "someone does sports",
        "the robot throws and kicks",
        "a sports exercise",
        "fight moves and sports",
    ),
}
HELD_OUT: dict[str, tuple[str, ...]] = {
    "stand": ("keep standing where you are", "the humanoid remains motionless"),
    "walk": ("a man strolling along{d}", "the humanoid goes for a {a}walk", "go on foot{d}"),
    "run": ("a man on a {a}run", "the humanoid jogs along{d}", "keep running{d}"),
    "sprint": ("a man sprinting at top speed", "dash as quickly as you can"),
    "jump": ("a man who jumps up", "the humanoid leaps", "make some hops"),
    "tumble": ("a man drops to the floor and rises again", "the humanoid falls over and stands up"),
    "dance": ("a man who dances{d}", "the humanoid performs a {a}dance", "move to the music"),
    "fight": ("a man throwing punches", "the humanoid is in a fight", "box against an opponent"),
}
_ADJECTIVES = {"slow": ("slow ", "leisurely "), "": ("",), "fast": ("fast ", "quick ")}
_ADVERBS = {"slow": (" slowly", " at a slow pace"), "": ("",), "fast": (" fast", " quickly")}
_DIRECTIONS = {"forward": ("", " forward", " ahead"), "backwards": (" backwards", " in reverse"), "": ("",)}
_DIRECTIONS["sideways"] = (" sideways", " to the side")
_TURNS = {
    "left": (", turning left", " to the left", ", in a left curve", " while turning left"),
    "right": (", turning right", " to the right", ", in a right curve", " while turning right"),
    "straight": ("", "", " in a straight line"),
    "": ("",),
}
_SENTENCES = 8  # of each group
_MOVES = ("walk", "run", "sprint")


class Group(NamedTuple):
    """What some windows have in common; a fact that is empty is not said."""

    activity: str
    speed: str = ""
    direction: str = ""
    turn: str = ""


def sentences(group: Group, phrases: dict[str, tuple[str, ...]] = PHRASES) -> list[str]:
    """Up to eight different sentences that say it, always the same ones; some leave out a fact."""
    made = [
        phrase.format(a=adjective, d=adverb) + direction + turn
        for phrase, (adjective, adverb), direction, turn in itertools.product(
            phrases[group.activity],
            zip(_ADJECTIVES[group.speed], _ADVERBS[group.speed], strict=True),
            _DIRECTIONS[group.direction],
            _TURNS[group.turn],
        )
    ]
    different = sorted(set(made))
    random = np.random.default_rng([len(different), *map(len, group)])
    return [different[place] for place in random.permutation(len(different))[:_SENTENCES]]


def activities(clip: str, poses: np.ndarray, *, fps: float, robot: Robot) -> tuple[Group, Group]:
    """Two true descriptions of a window: the exact one, and one of the activity alone.

    Args:
        clip: its name in LAFAN1, as ``walk1_subject1``.
        poses: (T, 7 + joints).
        fps: frames per second.
        robot: whose poses.
    """
    kind = (re.match("[A-Za-z]+", clip) or [""])[0]
    seconds = (len(poses) - 1) / fps
    steps = np.diff(poses[::8, :2], axis=0)
    speed = float(np.linalg.norm(steps, axis=1).sum() / (8 * len(steps) / fps))
    heading = np.unwrap(split_heading(poses[:, 3:7])[0])
    turned = float(np.degrees(heading[-1] - heading[0]) / seconds)
    height, rise = float(poses[:, 2].mean()), float(poses[-1, 2] - poses[0, 2])
    activity, whole = _activity(kind, speed, height, rise, poses, robot)
    is_upright = height > 0.6 * robot.height
    turn = "left" if turned > 25 else "right" if turned < -25 else "straight" if speed > 0.3 else ""
    exact = Group(
        activity,
        _speed_word(activity, speed),
        _direction(poses, heading, speed) if activity in _MOVES else "",
        turn if is_upright and activity not in ("fall", "rise", "lie", "tumble") else "",
    )
    return exact, Group(whole, exact.speed if whole == activity else "")


def turned_round(groups: tuple[Group, Group]) -> tuple[Group, Group]:
    """The same descriptions of the mirror image."""
    other = {"left": "right", "right": "left"}
    exact, whole = (group._replace(turn=other.get(group.turn, group.turn)) for group in groups)
    return exact, whole


def _activity(kind: str, speed: float, height: float, rise: float, poses: np.ndarray, robot: Robot) -> tuple[str, str]:
    """What is done, and what the clip as a whole is called here."""
    moves = "stand" if speed < 0.12 else "walk"
    if kind == "fallAndGetUp":
        if abs(rise) > 0.2:
            return ("rise" if rise > 0 else "fall"), "tumble"
        return ("lie" if height < 0.5 * robot.height else moves), "tumble"
    if kind == "jumps":
        feet = [robot.site_names.index(foot) for foot in robot.feet]
        lowest = forward_kinematics(poses, robot).positions[:, feet, 2].min(1)
        return ("jump", "jump") if lowest.max() > 0.1 and height > 0.6 * robot.height else ("ready", moves)
    if kind in ("run", "sprint") and speed >= 0.6:
        activity = "sprint" if kind == "sprint" and speed > 2 else "run"
        return activity, activity
    if kind in ("walk", "run", "sprint"):
        return moves, moves
    named = {"dance": "dance", "fight": "fight", "fightAndSports": "sport"}[kind]
    return named, "fight" if named == "sport" else named


def _speed_word(activity: str, speed: float) -> str:
    slow, fast = {"walk": (0.35, 0.85), "run": (1.2, 2.0), "dance": (0.15, 0.7)}.get(activity, (0.0, np.inf))
    return "slow" if speed < slow else "fast" if speed > fast else ""


def _direction(poses: np.ndarray, heading: np.ndarray, speed: float) -> str:
    moved = poses[-1, :2] - poses[0, :2]
    if speed < 0.25:
        return ""
    off = np.degrees(np.arctan2(moved[1], moved[0]) - heading[len(heading) // 2])
    off = abs((off + 180) % 360 - 180)
    return "forward" if off < 45 else "backwards" if off > 135 else "sideways"
