"""The path of long clips: what planted feet, anchors and held feet change (:mod:`daps_tokenizer.motion.path` and
:mod:`~daps_tokenizer.motion.feet`), and the bytes of anchors."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reports import report, table, write_report
from daps_tokenizer import Clip, Codes, Tokenizer
from daps_tokenizer.codes.layouts import ClipLayout
from daps_tokenizer.errors import InputError
from daps_tokenizer.motion.dataset import VALIDATION_CLIPS
from daps_tokenizer.motion.features import to_qpos
from daps_tokenizer.motion.feet import plant_feet
from daps_tokenizer.motion.metrics import motion_metrics
from daps_tokenizer.motion.path import follow_anchors
from daps_tokenizer.motion.robots import robot_of
from daps_tokenizer.motion.windows import join_windows, soften_seams

WAYS = ("velocities added up", "feet planted", "feet planted, anchors", "feet planted, anchors, feet held")


def held_out_stretches(path: Path, tokenizer: Tokenizer, seconds: float) -> list[Clip]:
    """The first ``seconds`` of each clip that no model was trained on.

    Raises:
        InputError: the file is not there, or lacks one of the clips.
    """

    def choose(names: list[str]) -> list[str]:
        missing = [name for name in VALIDATION_CLIPS if name not in names]
        if missing:
            raise InputError(f"{path}: no clip {missing[0]!r}; expected the clips of LAFAN1")
        return list(VALIDATION_CLIPS)

    clips = Clip.load_all(path, choose, robot=robot_of(tokenizer.config))
    return [dataclasses.replace(clip, qpos=clip.qpos[: round(seconds * clip.fps)]) for clip in clips]


def measure_path(tokenizer: Tokenizer, clips: list[Clip]) -> list[dict[str, Any]]:
    """Mean metrics of greedy codes decoded in each of :data:`WAYS`, and what anchors take in a file.

    ``end_error``: distance in cm between the last places of the root. ``anchor_bytes``: of a window, in a file.
    """
    robot = robot_of(tokenizer.config)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for clip in clips:
        codes = tokenizer.encode(clip)
        layout = codes.layout
        assert isinstance(layout, ClipLayout)
        free = Codes(
            codes.numpy(),
            codes.vocab_size,
            codes.model,
            codes.weights_sha256,
            dataclasses.replace(layout, anchors=()),
        )
        features = join_windows(soften_seams(decoded_features(tokenizer, codes)), len(clip))
        added = to_qpos(features, fps=clip.fps, start=tokenizer.decode(free)[:, 0], robot=robot)[0]
        planted = plant_feet(added, fps=clip.fps, robot=robot)
        lengths = np.arange(1, layout.windows + 1) * tokenizer.input_shape[0]
        ends = np.unique(np.minimum(lengths, len(clip) - 1))
        bent = follow_anchors(planted, ends, np.array(layout.anchors[0]), fps=clip.fps, robot=robot)
        decoded = dict(zip(WAYS, (added, planted, bent, tokenizer.decode(codes)[0]), strict=True))
        anchors = (len(codes.to_bytes()) - len(free.to_bytes())) / layout.windows
        for way, poses in decoded.items():
            values = motion_metrics(clip.qpos[None], poses[None], fps=clip.fps, robot=robot)
            end = 100 * float(np.linalg.norm(poses[-1, :3] - clip.qpos[-1, :3]))
            taken = {"end_error": end, "anchor_bytes": anchors if "anchors" in way else 0.0}
            found[way].append({name: float(value[0]) for name, value in values.items()} | taken)
    return [
        {"way": way, **{name: float(np.mean([each[name] for each in values])) for name in values[0]}}
        for way, values in found.items()
    ]


def decoded_features(tokenizer: Tokenizer, codes: Codes) -> np.ndarray:
    """Decoded features (clips, windows, frames, F), in their own units."""
    mean = tokenizer.decode_distribution(codes).mean
    scale = tokenizer.config.normalisation
    features: np.ndarray = mean * np.asarray(scale.std, np.float32) + np.asarray(scale.mean, np.float32)
    return features


def write_path(folder: Path, content: dict[str, Any]) -> list[Path]:
    rows = [
        (
            row["way"],
            f"{row['joint_error']:.2f}",
            f"{row['root_error']:.1f}",
            f"{row['foot_sliding']:.1f} ({row['foot_sliding_original']:.1f})",
            f"{row['jerk']:.0f} ({row['jerk_original']:.0f})",
            f"{row['end_error']:.1f}",
            f"{row['anchor_bytes']:.1f}",
        )
        for row in content["rows"]
    ]
    header = ("decoded with", "joints, degrees", "root, cm", "foot sliding, cm/s (original)", "jerk, m/s³ (original)")
    text = report(
        f"The path of long clips of {content['model']}",
        [content["command"]],
        table((*header, "end of the path, cm", "bytes of anchors a window"), rows),
        f"Means over {content['clips']} clips that no model was trained on, the first {content['seconds']:g} s of "
        f"each; greedy codes, weights {content['weights_sha256'][:12]}. Root: mean distance from where it was. A "
        "window of codes takes 80 bytes; anchors are text in the header of a .daps file.",
        machine=content["machine"],
    )
    return write_report(folder, f"path_{content['model']}", content, text)
