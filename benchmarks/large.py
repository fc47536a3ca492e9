"""What a large photograph takes: processor time, and the peak memory of a process that does nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.reports import RESULTS, report, show, table, with_command, write_report
from daps_tokenizer import DapsError, Tokenizer
from daps_tokenizer.errors import BackendError, InputError
from daps_tokenizer.evaluation.timing import peak_memory_mb


@dataclass(frozen=True)
class LargeRow:
    """One size of photograph: tiles, bytes of codes, seconds of all processors together, which other programs hardly
    change, and the process's peak memory in MB (2^20 bytes)."""

    width: int
    height: int
    tiles: int
    code_bytes: int
    encode_seconds: float
    decode_seconds: float
    peak_memory_mb: float


def measure_large(model: str, sizes: list[tuple[int, int]], *, threads: int) -> list[LargeRow]:
    """Encode and decode a generated photograph of each (width, height) with ``fit="tile"``, in a process of its own.

    Raises:
        BackendError: a process failed; its last line of output is in the message.
    """
    rows = []
    for width, height in sizes:
        job = {"model": model, "width": width, "height": height, "threads": threads}
        command = [sys.executable, "-m", "benchmarks.large", json.dumps(job)]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        if finished.returncode != 0:
            reason = (finished.stderr.strip().splitlines() or ["no output"])[-1]
            raise BackendError(f"{model} on {width}×{height} pixels could not be measured: {reason}")
        rows.append(LargeRow(**json.loads(finished.stdout)))
    return rows


def measure_here(model: str, width: int, height: int, threads: int) -> LargeRow:
    tokenizer = Tokenizer.from_pretrained(model, num_threads=threads)
    photo = generated_photo(height, width, tokenizer.input_shape[2])
    started = time.process_time()
    codes = tokenizer.encode(photo, fit="tile")
    encoded = time.process_time()
    tokenizer.decode(codes)
    decoded = time.process_time()
    return LargeRow(
        width,
        height,
        tiles=codes.shape[1],
        code_bytes=-(-codes.num_bits // 8),
        encode_seconds=encoded - started,
        decode_seconds=decoded - encoded,
        peak_memory_mb=peak_memory_mb(),
    )


def generated_photo(height: int, width: int, channels: int) -> np.ndarray:
    """Slopes, edges and grain, (height, width, channels) uint8, made in 8-bit arithmetic to take little memory."""
    row, column = np.arange(height, dtype=np.uint16)[:, None], np.arange(width, dtype=np.uint16)
    photo = np.empty((height, width, channels), np.uint8)
    random = np.random.default_rng(0)
    for channel in range(channels):
        plane = photo[:, :, channel]
        plane[:] = (row // 8 + column // (8 + channel)) % 192
        plane[((row // 90) % 3 == channel) & ((column // 70) % 3 == 1)] += 40
        plane += random.integers(0, 16, plane.shape, dtype=np.uint8)
    return photo


def write_large(folder: Path, model: str, rows: list[LargeRow], content: dict[str, Any]) -> list[Path]:
    content = {**content, "rows": [asdict(row) for row in rows]}
    header = ("pixels", "tiles", "bytes of codes", "encode, processor s", "decode, processor s", "peak memory, MB")
    cells = [
        (
            f"{row.width}×{row.height}",
            row.tiles,
            f"{row.code_bytes:,}",
            f"{row.encode_seconds:.1f}",
            f"{row.decode_seconds:.1f}",
            f"{row.peak_memory_mb:.0f}",
        )
        for row in rows
    ]
    text = report(
        f"Large photographs with {model}",
        [content["command"]],
        table(header, cells),
        f"A generated image, greedy codes, {content['threads']} threads; each size in a process of its own, whose "
        "memory holds Python, the runtime, the model and the image too.",
        machine=content["machine"],
    )
    return write_report(folder, f"large_{model}", content, text)


@click.command()
@click.option("--model", required=True, help="Built-in name or model folder.")
@click.option("--size", "sizes", multiple=True, default=("64x64", "1000x667", "4000x3000"), show_default=True)
@click.option("--num-threads", "threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default="benchmarks/results")
def large(model: str, sizes: tuple[str, ...], threads: int, out: Path) -> None:
    """Measure time and memory of photographs of any size, WIDTHxHEIGHT."""
    pairs = []
    for size in sizes:
        width, _, height = size.partition("x")
        if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
            raise InputError(f"--size must be WIDTHxHEIGHT in pixels, for example 4000x3000, not {size!r}")
        pairs.append((int(width), int(height)))
    rows = measure_large(model, pairs, threads=threads)
    content = with_command(threads=threads)
    show(write_large(out, Path(model).name, rows, content))


if __name__ == "__main__":
    try:
        measured = measure_here(**json.loads(sys.argv[1]))
    except DapsError as error:
        sys.exit(str(error))
    print(json.dumps(asdict(measured)))
