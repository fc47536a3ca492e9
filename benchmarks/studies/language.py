"""Motion by a text and a path: is it what was said, does it go where it should, and how good is it as motion.

Compared with real clips that no model was trained on, their reconstructions, and the nearest clip: of the training
clips, one whose description is nearest to the text, or whose path is nearest to the path.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.reports import report, table, write_report
from daps_tokenizer import Codes, Generator, Tokenizer, sample_motion
from daps_tokenizer.codes.layouts import ClipLayout
from daps_tokenizer.language import sentence_encoder
from daps_tokenizer.motion.dataset import VALIDATION_CLIPS
from daps_tokenizer.motion.features import compute_features, feature_table
from daps_tokenizer.motion.generation import first_direction
from daps_tokenizer.motion.kinematics import (
    clip_to_limits,
    forward_kinematics,
    heading_quaternion,
    multiply_quaternions,
    rotation_about,
    split_heading,
)
from daps_tokenizer.motion.robots import robot_of
from train.generators.descriptions import HELD_OUT, PHRASES, Group, sentences
from train.motion import load_clips

# What the classifier tells apart: which clips are of which kind, and as what their descriptions name them.
KINDS = {
    "walk": ("walk",),
    "run": ("run", "sprint"),
    "jump": ("jumps",),
    "fall and get up": ("fallAndGetUp",),
    "dance": ("dance",),
    "fight": ("fight", "fightAndSports"),
}
_ACTIVITIES = {"fall and get up": "tumble"}
WINDOWS = 4  # of a stretch
_RIDGE = 30.0
_LOW = 0.08  # m: a foot that may stand
_STRIDE = 64  # frames between stretches of training clips


class Stretches(NamedTuple):
    """Poses (S, frames, 7 + joints) that begin at the origin and look along x, and the kind of each, (S,)."""

    poses: np.ndarray
    kinds: np.ndarray


def measure_language(
    generator: Generator, tokenizer: Tokenizer, data: Path, *, samples: int, seed: int = 0
) -> dict[str, Any]:
    """Everything in the report, of ``samples`` stretches of each kind."""
    robot, length = robot_of(tokenizer.config), tokenizer.config.input_shape[0]
    clips, frames, random = load_clips(data, robot), length * WINDOWS, np.random.default_rng(seed)
    train = cut_clips({name: clip for name, clip in clips.items() if name not in VALIDATION_CLIPS}, frames, _STRIDE)
    held_out = cut_clips({name: clips[name] for name in VALIDATION_CLIPS}, frames, frames)
    held_out = choose_some(held_out, samples, random)
    classify = classifier_of(train, tokenizer)
    names = list(KINDS)

    texts = [(kind, text) for kind in names for text in _texts(kind, samples)]
    started = time.perf_counter()
    drawn = [
        sample_motion(generator, tokenizer, text, seconds=frames / 30, seed=seed + number)
        for number, (_, text) in enumerate(texts)
    ]
    codes = Codes(
        np.concatenate([each.numpy() for each in drawn]),
        tokenizer.vocab_size,
        tokenizer.config.name,
        tokenizer.config.weights_sha256,
        drawn[0].layout,
    )
    spent = time.perf_counter() - started
    kinds = np.array([names.index(kind) for kind, _ in texts])
    real_codes = encode_stretches(tokenizer, held_out.poses)
    arms = {
        "real, held out": held_out,
        "their reconstructions": Stretches(tokenizer.decode(real_codes), held_out.kinds),
        "nearest clip": Stretches(train.poses[_nearest_by_text(texts, train, random)], kinds),
        generator.name: Stretches(tokenizer.decode(codes), kinds),
    }
    found = {"their reconstructions": real_codes, generator.name: codes}
    real_kinds = np.unique(held_out.kinds)
    rows = []
    for name, arm in arms.items():
        right = classify(arm.poses) == arm.kinds
        rows.append(
            {
                "motion": name,
                "stretches": len(arm.kinds),
                "recognised": float(np.mean([right[arm.kinds == kind].mean() for kind in np.unique(arm.kinds)])),
                "recognised_of_four": float(np.mean([right[arm.kinds == kind].mean() for kind in real_kinds])),
                "by_kind": {names[kind]: float(right[arm.kinds == kind].mean()) for kind in np.unique(arm.kinds)},
                **quality_of(arm.poses, robot, length),
                "diversity": diversity_of(arm, tokenizer, train),
                "beyond_limits": _beyond_limits(tokenizer, found[name]) if name in found else None,
            }
        )
    paths = _measure_paths(generator, tokenizer, held_out, train, seed)
    return {
        "rows": rows,
        "paths": paths,
        "samples": samples,
        "seconds_per_second": spent / (len(texts) * frames / 30),
        "texts": sorted({text for _, text in texts}),
    }


def _texts(kind: str, samples: int) -> list[str]:
    """Held-out sentences of a kind, in turn."""
    found = sentences(Group(_ACTIVITIES.get(kind, kind)), HELD_OUT)
    return [found[number % len(found)] for number in range(samples)]


def cut_clips(clips: dict[str, np.ndarray], frames: int, stride: int) -> Stretches:
    parts, kinds = [], []
    for name, clip in clips.items():
        own = next(number for number, of in enumerate(KINDS.values()) if re.split(r"\d", name)[0] in of)
        for start in range(0, len(clip) - frames, stride):
            parts.append(clip[start : start + frames])
            kinds.append(own)
    return Stretches(at_origin(np.stack(parts)), np.array(kinds))


def at_origin(poses: np.ndarray) -> np.ndarray:
    """Poses (S, T, 7 + joints) turned and moved so that each stretch begins at the origin and looks along x."""
    heading = split_heading(poses[:, 0, 3:7])[0]
    moved = poses.copy()
    moved[..., :2] -= poses[:, :1, :2]
    moved[..., :3] = np.einsum("sij,stj->sti", rotation_about(2, -heading), moved[..., :3])
    turn = np.broadcast_to(heading_quaternion(-heading)[:, None], moved[..., 3:7].shape)
    moved[..., 3:7] = multiply_quaternions(turn, poses[..., 3:7])
    return moved


def choose_some(stretches: Stretches, samples: int, random: np.random.Generator) -> Stretches:
    """At most ``samples`` of each kind."""
    places = np.concatenate(
        [
            np.sort(random.permutation(np.flatnonzero(stretches.kinds == kind))[:samples])
            for kind in np.unique(stretches.kinds)
        ]
    )
    return Stretches(stretches.poses[places], stretches.kinds[places])


def statistics_of(poses: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """Mean and standard deviation over time of standardised features, (S, 2 · F)."""
    robot, scale = robot_of(tokenizer.config), tokenizer.config.normalisation
    features = np.concatenate([compute_features(part, fps=30, robot=robot) for part in np.array_split(poses, 8)])
    standardised = (features - np.array(scale.mean, np.float32)) / np.array(scale.std, np.float32)
    return np.concatenate([standardised.mean(1), standardised.std(1)], axis=1)


def classifier_of(
    train: Stretches, tokenizer: Tokenizer, known: np.ndarray | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """Ridge regression from statistics of features to the kind, every kind with the same weight.

    ``known``: statistics of the training stretches, where they are.
    """
    x = statistics_of(train.poses, tokenizer) if known is None else known
    centre, scale = x.mean(0), x.std(0) + 1e-6
    x = np.concatenate([(x - centre) / scale, np.ones((len(x), 1))], axis=1)
    weights = 1 / np.bincount(train.kinds)[train.kinds]
    weights *= len(x) / weights.sum()
    targets = np.eye(len(KINDS))[train.kinds]
    solved = np.linalg.solve(
        (x * weights[:, None]).T @ x + _RIDGE * np.eye(x.shape[1]), (x * weights[:, None]).T @ targets
    )

    def classify(poses: np.ndarray) -> np.ndarray:
        own = (statistics_of(poses, tokenizer) - centre) / scale
        return np.argmax(np.concatenate([own, np.ones((len(own), 1))], axis=1) @ solved, axis=1)

    return classify


def quality_of(poses: np.ndarray, robot: Any, length: int) -> dict[str, float]:
    """Sliding of the slower of the feet that are low, cm/s; jerk, m/s³; and how much more joints move between two
    frames at a border of windows than elsewhere."""
    feet = [robot.site_names.index(foot) for foot in robot.feet]
    sites = forward_kinematics(poses.reshape(-1, poses.shape[-1]), robot).positions
    sites = sites.reshape(*poses.shape[:2], *sites.shape[1:])
    speed = 30 * np.linalg.norm(np.diff(sites[:, :, feet, :2], axis=1), axis=-1)
    low = np.maximum(sites[:, :-1, feet, 2], sites[:, 1:, feet, 2]) < _LOW
    slower = np.where(low, speed, np.inf).min(-1)
    moved = np.abs(np.diff(poses[..., 7:], axis=1)).mean((0, 2))
    at_border = np.arange(1, len(moved) + 1) % length == 0
    return {
        "foot_sliding": float(100 * slower[np.isfinite(slower)].mean()),
        "jerk": float(np.linalg.norm(np.diff(sites, 3, axis=1) * 30**3, axis=-1).mean()),
        "border": float(moved[at_border].mean() / moved[~at_border].mean()),
    }


def diversity_of(arm: Stretches, tokenizer: Tokenizer, train: Stretches, known: np.ndarray | None = None) -> float:
    """Mean distance of two stretches of one kind, in statistics of features, over that of real training stretches."""
    own = statistics_of(arm.poses, tokenizer)
    real = statistics_of(train.poses, tokenizer) if known is None else known
    shares = []
    for kind in np.unique(arm.kinds):
        shares.append(_spread(own[arm.kinds == kind]) / _spread(real[train.kinds == kind][::7]))
    return float(np.mean(shares))


def _spread(x: np.ndarray) -> float:
    distances = np.linalg.norm(x[:, None] - x[None], axis=-1)
    return float(distances[~np.eye(len(x), dtype=bool)].mean())


def _beyond_limits(tokenizer: Tokenizer, codes: Codes) -> float:
    """Share of decoded joint angles beyond their limits, which decoding then cuts off."""
    robot, scale = robot_of(tokenizer.config), tokenizer.config.normalisation
    mean = tokenizer.decode_distribution(codes).mean * np.array(scale.std) + np.array(scale.mean)
    angles = mean[..., feature_table(robot).columns(*robot.joint_names)]
    return float((np.abs(angles - clip_to_limits(angles, robot)) > np.radians(0.5)).mean())


def _nearest_by_text(texts: Sequence[tuple[str, str]], train: Stretches, random: np.random.Generator) -> list[int]:
    """For each text a random training stretch of the kind whose description is nearest."""
    names, encoder = list(KINDS), sentence_encoder()
    known = [(kind, text) for kind in names for text in sentences(Group(_ACTIVITIES.get(kind, kind)), PHRASES)]
    embedded = encoder([text for _, text in known])
    different = sorted({text for _, text in texts})
    nearest = {text: known[int(np.argmax(embedded @ encoder([text])[0]))][0] for text in different}
    return [int(random.choice(np.flatnonzero(train.kinds == names.index(nearest[text])))) for _, text in texts]


def encode_stretches(tokenizer: Tokenizer, poses: np.ndarray) -> Codes:
    """Greedy codes of stretches, without the anchors of their paths."""
    codes = tokenizer.encode(poses)
    layout = ClipLayout(poses.shape[1], WINDOWS, 0, 30.0)
    return Codes(codes.numpy(), codes.vocab_size, codes.model, codes.weights_sha256, layout)


def _measure_paths(
    generator: Generator, tokenizer: Tokenizer, held_out: Stretches, train: Stretches, seed: int
) -> list[dict[str, Any]]:
    """How far the root is from the paths of real walks and runs that were held out, whose path was told or was not."""
    names = list(KINDS)
    chosen = np.flatnonzero(np.isin(held_out.kinds, [names.index("walk"), names.index("run")]))
    asked = held_out.poses[chosen, :, :2]
    told, told_once, open_ended = [], [], []
    for number, place in enumerate(chosen):
        text = _texts(names[held_out.kinds[place]], number + 1)[number]
        options: dict[str, Any] = {"seed": seed + number}
        codes = sample_motion(generator, tokenizer, text, path=asked[number], **options)
        told.append(tokenizer.decode(codes)[0, :, :2])
        codes = sample_motion(generator, tokenizer, text, path=asked[number], candidates=1, **options)
        told_once.append(tokenizer.decode(codes)[0, :, :2])
        codes = sample_motion(generator, tokenizer, text, seconds=asked.shape[1] / 30, **options)
        open_ended.append(tokenizer.decode(codes)[0, :, :2])
    decoded = tokenizer.decode(encode_stretches(tokenizer, held_out.poses[chosen]))[:, :, :2]
    ahead = np.array([first_direction(path) for path in asked])
    targets, known = _turned(asked, ahead), train.poses[:, :, :2]
    known = _turned(known, np.array([first_direction(path) for path in known]))
    nearest = [known[int(np.argmin(np.linalg.norm(known - path, axis=-1).mean(1)))] for path in targets]
    found = {
        "path told": _turned(np.array(told), ahead),
        "path told, one draw of each window": _turned(np.array(told_once), ahead),
        "path not told": np.array(open_ended),
        "nearest clip": np.array(nearest),
        "reconstruction of the original": _turned(decoded, ahead),
    }
    return [
        {
            "motion": name,
            "stretches": len(chosen),
            "mean_error": float(100 * np.linalg.norm(paths - targets, axis=-1).mean()),
            "end_error": float(100 * np.linalg.norm(paths[:, -1] - targets[:, -1], axis=-1).mean()),
        }
        for name, paths in found.items()
    ]


def _turned(paths: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Paths (S, T, 2) that led along angles (S,), and lead along x now."""
    turned: np.ndarray = np.einsum("sij,stj->sti", rotation_about(2, -angles)[:, :2, :2], paths)
    return turned


def write_language(folder: Path, content: dict[str, Any]) -> list[Path]:
    """Write ``language_NAME.json`` and ``.md``; returns their paths."""
    first = table(
        (
            "motion",
            "stretches",
            "kind recognised (of walk, run, dance, fight)",
            "foot sliding, cm/s",
            "jerk, m/s³",
            "joints at borders",
            "angles beyond limits",
            "diversity",
        ),
        [
            (
                row["motion"],
                row["stretches"],
                f"{row['recognised']:.0%} ({row['recognised_of_four']:.0%})",
                f"{row['foot_sliding']:.1f}",
                f"{row['jerk']:.0f}",
                f"{row['border']:.2f}",
                "–" if row["beyond_limits"] is None else f"{row['beyond_limits']:.2%}",
                f"{row['diversity']:.2f}",
            )
            for row in content["rows"]
        ],
    )
    kinds = table(
        ("motion", *KINDS),
        [
            (row["motion"], *(f"{row['by_kind'][kind]:.0%}" if kind in row["by_kind"] else "–" for kind in KINDS))
            for row in content["rows"]
        ],
    )
    paths = table(
        ("motion", "stretches", "from the path, cm", "at its end, cm"),
        [(r["motion"], r["stretches"], f"{r['mean_error']:.0f}", f"{r['end_error']:.0f}") for r in content["paths"]],
    )
    text = report(
        f"Motion by a text and a path: {content['generator']}",
        [content["command"]],
        first,
        f"Stretches of {WINDOWS} windows (4.3 s). Texts are held-out ways to name a kind, {content['samples']} motions "
        "of each. The classifier is a ridge regression on means and standard deviations of features over a stretch, "
        "trained on the training clips, of which the nearest clips are; recognised: mean over kinds, and over the four "
        "of which clips are held out. Foot sliding: of the slower of the feet below 8 cm. Joints at borders: how much "
        "they move between two frames at a border of windows, over elsewhere. Angles beyond limits: by more than half "
        "a degree, before decoding cuts them off. Diversity: mean distance of two stretches of a kind, over that of "
        "training stretches.",
        "## Recognised, by kind",
        kinds,
        "## Along a path",
        paths,
        "Paths are those of held-out walks and runs; the text names the kind. Mean distance of the root from where it "
        "should be at that time, and at the end. Told a path, each window is the one of 8 draws that stays "
        "nearest to it, where nothing else is said. Without a path, motion sets out along x and goes where it likes.",
        f"Drawing took {content['seconds_per_second']:.2f} s for a second of motion, one after the other. Weights: "
        f"{content['weights']}.",
        machine=content["machine"],
    )
    return write_report(folder, f"language_{content['generator']}", content, text)
