"""How training went: time to a fall and reward by control steps, as a table and a picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from benchmarks.reports import new_figure, png_of, report, table, write_report
from daps_tokenizer.errors import InputError

_POINTS = 10


def read_log(path: Path) -> list[dict[str, float]]:
    """The iterations of a run in their order; those that a run made after its last save, and lost, are left out.

    Raises:
        InputError: there is no log.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected the log of `benchmarks control train`")
    kept: list[dict[str, float]] = []
    for line in reversed(path.read_text(encoding="utf-8").splitlines()):
        record = json.loads(line)
        if not kept or record["steps"] < kept[-1]["steps"]:
            kept.append(record)
    return kept[::-1]


def write_curves(
    folder: Path, name: str, logs: dict[str, list[dict[str, float]]], machine: dict[str, str], commands: list[str]
) -> list[Path]:
    """Write ``NAME.json``, ``NAME.md`` and ``NAME.png`` of the logs of runs; returns their paths."""
    points = {run: _points(log) for run, log in logs.items()}
    header = ("run", "control steps", "hours", "s to a fall", "reward", "deviation", "steps a processor second")
    lines = [
        (
            run,
            f"{row['steps']:,}",
            f"{row['hours']:.2f}",
            f"{row['seconds_to_fall']:.2f}",
            f"{row['reward']:.2f}",
            f"{row['deviation']:.2f}",
            f"{row['steps_per_cpu_second']:,}",
        )
        for run, rows in points.items()
        for row in rows
    ]
    figure = new_figure(6.5, 3.5)
    axes = figure.subplots()
    for run, rows in points.items():
        axes.plot([row["steps"] / 1e6 for row in rows], [row["seconds_to_fall"] for row in rows], "o-", label=run)
    axes.set_xlabel("million control steps")
    axes.set_ylabel("s to a fall, with exploration")
    axes.set_ylim(bottom=0)
    axes.legend()
    text = report(
        "How the policy of a simulated robot learns",
        commands,
        table(header, lines),
        "Means of equal parts of the runs. Falls and reward are those in training: with noise of this deviation on the "
        "actions (1 is 0.15 rad), from random starts in the training clips, until 10 s. Hours are those of the clock.",
        machine=machine,
    )
    content = {
        "command": commands,
        "machine": machine,
        "rows": [{"run": run, **row} for run, rows in points.items() for row in rows],
    }
    return write_report(folder, name, content, text, png_of(figure))


def _points(log: list[dict[str, float]]) -> list[dict[str, float]]:
    points = []
    for part in np.array_split(np.arange(len(log)), min(_POINTS, len(log))):
        some = [log[place] for place in part]
        reward, deviation, speed, falls = (
            float(np.mean([record[key] ** power for record in some]))
            for key, power in (("reward", 1), ("deviation", 1), ("steps_per_cpu_second", 1), ("seconds_to_fall", -1))
        )
        points.append(
            {
                "steps": int(some[-1]["steps"]),
                "hours": round(some[-1]["seconds"] / 3600, 3),
                "seconds_to_fall": round(1 / falls, 3),
                "reward": round(reward, 3),
                "deviation": round(deviation, 3),
                "steps_per_cpu_second": round(speed),
            }
        )
    return points
