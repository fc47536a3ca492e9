"""Latency as files: JSON with everything, a Markdown table for people, a plot."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.latency.floor import Peaks
from benchmarks.latency.measure import Row
from benchmarks.markdown import png_of, write_report
from daps_tokenizer.evaluation.timing import machine_line

RESULTS = Path(__file__).parent / "results"

_COLUMNS = (
    "model", "action", "batch", "backend", "precision", "threads", "open ms", "first ms", "median ms", "slowest ms",
    "p95 ms", "items/s", "codes/s", "GB/s", "GFLOP/s", "of the floor", "peak MB", "codes equal", "passes",
)  # fmt: skip
_NOTES = """\
Times are of one call of the Tokenizer on a whole batch, greedy, by the monotonic clock; results are numpy arrays, so a
device has finished when a call returns. Two warm-up calls (one, if it takes longer than --seconds), then calls for
--seconds, three at least. That in --rounds, each of which takes every row in turn, because a shared machine changes its
speed within minutes: a row is of its fastest round, "slowest" the median of its slowest. "open" is from the start of an
interpreter to a loaded Tokenizer, "first" the first call with this batch. GB/s counts weights (once a pass or step) and
caches, GFLOP/s two operations a multiply-add; the floor is reading or computing that on one thread as fast as it was in
the same round, whichever takes longer. "codes equal" is the share of codes equal to the float32 reference. "passes" is
the mean over windows (docs/speed.md)."""


def command_line() -> str:
    """The command that is running, as reports quote it."""
    return shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])


def write_latency(
    folder: Path, rows: Sequence[Row], machine: dict[str, str], sources: dict[str, str], peaks: Peaks, command: str
) -> list[Path]:
    """Write ``latency.json`` (see ``latency.schema.json``), ``latency.md`` and ``latency.png``; returns their paths."""
    content = {
        "command": command,
        "machine": machine,
        "peaks": asdict(peaks),
        "inputs": sources,
        "rows": [asdict(row) for row in rows],
    }
    text = "\n".join(_table(rows, machine, sources, peaks, command))
    measured = [row for row in rows if row.median_ms is not None]
    return write_report(folder, "latency", content, text, _plot(measured) if measured else None)


def _table(
    rows: Sequence[Row], machine: dict[str, str], sources: dict[str, str], peaks: Peaks, command: str
) -> list[str]:
    lines = ["# Latency", "", f"`{command}`", "", f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|"]
    measured = [row for row in rows if row.reason is None]
    for row in sorted(measured, key=lambda r: (r.model, r.action != "encode", r.batch or 0, r.device, r.threads)):
        cells = [
            row.model, row.action, row.batch, f"{row.backend}, {row.device}", row.precision, row.threads,
            _digits(row.open_ms, 0), _digits(row.first_call_ms, 1), _digits(row.median_ms, 2),
            _digits(row.slowest_round_ms, 2), _digits(row.p95_ms, 2), _digits(row.items_per_second, 0),
            _digits(row.codes_per_second, 0), _digits(row.gb_per_second, 2), _digits(row.gflop_per_second, 1),
            _share(row.share_of_floor, 0), _digits(row.peak_memory_mb, 0), _share(row.codes_equal, 2),
            _digits(row.passes, 2),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    missing = [row for row in rows if row.reason is not None]
    if missing:
        lines += ["", "Not measured:", ""]
    for row in missing:
        batch = f", batch {row.batch}" if row.batch is not None else ""
        name = f"{row.model}: {row.backend}, {row.device}, {row.precision}, threads {row.threads}{batch}"
        lines.append(f"- {name}: {row.reason}")
    lines += ["", _NOTES, ""]
    lines += [f"- {model}: {source}." for model, source in sources.items()]
    speeds = f"{peaks.bytes_per_second / 1e9:.1f} GB/s read and {peaks.flops_per_second / 1e9:.0f} GFLOP/s"
    return [*lines, "", f"One thread was measured at up to {speeds} (numpy). {machine_line(machine)}.", ""]


def _digits(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _share(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}%}"


def _plot(rows: Sequence[Row]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    models = sorted({row.model for row in rows})
    figure = Figure(figsize=(5 * len(models), 7), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(models), squeeze=False)
    for axes_of_action, action in zip(grid, ("encode", "decode"), strict=True):
        for axes, model in zip(axes_of_action, models, strict=True):
            chosen = [row for row in rows if (row.model, row.action) == (model, action)]
            for series in sorted({_series(row) for row in chosen}):
                points = sorted((row.batch, row.median_ms / row.batch) for row in chosen if _series(row) == series)  # type: ignore[operator]
                axes.plot(*zip(*points, strict=True), "o-" if series.startswith("onnx") else "s--", label=series)
            axes.set(title=f"{model}: {action}", xlabel="batch", ylabel="ms per item", xscale="log", yscale="log")
            axes.grid(alpha=0.3, which="both")
            axes.legend(fontsize=7)
    return png_of(figure)


def _series(row: Row) -> str:
    return f"{row.backend}, {row.device}, {row.precision}, {row.threads} thread{'s' * (row.threads > 1)}"
