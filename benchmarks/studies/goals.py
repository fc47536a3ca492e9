"""Search for a goal: what the scores of :mod:`daps_tokenizer.motion.scores` gain, and what a search for them costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.reports import report, table, write_report
from benchmarks.studies.path import decoded_features
from daps_tokenizer import BestOf, Clip, LocalSearch, Tokenizer
from daps_tokenizer.backends.protocol import Decoded
from daps_tokenizer.motion.metrics import motion_metrics
from daps_tokenizer.motion.robots import robot_of
from daps_tokenizer.motion.scores import Score, away_from, speed, still_feet, turning
from daps_tokenizer.search.base import Search


class Goal(NamedTuple):
    """A score, and the unit of what a window falls short of it by, in which ``scale`` is one of the score's own."""

    name: str
    score: Callable[[Tokenizer], Score]
    unit: str
    scale: float


GOALS = (
    Goal("walk forward at 1 m/s", lambda tok: speed(tok, 1.0), "m/s", 1.0),
    Goal("turn left at 0.5 rad/s", lambda tok: turning(tok, 0.5), "rad/s", 1.0),
    Goal("standing feet do not slide", still_feet, "cm/s", 1.0),
    Goal("stay 0.3 m away from 0.5 m ahead", lambda tok: away_from(tok, (0.5, 0.0), 0.3), "cm inside", 100.0),
)
LOG_Q_WEIGHT = 0.001
HEADER = ("goal", "codes", "short of the goal by", "joints off the original, degrees", "log q, nats", "s a window")


def _ways(score: Score, seed: int) -> dict[str, Search | None]:
    return {
        "greedy": None,
        "best of 8": BestOf(8, temperature=1.5, score=score, seed=seed),
        "local search": LocalSearch(score=score),
        "local search, log q counts": LocalSearch(score=score, log_q_weight=LOG_Q_WEIGHT),
    }


def measure_goals(tokenizer: Tokenizer, clips: list[Clip], *, seed: int = 0) -> list[dict[str, Any]]:
    """Codes of each clip for each of :data:`GOALS`, by each way of search: means over clips.

    ``distance``: what windows fall short of the goal by, in the goal's unit. ``log_q``: nats of a window.
    ``joint_error``: degrees from the original. ``seconds``: of a window, encoding without a search included.
    """
    robot, rows = robot_of(tokenizer.config), []
    for goal in GOALS:
        score = goal.score(tokenizer)
        for way, search in _ways(score, seed).items():
            found = []
            for clip in clips:
                start = time.perf_counter()
                codes = tokenizer.encode(clip, search=search)
                taken = (time.perf_counter() - start) / codes.numpy()[0].shape[0]
                features = decoded_features(tokenizer, codes)[0]
                reached = score(features, Decoded(features, features, features), codes.numpy()[0])
                errors = motion_metrics(clip.qpos[None], tokenizer.decode(codes), fps=clip.fps, robot=robot)
                log_q = tokenizer.log_prob(clip, codes) / len(features)
                found.append((-goal.scale * reached.mean(), log_q.mean(), errors["joint_error"].mean(), taken))
            names = ("distance", "log_q", "joint_error", "seconds")
            means = np.mean(found, axis=0)
            rows.append(
                {"goal": goal.name, "unit": goal.unit, "way": way} | dict(zip(names, map(float, means), strict=True))
            )
    return rows


def write_goals(folder: Path, content: dict[str, Any]) -> list[Path]:
    rows = [
        (
            row["goal"],
            row["way"],
            f"{row['distance']:.2f} {row['unit']}",
            f"{row['joint_error']:.2f}",
            f"{row['log_q']:.1f}",
            f"{row['seconds']:.3f}",
        )
        for row in content["rows"]
    ]
    text = report(
        f"Search for a goal with {content['model']}",
        [content["command"]],
        table(HEADER, rows),
        f"Means over the windows of {content['clips']} clips that no model was trained on, the first "
        f"{content['seconds']:g} s of each; weights {content['weights_sha256'][:12]}, seed {content['seed']}. Best of "
        "8 draws at temperature 1.5. Local search: one sweep, two proposals; with log q it adds "
        f"{LOG_Q_WEIGHT:g} log q(z|x) to the score.",
        machine=content["machine"],
    )
    return write_report(folder, f"goals_{content['model']}", content, text)
