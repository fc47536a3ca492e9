"""A table of methods as files: JSON with every cell, Markdown with the paper's numbers, curves with their spread."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reports import machine_lines, new_figure, png_of, report, table, write_report

# Metric, heading, digits. Of sampled codes, as in the paper; a quantiser has one code.
COLUMNS = (
    ("log_p", "log p", 1),
    ("elbo", "ELBO", 1),
    ("beta_elbo", "β-ELBO", 1),
    ("l2", "L2", 2),
    ("psnr", "PSNR, dB", 2),
    ("ssim", "SSIM", 3),
    ("greedy_log_p", "greedy log p", 1),
    ("code_perplexity", "code perplexity", 0),
    ("dead", "dead codes", 0),
)


def metrics_of(cell: dict[str, Any], beta: float) -> dict[str, float]:
    """The numbers of a cell's columns. The KL of a quantiser is that of a point mass, N log V."""
    found = cell["evaluation"]
    values = {name.removeprefix("sampled_"): value for name, value in found.items()}
    values["elbo"] = values["log_p"] - values["kl"]
    values["beta_elbo"] = values["log_p"] - beta * values["kl"]
    if "entropy" in found:
        values["dead"] = cell["stages"][-1]["model"]["vocab_size"] - found["codes_used"]
    else:
        del values["code_perplexity"]  # a continuous latent has no codes
    return values


def write_table(
    folder: Path,
    name: str,
    cells: Sequence[dict[str, Any]],
    *,
    beta: float,
    paper: dict[str, dict[str, float]],
    command: str,
) -> list[Path]:
    """Write ``NAME.json``, ``NAME.md`` and ``NAME.png``; returns their paths.

    All are made before the first is written, and each is there whole or not at all.

    Args:
        folder: where to.
        name: of the files.
        cells: results of :func:`benchmarks.studies.table.run_cell`, in the order of the rows.
        beta: of the β-ELBO.
        paper: published values by row and metric.
        command: what made them.
    """
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for cell in cells:
        rows[cell["row"]].append(cell)
    content = {"command": command, "beta": beta, "paper": paper, "cells": cells}
    text = _markdown(name, rows, beta, paper, command)
    return write_report(folder, name, content, text, _plot(rows, beta, paper))


def _markdown(
    name: str, rows: dict[str, list[dict[str, Any]]], beta: float, paper: dict[str, dict[str, float]], command: str
) -> str:
    published = sorted({metric for row in rows for metric in paper.get(row, {})}, reverse=True)
    names = {"log_p": "log p", "l2": "L2", "fid": "FID"}
    header = ["method", *(f"paper {names[metric]}" for metric in published), *(heading for _, heading, _ in COLUMNS)]
    header += ["bits", "parameters", "steps", "seeds", "CPU ms a step", "peak MB"]
    lines = []
    for row, cells in rows.items():
        values = [metrics_of(cell, beta) for cell in cells]
        measured = [_mean_and_spread([v[key] for v in values if key in v], digits) for key, _, digits in COLUMNS]
        theirs = [paper.get(row, {}).get(metric, "–") for metric in published]
        steps = " + ".join(str(stage["steps"]) for stage in cells[0]["stages"])
        milliseconds = 1000 * float(np.median([cell["cpu_seconds_per_step"] for cell in cells]))
        memory = [cell["peak_memory_mb"] for cell in cells if cell["peak_memory_mb"] is not None]
        costs = [f"{cells[0]['bits']:g}", f"{cells[0]['parameters']:,}", steps, len(cells), f"{milliseconds:.0f}"]
        peak = f"{max(memory):.0f}" if memory else "–"
        lines.append([cells[0]["title"], *theirs, *measured, *costs, peak])
    first = next(iter(rows.values()))[0]
    batch, items = first["stages"][-1]["batch_size"], first["evaluation"]["items"]
    return report(
        name,
        [command],
        table(header, lines),
        f"Batch {batch}; means over the seeds ± half the range, on {items:.0f} test items, of sampled codes unless it "
        f"says greedy; nats in standardised units. β-ELBO with β {beta:g}. A quantiser has one code for an item: its "
        "ELBO is that of a point mass. The paper's numbers are of 250,000 steps of 256 items, to compare orders with.",
        "CPU ms are process time on one core of a machine that others use, peak MB of the whole process.",
        machine_lines((cell["title"], cell["machine"]) for cells in rows.values() for cell in cells),
        machine=None,
    )


def _mean_and_spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return "–"
    mean, half = float(np.mean(values)), (max(values) - min(values)) / 2
    return f"{mean:.{digits}f}" + (f" ± {half:.{digits}f}" if len(values) > 1 else "")


def common_curves(cells: Sequence[dict[str, Any]]) -> tuple[list[float], np.ndarray]:
    """Steps at which all cells were evaluated, and log p there (cells, steps).

    A cell that was interrupted was evaluated once more, where it stopped.
    """
    curves = [{point["step"]: point["log_p"] for point in cell["curve"]} for cell in cells]
    steps = [step for step in curves[0] if all(step in curve for curve in curves)]
    return steps, np.array([[curve[step] for step in steps] for curve in curves])


def _plot(rows: dict[str, list[dict[str, Any]]], beta: float, paper: dict[str, dict[str, float]]) -> bytes:
    """Left: log p over steps, mean and range over the seeds. Right: where each ended, and the paper's value."""
    from matplotlib import colormaps

    figure = new_figure(13, 5.5)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    colours = colormaps["tab20"]
    lowest = math.inf
    for number, (row, cells) in enumerate(rows.items()):
        colour, style = colours(number % 20), "--" if number % 2 else "-"
        steps, curves = common_curves(cells)
        left.plot(steps, curves.mean(0), style, color=colour, label=cells[0]["title"])
        left.fill_between(steps, curves.min(0), curves.max(0), color=colour, alpha=0.2, linewidth=0)
        ends = [metrics_of(cell, beta)["log_p"] for cell in cells]
        lowest = min(lowest, min(ends), float(curves[:, 1:].min(initial=math.inf)))
        right.plot(ends, [number] * len(ends), "o", color=colour)
        if "log_p" in paper.get(row, {}):
            right.plot(paper[row]["log_p"], number, "kx")
    left.set_xlabel("step")
    left.set_ylabel("log p(x|z) of test items, nats")
    left.set_ylim(bottom=lowest - 5)
    left.legend(fontsize="small", ncols=2)
    right.set_yticks(range(len(rows)), [cells[0]["title"] for cells in rows.values()])
    right.invert_yaxis()
    right.set_xlabel("log p at the end; × the paper's, after its 250,000 steps")
    right.grid(axis="x", alpha=0.3)
    return png_of(figure)
