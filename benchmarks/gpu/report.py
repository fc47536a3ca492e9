"""What GPU sessions measured, as a table and a chart: whole calls against their goals, and all that was not measured.

``python -m benchmarks gpu RESULTS``: RESULTS is the folder ``results`` of an unpacked ``results.tar``, or a JSON file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import click

from benchmarks.reports import (
    RESULTS,
    command_line,
    machine_lines,
    new_figure,
    png_of,
    report,
    short,
    table,
    write_report,
)
from daps_tokenizer.errors import InputError

PARTS = ("calls", "onnx", "drawing", "parity", "training")
NOT_MEASURED = "not measured"
_MODEL = "daps-photo-256"
_BATCHES = (1, 8, 64, 256)
_ACTIONS = ("encode", "sample", "decode", "encode, one sweep of local search")
_RUNTIMES = (("torch", "float32"), ("torch", "float16"), ("torch", "bfloat16"), ("onnx", "float32"))

Row = dict[str, Any]


class Measured(NamedTuple):
    """Rows of every part, and the machine that each part was measured on."""

    rows: dict[str, list[Row]]
    machines: dict[str, dict[str, str]]


def read_measured(paths: Iterable[Path]) -> Measured:
    """Rows of sessions; where several have a part, the last one's.

    Raises:
        InputError: a path without any part of a session.
    """
    measured = Measured({part: [] for part in PARTS}, {})
    for path in paths:
        found = {part: path / f"{part}.json" for part in PARTS} if path.is_dir() else dict.fromkeys(PARTS, path)
        contents = {part: json.loads(file.read_bytes()) for part, file in found.items() if file.is_file()}
        # A file of one part has "rows"; one of several has the parts by name.
        rows = {part: content.get("rows" if path.is_dir() else part, []) for part, content in contents.items()}
        if not any(rows.values()):
            raise InputError(f"{path}: holds no results of a GPU session; expected one of {', '.join(PARTS)}")
        for part, those in rows.items():
            if those:
                measured.rows[part] = those
                measured.machines[part] = contents[part]["machine"]
    return measured


def _call(rows: list[Row], backend: str, dtype: str, action: str, batch: int) -> Row | None:
    wanted = {"model": _MODEL, "backend": backend, "dtype": dtype, "action": action, "batch": batch}
    return next((row for row in rows if "median_ms" in row and wanted.items() <= row.items()), None)


def _calls(measured: Measured) -> list[Row]:
    return measured.rows["calls"] + measured.rows["onnx"]


def _best(measured: Measured, action: str, batches: Iterable[int], backend: str = "torch") -> Row | None:
    """The whole call that makes the most items a second, of any precision."""
    dtypes = [dtype for name, dtype in _RUNTIMES if name == backend]
    found = [_call(_calls(measured), backend, dtype, action, batch) for dtype in dtypes for batch in batches]
    return max((row for row in found if row), key=lambda row: row["items_per_second"], default=None)


def _goals(measured: Measured) -> list[tuple[str, str, str]]:
    """What is asked of an H200, and what was measured."""

    def told(row: Row | None, words: Callable[[Row], str]) -> str:
        return NOT_MEASURED if row is None else f"{words(row)} ({row['dtype']}, batches of {row['batch']})"

    def ms(row: Row) -> str:
        return f"{short(row['median_ms'])} ms"

    def rate(row: Row) -> str:
        return f"{row['items_per_second']:,.0f} a second"

    many = _BATCHES[1:]
    torch, onnx = (_call(_calls(measured), backend, "float32", "encode", 64) for backend in ("torch", "onnx"))
    ratio = f"{onnx['median_ms'] / torch['median_ms']:.1f}×" if torch and onnx else NOT_MEASURED
    return [
        ("encode one photograph", "under 3 ms", told(_best(measured, "encode", (1,)), ms)),
        ("encode photographs in batches", "5,000 a second", told(_best(measured, "encode", many), rate)),
        ("decode photographs in batches", "5,000 a second", told(_best(measured, "decode", many), rate)),
        ("ONNX Runtime on CUDA, encode 64 photographs in float32", "within 2× of torch's time", ratio),
    ]


def _calls_table(measured: Measured) -> str:
    def cell(runtime: tuple[str, str], action: str, batch: int) -> str:
        row = _call(_calls(measured), *runtime, action, batch)
        return NOT_MEASURED if row is None else f"{short(row['median_ms'])} ({row['items_per_second']:,.0f})"

    cells = [
        [action, batch, *(cell(runtime, action, batch) for runtime in _RUNTIMES)]
        for action in _ACTIONS
        for batch in _BATCHES
        if batch <= 64 or action != _ACTIONS[-1]
    ]
    return table(["ms a call (a second)", "batch", *(", ".join(runtime) for runtime in _RUNTIMES)], cells)


def _rows_table(rows: list[Row], columns: dict[str, str], numbers: dict[str, Callable[[Any], str]]) -> str:
    """Rows by ``columns`` (key to heading) and ``numbers`` (key to how it is written, the key is the heading)."""

    def number(row: Row, key: str, write: Callable[[Any], str]) -> str:
        return write(row[key]) if key in row else NOT_MEASURED if "reason" in row else "–"

    cells = [
        [*(row.get(key, "–") for key in columns), *(number(row, key, write) for key, write in numbers.items())]
        for row in rows
    ]
    headings = [*columns.values(), *(key.replace("_", " ") for key in numbers)]
    return table(headings, cells) if cells else f"{NOT_MEASURED}."


def _gpus(measured: Measured) -> str:
    """The GPUs by name, as the backends tell them."""
    infos = (row.get("info", "") for rows in measured.rows.values() for row in rows)
    names = {found[1]: None for info in infos if (found := re.search(r" on (NVIDIA [^,]+),", info))}
    return ", ".join(names) or "unknown"


def write_gpu(folder: Path, measured: Measured, command: str, note: str) -> list[Path]:
    """``gpu.json``, ``gpu.md`` and ``gpu.png``; ``note`` is what readers must know of the results."""
    share, milliseconds = "{:.2%}".format, short
    text = report(
        "GPU",
        [command],
        " ".join([f"GPU: {_gpus(measured)}.", *([note] if note else [])]),
        f"Whole calls of {_MODEL}, uint8 photographs on the host to codes on the host and back:",
        table(["what", "goal on an H200", "measured"], _goals(measured)),
        _calls_table(measured),
        "Drawing the codes of photographs from a context that is there, greedy, by each way:",
        _rows_table(
            measured.rows["drawing"],
            {"model": "model", "batch": "batch", "dtype": "precision", "way": "way", "choice": "choice"},
            {"median_ms": milliseconds, "codes_equal": share, "rows_left": share},
        ),
        "Codes against ONNX Runtime's on the CPU:",
        _rows_table(
            measured.rows["parity"],
            {"model": "model", "backend": "backend", "device": "device", "dtype": "precision"},
            {"greedy_codes_equal": share, "sampled_codes_equal": share, "levels_apart": str},
        ),
        "Training steps:",
        _rows_table(
            measured.rows["training"],
            {"config": "config", "batch": "batch", "step": "step"},
            {"median_ms": milliseconds, "items_per_second": "{:,.0f}".format},
        ),
        "What is not measured is filled in by `bash benchmarks/gpu/session.sh` and this command (docs/notes/gpu.md).",
        machine_lines(measured.machines.items()),
        machine=None,
    )
    content = {"command": command, "machines": measured.machines, **measured.rows}
    return write_report(folder, "gpu", content, text, _plot(measured))


def _plot(measured: Measured) -> bytes:
    """Photographs a second by whole calls and by drawing alone."""
    labels: list[str] = []
    rates: list[float | None] = []
    for action in ("encode", "decode"):
        for batch in (1, 64):
            row = _best(measured, action, (batch,))
            labels.append(f"{action}, whole call, batch {batch}")
            rates.append(None if row is None else row["items_per_second"])
    drawn = [row for row in measured.rows["drawing"] if row["model"] == _MODEL and "median_ms" in row]
    for row in drawn:
        if row["dtype"] == "bfloat16":
            labels.append(f"drawing, {row['way']}, batch {row['batch']}")
            rates.append(1e3 * row["batch"] / row["median_ms"])
    figure = new_figure(9, 0.9 + 0.3 * len(labels))
    axes = figure.subplots()
    axes.barh(labels, [rate or 0 for rate in rates])
    for place, rate in enumerate(rates):
        axes.text(rate or 0, place, f" {rate:,.0f}" if rate else f" {NOT_MEASURED}", va="center")
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_title(f"{_MODEL}, photographs a second; drawing in bfloat16")
    axes.spines[["top", "right"]].set_visible(False)
    return png_of(figure)


@click.command()
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default="benchmarks/results")
@click.option("--note", default="", help="What readers must know of the results.")
def gpu(results: tuple[Path, ...], out: Path, note: str) -> None:
    """Report what GPU sessions measured: folders or JSON files; of a part that several have, the last."""
    for path in write_gpu(out, read_measured(results), command_line(), note):
        click.echo(path)
