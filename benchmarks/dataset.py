"""What it takes to encode a data set: images/s from files to codes, where the time goes, memory, and large machines."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from PIL import Image

from benchmarks.inputs import ROOT
from benchmarks.reports import RESULTS, report, show, table, with_command, write_report
from daps_tokenizer import Tokenizer
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.data.code_set_files import WHOLE, GrowingCodeSet
from daps_tokenizer.data.code_set_writer import hash_items, write_code_set
from daps_tokenizer.data.datasets import ImageFiles, open_data
from daps_tokenizer.errors import BackendError
from daps_tokenizer.hub import open_model
from daps_tokenizer.inputs import InputOptions

BATCH = 64
PHOTO_SIZE = (500, 375)  # a usual size in ImageNet
CARDS = (1, 64, 1000)
DATA_SETS = {"ImageNet (1.28 million)": 1_281_167, "400 million": 400_000_000}
# Of daps-photo-256 on an H200, batches of 64, the encoder alone: docs/notes/gpu.md.
GPU_RATE = 6580.0
MEMORY_MODEL, MANY_IMAGES = "daps-cifar10", 20_000  # small images: their memory is that of the program

# The command line in a process of its own, which says how much memory it took at most.
_RUNNER = """
import atexit, sys
from daps_tokenizer.cli.main import main
from daps_tokenizer.evaluation.timing import peak_memory_mb
atexit.register(lambda: print(f"{peak_memory_mb():.1f}", file=sys.stderr))
main(sys.argv[1:])
"""


class Finished(NamedTuple):
    """What one process did: images, its seconds without the start, peak memory in MB."""

    images: int
    seconds: float
    memory_mb: float


@dataclass(frozen=True)
class Rate:
    """Images/s of one way to encode a data set."""

    way: str
    images: int
    seconds: float
    images_per_second: float


@dataclass(frozen=True)
class Stages:
    """Processor milliseconds of an image in each stage; ``decode_small`` is of a file that has the model's size."""

    read: float
    decode: float
    resize: float
    encode: float
    write: float
    decode_small: float
    file_bytes: float
    small_file_bytes: float
    row_bytes: float

    @property
    def shares(self) -> dict[str, float]:
        """What share of the time each stage takes."""
        times = {name: getattr(self, name) for name in ("read", "decode", "resize", "encode", "write")}
        return {name: value / sum(times.values()) for name, value in times.items()}


def write_jpegs(path: Path, count: int, size: tuple[int, int]) -> Path:
    """A tar file of ``count`` JPEG files of (width, height), crops of the photographs in examples/, with labels."""
    photos: list[Image.Image] = []
    for name in ("astronaut.webp", "coffee.webp", "rocket.webp"):
        with Image.open(ROOT / "examples" / name) as opened:
            photos.append(opened.convert("RGB"))
    random = np.random.default_rng(0)
    with tarfile.open(path, "w") as archive:
        for number in range(count):
            photo = photos[number % len(photos)]
            left, top = (int(random.integers(0, side // 4)) for side in photo.size)
            crop = photo.crop((left, top, left + 3 * photo.width // 4, top + 3 * photo.height // 4))
            content = _jpeg(crop.resize(size, Image.Resampling.BICUBIC))
            for suffix, data in (("jpg", content), ("cls", str(number % 10).encode())):
                member = tarfile.TarInfo(f"{number:08}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def run_together(commands: Sequence[Sequence[str]], cores: Sequence[set[int]]) -> list[Finished]:
    """Run ``daps-tokenize dataset`` with these arguments at the same time, each on its cores.

    Raises:
        BackendError: a process failed; its last line of output is in the message.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _RUNNER, "dataset", *arguments, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=None if not where else lambda where=where: os.sched_setaffinity(0, where),
        )
        for arguments, where in zip(commands, cores, strict=True)
    ]
    finished = []
    for process in processes:
        output, errors = process.communicate()
        lines = errors.strip().splitlines() or ["no output"]
        if process.returncode != 0:
            said = [line for line in lines if line.startswith("error: ")] or lines
            raise BackendError(f"daps-tokenize dataset failed: {said[-1]}")
        record = json.loads(output)
        finished.append(Finished(record["done_now"], record["seconds"], float(lines[-1])))
    return finished


def measure_rates(data: Path, model: str, limit: int, *, with_ray: bool = True) -> list[Rate]:
    """One process on one core and on two, two processes on one core each, and two workers of Ray on two cores."""
    available = sorted(os.sched_getaffinity(0))[:2]
    one, both = {available[0]}, set(available)

    def measure(way: str, options: Sequence[Sequence[str]], cores: Sequence[set[int]]) -> Rate:
        with tempfile.TemporaryDirectory() as folder:
            common = [str(data), "-o", f"{folder}/codes", "--model", model, "--limit", str(limit)]
            finished = run_together([[*common, *more] for more in options], cores)
        images, seconds = sum(part.images for part in finished), max(part.seconds for part in finished)
        return Rate(way, images, seconds, images / seconds)

    shards = [["--num-threads", "1", "--shard", f"{index}/2"] for index in range(2)]
    rates = [
        measure("1 process, 1 core", [["--num-threads", "1"]], [one]),
        measure("1 process, 2 cores, 2 threads", [["--num-threads", "2"]], [both]),
    ]
    if len(both) == 2:
        rates.append(measure("2 processes, 1 core each", shards, [{core} for core in available]))
    if with_ray:
        rates.append(measure("Ray, 2 workers, with Ray's start", [["--ray", "local", "--workers", "2"]], [both]))
    return rates


def measure_stages(data: Path, model: str, limit: int) -> Stages:
    """Processor time of each stage, one after the other in this process, with one thread."""
    tokenizer = Tokenizer.from_pretrained(model, num_threads=1)
    opened = open_data(data, tokenizer.config, limit=limit)
    assert isinstance(opened, ImageFiles)
    count, options = len(opened), InputOptions(fit="crop")
    height, width = tokenizer.input_shape[:2]
    contents, read = _timed(lambda: [opened.source.read(index) for index in range(count)])
    decode = _timed(lambda: [_decoded(content) for content in contents]).seconds
    parts, prepare = _timed(lambda: [opened.modality.prepare(content, options).pieces for content in contents])
    images = np.concatenate(parts)
    tokenizer.encode(images[:BATCH])  # to warm up
    chunks, encode = _timed(
        lambda: [tokenizer.encode(images[first : first + BATCH]).numpy() for first in range(0, count, BATCH)]
    )
    codes = np.concatenate(chunks)
    with tempfile.TemporaryDirectory() as folder:
        # The record of a set of one item, so that only the writing of the others is timed.
        write_code_set(tokenizer, open_data(data, tokenizer.config, limit=1), Path(folder) / "one")
        record = json.loads((Path(folder) / "one" / "dataset.json").read_text(encoding="utf-8"))
        target = Path(folder) / "codes"
        target.mkdir()

        def write_all() -> None:
            with GrowingCodeSet(target, WHOLE, record, codes.shape[1:], None) as growing:
                for first in range(0, count, BATCH):
                    rows = codes[first : first + BATCH]
                    lines = [{"item": f"{number:08}.jpg"} for number in range(len(rows))]
                    growing.add(rows, np.zeros(len(rows), np.int64), lines, [], done=first + len(rows))
                growing.finish()

        write = _timed(write_all).seconds
        row_bytes = (target / "codes.npy").stat().st_size / count
    small = [_jpeg(_decoded(content).resize((width, height))) for content in contents]
    decode_small = _timed(lambda: [_decoded(content) for content in small]).seconds
    times = [1e3 * seconds / count for seconds in (read, decode, prepare - decode, encode, write, decode_small)]
    sizes = [sum(map(len, files)) / count for files in (contents, small)]
    measured = [*times, *sizes, row_bytes]
    return Stages(*measured)


class _Timed(NamedTuple):
    result: Any
    seconds: float


def _timed(call: Callable[[], Any]) -> _Timed:
    started = time.process_time()
    result = call()
    return _Timed(result, time.process_time() - started)


def _decoded(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def measure_memory(data: Path, model: str, limits: Sequence[int]) -> dict[int, float]:
    """Peak memory in MB of a process that encodes the first items of a data set, by how many they are."""
    found = {}
    for limit in limits:
        with tempfile.TemporaryDirectory() as folder:
            arguments = [str(data), "-o", f"{folder}/codes", "--model", model, "--limit", str(limit)]
            (finished,) = run_together([arguments], [set()])
        found[limit] = finished.memory_mb
    return found


def measure_listing(count: int, config: TokenizerConfig) -> dict[str, float]:
    """Processor seconds that every shard takes to list a million items: in tar files with labels, and in folders."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        tars, files = Path(folder) / "many.tar", Path(folder) / "many"
        with tarfile.open(tars, "w") as archive:
            for number in range(count):
                for suffix in ("jpg", "cls"):
                    member = tarfile.TarInfo(f"{number:08}.{suffix}")
                    member.size = 1
                    archive.addfile(member, io.BytesIO(b"1"))
        for number in range(count):
            place = files / f"{number % 100}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number:08}.jpg").touch()
        for name, data in (("tar files", tars), ("folders", files)):
            found[name] = _timed(partial(_list_items, data, config)).seconds * 1e6 / count
    return found


def _list_items(data: Path, config: TokenizerConfig) -> str:
    return hash_items(open_data(data, config))


def on_paper(stages: Stages, gpu_rate: float) -> list[list[str]]:
    """What some numbers of GPUs need if nothing else limits them: a row for each."""
    rows = []
    for cards in CARDS:
        rate = cards * gpu_rate
        hours = [f"{count / rate / 3600:.3g}" for count in DATA_SETS.values()]
        rows.append(
            [
                f"{cards:,}",
                f"{rate:,.0f}",
                f"{rate * (stages.decode + stages.resize) / 1e3:,.0f}",
                f"{rate * stages.decode_small / 1e3:,.0f}",
                f"{rate * stages.file_bytes / 1e9:,.2f}",
                f"{rate * stages.small_file_bytes / 1e9:,.2f}",
                f"{rate * stages.row_bytes / 1e9:,.3f}",
                *hours,
            ]
        )
    return rows


def write_dataset(
    folder: Path,
    rates: Sequence[Rate],
    stages: Stages,
    memory: dict[int, float],
    listing: dict[str, float],
    content: dict[str, Any],
) -> list[Path]:
    measured = {"rates": [asdict(rate) for rate in rates], "stages": asdict(stages), "memory_mb": memory}
    content = {**content, **measured, "listing_seconds_per_million": listing}
    first = rates[0].images_per_second
    of_rates = [
        (rate.way, rate.images, f"{rate.images_per_second:.1f}", f"{rate.images_per_second / first:.2f}")
        for rate in rates
    ]
    of_stages = [(name, f"{getattr(stages, name):.2f}", f"{share:.0%}") for name, share in stages.shares.items()]
    cores = content["gpu_rate"] * (stages.decode + stages.resize) / 1e3
    small = content["gpu_rate"] * stages.decode_small / 1e3
    header = ["H200s", "images/s", "cores", "cores, pre-resized", "GB/s read", "GB/s read, pre-resized", "GB/s written"]
    text = report(
        "Encoding a data set",
        [content["command"]],
        table(("way", "images", "images/s", "times the first"), of_rates),
        f"From JPEG files in a tar to codes on the disk, {content['data']}, {content['model']}, greedy. Load average "
        f"before: {content['load_average']:.1f}.",
        table(("stage", "ms an image", "share"), of_stages),
        "Processor time on one core; `resize` is all between the decoded file and the model's input.",
        table(("images", "peak memory, MB"), [(f"{n:,}", f"{mb:.0f}") for n, mb in memory.items()]),
        f"Images of 32×32 pixels with {content['memory_model']}; Python, the runtime and the model are in it.",
        f"Every shard lists all items first: {listing['tar files']:.0f} s of processor time for a million in tar files "
        f"with labels, {listing['folders']:.0f} s for a million files in folders.",
        "## On paper",
        table([*header, *(f"{name}, hours" for name in DATA_SETS)], on_paper(stages, content["gpu_rate"])),
        f"Not measured: computed from the table above and {content['gpu_rate']:,.0f} images/s a card, the encoder "
        f"alone on an H200 (docs/notes/gpu.md). A card needs {cores:.0f} cores to decode and resize for it, and "
        f"{small:.0f} where the files have the model's size already: a tar of images that are scaled once is worth it "
        "from the second encoding on. Reading breaks first: compare GB/s with what the storage gives. Then the list of "
        "items: every worker lists all of them, so at hundreds of millions give each job a part of the tars.",
        machine=content["machine"],
    )
    return write_report(folder, "dataset", content, text)


@click.command()
@click.option("--model", default="daps-photo-256", show_default=True)
@click.option("--images", type=click.IntRange(min=4), default=512, show_default=True, help="Photographs to encode.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default="benchmarks/results")
def dataset(model: str, images: int, out: Path) -> None:
    """Measure images/s from files to codes, the share of each stage, and memory; on an otherwise idle machine."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        photos = write_jpegs(Path(folder) / "photos.tar", images, PHOTO_SIZE)
        rates = measure_rates(photos, model, images)
        stages = measure_stages(photos, model, min(images, 2 * BATCH))
        many = write_jpegs(Path(folder) / "small.tar", MANY_IMAGES, (32, 32))
        memory = measure_memory(many, MEMORY_MODEL, [MANY_IMAGES // 4, MANY_IMAGES // 2, MANY_IMAGES])
        listing = measure_listing(MANY_IMAGES, open_model(MEMORY_MODEL).config)
    content = with_command(
        model=model,
        memory_model=MEMORY_MODEL,
        load_average=load,
        data=f"{images:,} JPEG files of {PHOTO_SIZE[0]}×{PHOTO_SIZE[1]} pixels",
        gpu_rate=GPU_RATE,
    )
    show(write_dataset(out, rates, stages, memory, listing, content))
