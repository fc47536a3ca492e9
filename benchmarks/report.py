"""Measurements as files: JSON with everything, a Markdown table for people, a plot."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.latency import Row
from daps_tokenizer.measure import machine_line

RESULTS = Path(__file__).parent / "results"


def command_line() -> str:
    """The command that is running, as reports quote it."""
    return shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])


def write_latency(folder: Path, rows: list[Row], machine: dict[str, str], command: str) -> list[Path]:
    """Write ``latency.json``, ``latency.md`` and ``latency.png``; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"command": command, "machine": machine, "rows": [asdict(row) for row in rows]}
    json_path, table_path, plot_path = (folder / f"latency.{suffix}" for suffix in ("json", "md", "png"))
    json_path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    header = "| model | action | batch | threads | backend | median ms | p95 ms | items/s | peak MB |"
    lines = ["# Latency", "", f"`{command}`", "", header, "|---|---|---|---|---|---|---|---|---|"]
    for row in sorted(rows, key=lambda r: (r.model, r.action != "encode", r.batch, r.threads, r.backend)):
        lines.append(
            f"| {row.model} | {row.action} | {row.batch} | {row.threads} | {row.backend} | {row.median_ms:.2f} "
            f"| {row.p95_ms:.2f} | {row.items_per_second:.0f} | {row.peak_memory_mb:.0f} |"
        )
    lines += ["", "Median and p95 are of one call on a whole batch, after two warm-up calls; encoding is greedy.", ""]
    lines += [f"{machine_line(machine)}.", ""]
    table_path.write_text("\n".join(lines), encoding="utf-8")
    _plot_latency(plot_path, rows)
    return [json_path, table_path, plot_path]


def _plot_latency(path: Path, rows: list[Row]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    models = sorted({row.model for row in rows})
    figure = Figure(figsize=(5 * len(models), 7), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(models), squeeze=False)
    for axes_of_action, action in zip(grid, ("encode", "decode"), strict=True):
        for axes, model in zip(axes_of_action, models, strict=True):
            for backend, threads in sorted({(row.backend, row.threads) for row in rows}):
                key = (model, action, backend, threads)
                chosen = [row for row in rows if (row.model, row.action, row.backend, row.threads) == key]
                points = sorted((row.batch, row.median_ms / row.batch) for row in chosen)
                style = "o-" if backend == "onnx" else "s--"
                axes.plot(*zip(*points, strict=True), style, label=f"{backend}, {threads} thread{'s' * (threads > 1)}")
            axes.set(title=f"{model}: {action}", xlabel="batch", ylabel="ms per item", xscale="log", yscale="log")
            axes.grid(alpha=0.3, which="both")
            axes.legend()
    figure.savefig(path, dpi=80)
