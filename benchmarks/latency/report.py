"""Latency as files: JSON with everything, a Markdown table for people, a plot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.latency.floor import Peaks
from benchmarks.latency.measure import Row
from benchmarks.reports import new_figure, png_of, report, short, table, write_report
from daps_tokenizer.evaluation.timing import machine_line

_COLUMNS = (
    "model", "action", "batch", "backend", "precision", "threads", "open ms", "first ms", "median ms", "slowest ms",
    "p95 ms", "items/s", "codes/s", "GB/s", "GFLOP/s", "of the floor", "peak MB", "codes equal", "passes",
)  # fmt: skip
_NOTES = """\
Times are of one call of the Tokenizer on a whole batch, greedy, by the monotonic clock; results are numpy arrays, so a
device has finished when a call returns. After two warm-up calls (one, if it takes longer than --seconds), calls are
timed for --seconds, at least three. All rows are measured in each of --rounds, because a shared machine changes its
speed within minutes: a row is of its fastest round, "slowest" the median of its slowest. "open" is from the start of an
interpreter to a loaded Tokenizer, "first" the first call with this batch. GB/s counts weights (once a pass over all
positions, or a step, at least) and caches, GFLOP/s two operations a multiply-add; the floor is reading or computing
that on one thread as fast as it was in the same round, whichever takes longer. "codes equal" is the share of codes
equal to the float32 reference. "passes" is the mean over windows, of one thread's ONNX Runtime
(docs/notes/speed.md)."""


def write_latency(
    folder: Path, rows: Sequence[Row], machine: dict[str, str], sources: dict[str, str], peaks: Peaks, command: str
) -> list[Path]:
    content = {
        "command": command,
        "machine": machine,
        "peaks": asdict(peaks),
        "inputs": sources,
        "rows": [asdict(row) for row in rows],
    }
    measured = [row for row in rows if row.median_ms is not None]
    missing = [
        f"- {row.model}: {row.backend}, {row.device}, {row.precision}, threads {row.threads}"
        f"{'' if row.batch is None else f', batch {row.batch}'}: {row.reason}"
        for row in rows
        if row.reason is not None
    ]
    speeds = f"{peaks.bytes_per_second / 1e9:.1f} GB/s read and {peaks.flops_per_second / 1e9:.0f} GFLOP/s"
    text = report(
        "Latency",
        [command],
        table(_COLUMNS, _cells(rows)),
        *(["Not measured:", "\n".join(missing)] if missing else []),
        _NOTES,
        "\n".join(f"- {model}: {source}." for model, source in sources.items()),
        f"One thread was measured at up to {speeds} (numpy). {machine_line(machine)}.",
        machine=None,
    )
    return write_report(folder, "latency", content, text, _plot(measured) if measured else None)


def _cells(rows: Sequence[Row]) -> Iterator[Sequence[object]]:
    measured = [row for row in rows if row.reason is None]
    for row in sorted(measured, key=lambda r: (r.model, r.action != "encode", r.batch or 0, r.device, r.threads)):
        yield (
            row.model, row.action, row.batch, f"{row.backend}, {row.device}", row.precision, row.threads,
            _digits(row.open_ms, 0), _digits(row.first_call_ms, 1), _digits(row.median_ms, 2),
            _digits(row.slowest_round_ms, 2), _digits(row.p95_ms, 2), _digits(row.items_per_second, 0),
            _digits(row.codes_per_second, 0), _digits(row.gb_per_second, 2), _digits(row.gflop_per_second, 1),
            _share(row.share_of_floor, 0), _digits(row.peak_memory_mb, 0), _share(row.codes_equal, 2),
            _digits(row.passes, 2),
        )  # fmt: skip


def _digits(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _share(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}%}"


def _plot(rows: Sequence[Row]) -> bytes:
    """Bars of one call with the smallest batch on the fewest threads; the slowest model is on top."""
    batch, threads = min(row.batch or 0 for row in rows), min(row.threads for row in rows)
    rows = [row for row in rows if (row.batch, row.threads) == (batch, threads)]
    slowest: dict[str, float] = {}
    for row in rows:
        slowest[row.model] = max(slowest.get(row.model, 0.0), row.median_ms or 0.0)
    models = sorted(slowest, key=slowest.__getitem__)
    series = sorted({_series(row) for row in rows})
    height = 0.8 / len(series)
    figure = new_figure(11, 1.2 + 0.5 * len(models) * max(1.0, len(series) / 2))
    for axes, action in zip(figure.subplots(1, 2, sharey=True), ("encode", "decode"), strict=True):
        for number, name in enumerate(series):
            chosen = {row.model: row.median_ms for row in rows if (row.action, _series(row)) == (action, name)}
            places = [place + 0.4 - height * (number + 0.5) for place, model in enumerate(models) if model in chosen]
            values = [chosen[model] for model in models if model in chosen]
            bars = axes.barh(places, values, height * 0.9, label=name)
            axes.bar_label(bars, [short(value or 0.0) for value in values], padding=3)
        axes.set(title=f"{action}, ms a call", xlabel="", xticks=[], yticks=range(len(models)), yticklabels=models)
        axes.margins(x=0.15)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    items = "one image or window" if batch == 1 else f"batches of {batch}"
    figure.suptitle(f"{items}, {threads} thread{'s' * (threads > 1)}, shorter is better")
    return png_of(figure)


def _series(row: Row) -> str:
    return {"onnx": "ONNX Runtime", "torch": "eager PyTorch"}.get(row.backend, row.backend) + (
        "" if (row.device, row.precision) == ("cpu", "float32") else f", {row.device}, {row.precision}"
    )
