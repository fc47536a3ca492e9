"""Who stays on its feet: servos that get the original motion, greedy codes, searched codes, and sampling MPC."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.reports import report, table, write_report
from benchmarks.studies.control.coded import coded_reference, encode_clips, lowered
from benchmarks.studies.control.follow import Controller, ExportedPolicy, follow, servos_only
from benchmarks.studies.control.reference import CLIP_FPS, HELD_OUT, Reference, load_g1_clips
from benchmarks.studies.control.robot import CONTROL_FPS, Physics, states
from benchmarks.studies.control.search import Leaning, Ran, run_codes
from benchmarks.studies.control.tracking import Tracking
from daps_tokenizer import LocalSearch, Tokenizer
from daps_tokenizer.errors import ConfigError, InputError
from daps_tokenizer.motion.features import compute_features
from daps_tokenizer.motion.robots import G1, robot_of
from daps_tokenizer.search.base import Score, Search

_UPRIGHT = 0.6  # m: a pelvis is above it wherever stretches are taken from
_MEASURED = ("seconds", "reward", "joint_error", "torque", "processor_seconds")
WAYS = ("original", "greedy", "searched", "mpc", "policy")


@dataclass(frozen=True)
class Row:
    """One stretch, followed in one way. ``processor_seconds``: for a second of motion, encoding and search included."""

    way: str
    kind: str
    start: int
    seconds: float
    reward: float
    joint_error: float
    torque: float
    processor_seconds: float


def choose_stretches(clip: np.ndarray, count: int, frames: int, random: np.random.Generator) -> np.ndarray:
    """First frames of ``count`` stretches of a clip (T, 36) whose pelvis is above 0.6 m throughout."""
    upright = np.convolve(clip[:, 2] < _UPRIGHT, np.ones(frames), "valid") == 0
    return np.sort(random.choice(np.flatnonzero(upright), count, replace=False))


def measure(
    tokenizer: Tokenizer,
    physics: Physics,
    data: Path,
    *,
    counts: dict[str, int],
    seconds: float,
    ways: tuple[str, ...],
    seed: int = 0,
    candidates: int = 24,
    policy: ExportedPolicy | None = None,
) -> list[Row]:
    """Follow stretches of held-out clips in several ways.

    Args:
        tokenizer: of G1 motion.
        physics: that simulates.
        data: the folder with ``lafan1_g1.npz``.
        counts: stretches of each kind: walk, dance, run.
        seconds: of each stretch.
        ways: of :data:`WAYS`.
        seed: of the choice of stretches.
        candidates: of sampling MPC, a round.
        policy: that follows greedy codes, of the way ``policy``.

    Raises:
        ConfigError: a model of other motion than the G1's.
    """
    if tokenizer.modality != "motion" or robot_of(tokenizer.config).joint_names != G1.joint_names:
        raise ConfigError(f"{tokenizer.config.name}: is no model of the Unitree G1's motion, which is simulated here")
    window = tokenizer.config.input_shape[0]
    frames = round(seconds * CLIP_FPS) + window
    kinds, starts, stretches = [], [], []
    for kind, count in counts.items():
        (clip,) = load_g1_clips(data / "lafan1_g1.npz", [HELD_OUT[kind]])
        clip = lowered(physics.robot, clip)
        random = np.random.default_rng([seed, *kind.encode()])  # the same stretches whichever kinds are measured
        for start in choose_stretches(clip, count, frames, random):
            kinds.append(kind)
            starts.append(int(start))
            stretches.append(clip[start : start + frames])
    rows = []
    for way in ways:
        ran, _ = follow_stretches(
            tokenizer, physics, np.stack(stretches), way, seconds=seconds, candidates=candidates, policy=policy
        )
        for place in range(len(stretches)):
            figures = (ran.seconds, ran.reward, ran.joint_error, ran.torque)
            seconds_up, reward, error, torque = (round(float(figure[place]), 3) for figure in figures)
            spent = round(ran.real_time, 3)
            rows.append(Row(way, kinds[place], starts[place], seconds_up, reward, error, torque, spent))
    return rows


def follow_stretches(
    tokenizer: Tokenizer,
    physics: Physics,
    stretches: np.ndarray,
    way: str,
    *,
    seconds: float,
    candidates: int = 24,
    policy: ExportedPolicy | None = None,
) -> tuple[Ran, np.ndarray]:
    """Follow stretches (B, T, 36) in one of :data:`WAYS`; one that is too short for it ends with its last pose held.


    Returns:
        How it went, and the stretches at 50 Hz in MuJoCo's order, (B, T', 36).
    """
    frames = int(np.ceil(seconds * CLIP_FPS)) + tokenizer.config.input_shape[0]
    lasting = np.take(stretches, np.minimum(np.arange(frames), stretches.shape[1] - 1), axis=1)
    originals = Reference.from_clips(physics.robot, list(lasting), on_floor=False)
    poses = originals.qpos.reshape(len(stretches), -1, 36)
    if way == "policy" and policy is None:
        raise InputError("no policy to follow codes with; expected one (ONNX) that `benchmarks control export` wrote")
    if way in ("original", "greedy", "policy"):
        began, starts = time.process_time(), originals.clip_starts[:-1]
        reference = originals
        control: Controller = servos_only
        if way != "original":
            reference, *codes = coded_reference(tokenizer, physics.robot, encode_clips(tokenizer, lasting))
            control = policy(*codes) if policy is not None and way == "policy" else servos_only
        tracking = Tracking(physics, reference, len(stretches), noise=0, restart=False, judged=originals)
        found = follow(
            tracking,
            starts,
            seconds=seconds,
            control=control,
            state=states(originals.qpos[starts], originals.qvel[starts]),
        )
        spent = (time.process_time() - began) / max(found.seconds.sum(), 1 / CONTROL_FPS)
        return Ran(found.seconds, found.reward, found.joint_error, found.torque, found.poses, spent), poses
    robot = robot_of(tokenizer.config)  # whose features the model has
    searches: dict[str, tuple[int, Callable[[Score], Search]]] = {
        "searched": (30, lambda score: LocalSearch(proposals=1, score=score)),
        "mpc": (6, lambda score: Leaning(score, robot, candidates=candidates)),
    }
    advance, search = searches[way]
    features = compute_features(lasting, fps=CLIP_FPS, robot=robot)
    ran = run_codes(tokenizer, physics, originals, features, seconds=seconds, advance=advance, search=search)
    return ran, poses


def write_measured(
    folder: Path, name: str, rows: list[Row], about: Mapping[str, object], machine: dict[str, str], commands: list[str]
) -> list[Path]:
    """Write ``NAME.json`` and ``NAME.md``; rows of other ways and motions, of the same ``about``, are kept.

    Returns their paths.
    """
    before = json.loads((folder / f"{name}.json").read_text()) if (folder / f"{name}.json").is_file() else {}
    if before and all(before[key] == value for key, value in about.items()):
        measured = {(row.way, row.kind) for row in rows}
        rows = [row for row in (Row(**row) for row in before["rows"]) if (row.way, row.kind) not in measured] + rows
        rows.sort(key=lambda row: (WAYS.index(row.way), list(HELD_OUT).index(row.kind)))
        commands = [*before["command"], *commands]
    means = [
        {"way": way, "motion": motion, "stretches": len(some)}
        | {key: round(float(np.mean([getattr(row, key) for row in some])), 3) for key in _MEASURED}
        for way in dict.fromkeys(row.way for row in rows)
        for motion in (*dict.fromkeys(row.kind for row in rows), "all")
        if (some := [row for row in rows if row.way == way and motion in (row.kind, "all")])
    ]
    header = (
        "targets",
        "motion",
        "stretches",
        "s until a fall",
        "reward",
        "joints, °",
        "torque, N·m",
        "processor s / s",
    )
    lines = [[f"{value:.2f}" if isinstance(value, float) else value for value in mean.values()] for mean in means]
    text = report(
        "Codes that a simulated robot follows",
        commands,
        table(header, lines),
        "Means over stretches of clips that no model was trained on. A robot has fallen when its pelvis is 25 cm off "
        "the original's height, tilted 47 degrees against it, or its limbs are 35 cm off. Reward, joint error and "
        "torque (mean of 29 joints) are those until the fall. Original: servos get the angles of the clip itself. "
        "Greedy: what the greedy codes of the clip decode to. Searched, a window a second: one sweep of local search, "
        "the simulator as the score. MPC: the cross-entropy method over codes, anew every 0.2 s. Policy: greedy codes, "
        "and a trained policy corrects legs and waist. The last column is "
        "processor time for a second of one robot's motion.",
        machine=machine,
    )
    return write_report(
        folder,
        name,
        {"command": commands, "machine": machine, **about, "means": means, "rows": [asdict(row) for row in rows]},
        text,
    )
