"""``daps-tokenize dataset``: a whole dataset of images as arrays of codes."""

from __future__ import annotations

import contextlib
import ctypes
import json
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np

from daps_tokenizer.cli.common import note_once, print_error, progress_bar
from daps_tokenizer.cli.dataset_ray import RAY_OPTIONS, ray_workers
from daps_tokenizer.cli.options import Command, Runtime, add_options, force_option, json_option, runtime_options
from daps_tokenizer.cli.sources import DEFAULT_MODEL
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.data.clip_windows import open_clip_windows
from daps_tokenizer.data.code_set_files import WHOLE, Shard, ShardFiles
from daps_tokenizer.data.code_set_writer import write_code_set
from daps_tokenizer.data.code_sets import merge_shards, read_lines
from daps_tokenizer.data.datasets import Data, ImageFiles, Split, open_data, read_labels, with_labels
from daps_tokenizer.data.ray import Work
from daps_tokenizer.data.sources import FileSource
from daps_tokenizer.errors import InputError
from daps_tokenizer.hub import open_model
from daps_tokenizer.images.load import Fit
from daps_tokenizer.search.local import LocalSearch
from daps_tokenizer.ways import Sampled, Way

_SHOWN_BROKEN = 5
_M_MMAP_THRESHOLD = -3  # of glibc's mallopt: what is larger is not kept
_MAX_SAMPLES = 1024
_SMALL = 2**16  # bytes of an array that is read whole; a file without rows cannot be mapped
SECONDS_BETWEEN_LINES = 30.0  # of progress, where standard error is not a terminal


def _parse_shard(ctx: click.Context, parameter: click.Parameter, text: str | None) -> Shard:
    """``3/64`` as a shard."""
    if text is None:
        return WHOLE
    try:
        index, count = text.split("/")
        return Shard(int(index), int(count))
    except InputError as error:
        raise click.BadParameter(f"{error}.", ctx, parameter) from None
    except ValueError:
        raise click.BadParameter(f"{text!r} is not I/N, such as 0/64.", ctx, parameter) from None


def _options(command: Command) -> Command:
    folder = "The folder to write the codes to."
    models = "The model: a built-in name, ./folder or org/name."
    fits = "How an image of another size is scaled."
    split = "Which part of MNIST or CIFAR-10 to encode; default: train."
    samples = "Draw K encodings of each image from q(z|x) instead of its greedy codes."
    temperature = "The temperature of sampling; default: 1."
    search = "Improve the greedy codes by local search with N proposals for each; 2 is a good start."
    labels = "A CSV file with the columns item and label, used instead of the labels in DATA."
    flip = "Add a row for the mirror image of each image, after the image's own."
    shard = "Encode only part I of N, counted from 0; other processes encode the others into the same FOLDER."
    merge = "Join the shards in the folder DATA to one code set in FOLDER."
    options: list[Callable[[Command], Command]] = [
        click.option("-o", "output", type=click.Path(path_type=Path), metavar="FOLDER", required=True, help=folder),
        click.option("--model", default=DEFAULT_MODEL, show_default=True, help=models),
        click.option("--fit", type=click.Choice(get_args(Fit)), default="crop", show_default=True, help=fits),
        click.option("--split", type=click.Choice(get_args(Split)), default="train", help=split),
        click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Encode only the first N images."),
        click.option("--samples", type=click.IntRange(1, _MAX_SAMPLES), metavar="K", help=samples),
        click.option("--temperature", type=click.FloatRange(min=0), help=temperature),
        click.option("--seed", type=click.IntRange(min=0), help="The random seed; default: 0."),
        click.option("--search", type=click.IntRange(min=1), metavar="N", help=search),
        click.option("--labels", type=click.Path(path_type=Path), metavar="CSV", help=labels),
        click.option("--flip", is_flag=True, help=flip),
        click.option("--shard", metavar="I/N", callback=_parse_shard, help=shard),
        click.option("--merge", is_flag=True, help=merge),
        *RAY_OPTIONS,
    ]
    return add_options(command, options)


@click.command("dataset")
@click.argument("data")
@_options
@runtime_options
@force_option
@json_option
def command(
    data: str,
    output: Path,
    model: str,
    fit: Fit,
    split: Split,
    limit: int | None,
    samples: int | None,
    temperature: float | None,
    seed: int | None,
    search: int | None,
    flip: bool,
    shard: Shard,
    merge: bool,
    labels: Path | None,
    ray: str | None,
    workers: int | None,
    gpus_per_worker: float | None,
    runtime: Runtime,
    force: bool,
    as_json: bool,
) -> None:
    """Encode all images of DATA as one array, to train a generative model on.

    DATA is one file, a folder that is searched to any depth, a pattern in quotes, or an address such as
    s3://bucket/folder. The files are images, tar files of images, parquet files with a column of images, or, with a
    motion model, clips; files of other types are ignored. DATA can also be mnist.npz or a folder of CIFAR-10 mosaics.

    FOLDER gets codes.npy, with one row per image, labels.npy, dataset.json, items.jsonl, which names the image of each
    row, and skipped.jsonl, which names the images that could not be read. If there are any of these, the exit code is
    2. The same command resumes an interrupted run.

    With --shard, N runs fill FOLDER, at the same time or one after the other, on one machine or many. With --ray, the
    workers of a Ray cluster do; all its machines must see FOLDER and DATA under the same path.
    """
    _return_memory_at_once()
    on_ray = ray_workers(ray, workers, gpus_per_worker, shard, force=force, merge=merge)
    if merge:
        _merge(Path(data), output, shard, force=force, as_json=as_json)
        return
    if samples is not None and search is not None:
        raise click.UsageError("--samples and --search exclude each other.")
    if samples is None and (temperature is not None or seed is not None):
        raise click.UsageError("--temperature and --seed need --samples; without it nothing is random.")
    if force and shard.count > 1:
        raise click.UsageError("--force does not replace shards; name a new folder with -o, or remove this one.")
    folder = open_model(model)
    tokenizer = runtime.open(folder)

    def open_items(config: TokenizerConfig) -> Data:
        if config.modality == "motion":
            found: Data = open_clip_windows(data, config, split=split, limit=limit)
        else:
            found = open_data(data, config, fit=fit, split=split, limit=limit)
        return found if labels is None else with_labels(found, read_labels(labels, found))

    opened = open_items(tokenizer.config)
    if isinstance(opened, ImageFiles) and isinstance(opened.source, FileSource) and opened.source.ignored:
        note_once("ignored", f"{data}: files without the suffix of an image are ignored: {opened.source.ignored:,}")
    way: Way = None
    if samples is not None:
        way = Sampled(samples, 1.0 if temperature is None else temperature)
    elif search is not None:
        way = LocalSearch(proposals=search)
    if way is not None:
        tokenizer.config.require_probabilities()
    if on_ray is not None:

        def open_work() -> Work:
            model_here = on_ray.runtime(runtime).open(open_model(model))
            data_here = open_items(model_here.config)
            return lambda part: write_code_set(
                model_here, data_here, output, way, seed=seed or 0, flip=flip, shard=part
            )

        on_ray.encode(data, output, opened, tokenizer.config.name, open_work, runtime, as_json=as_json)
        return
    total = len(shard.items(len(opened)))
    with progress_bar(total, with_text=True) as show_bar:
        progress = _Progress(output, total, show_bar)
        try:
            report = write_code_set(
                tokenizer,
                opened,
                output,
                way,
                seed=seed or 0,
                flip=flip,
                shard=shard,
                replace=force,
                on_progress=progress,
            )
        except KeyboardInterrupt:
            print(progress.interrupted(), file=sys.stderr, flush=True)
            raise
    files = ShardFiles.of(output, shard)
    for line in islice(read_lines(files.skipped), _SHOWN_BROKEN):
        print_error(line["reason"])
    if report.skipped > _SHOWN_BROKEN:
        print_error(f"{report.skipped - _SHOWN_BROKEN} more, named in {files.skipped}")
    seconds = progress.seconds()
    took = f"{seconds:.0f} s, {report.done_now / seconds:.1f} images/s" if report.done_now else "was complete already"
    record = {"skipped": report.skipped, "done_now": report.done_now, "seconds": seconds}
    _print_report(data, files.codes, tokenizer.config.name, took, record, as_json=as_json)
    if report.skipped:
        click.get_current_context().exit(2)


def _return_memory_at_once() -> None:
    """Have glibc give back the memory of an image, which it would keep for each of the threads that read."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another system's C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2**20)


def _merge(source: Path, output: Path, shard: Shard, *, force: bool, as_json: bool) -> None:
    if shard.count > 1:
        raise click.UsageError("--merge and --shard exclude each other.")
    merged = merge_shards(source, output, replace=force).record
    record = {"skipped": merged["skipped"]}
    _print_report(source, output / "codes.npy", merged["model"], "merged", record, as_json=as_json)


def _print_report(data: object, path: Path, model: str, took: str, record: dict[str, Any], *, as_json: bool) -> None:
    codes = np.load(path, allow_pickle=False, mmap_mode="r" if path.stat().st_size > _SMALL else None)
    if as_json:
        about = {"output": str(path.parent), "model": model, "shape": codes.shape, "type": str(codes.dtype)}
        print(json.dumps(about | record))
        return
    shape = " x ".join(f"{size:,}" for size in codes.shape)
    print(f"{data} -> {path}  {shape} codes, {codes.dtype}, {model}, {took}")


class _Progress:
    """Says how far a run is: on the bar of a terminal, else on standard error, a line every 30 seconds."""

    def __init__(self, output: Path, total: int, show_bar: Callable[[float, str], None]) -> None:
        self._output, self._total, self._show_bar = output, total, show_bar
        self._first: int | None = None  # where this run began
        self._done = 0
        self._started = self._said = time.perf_counter()

    def __call__(self, done: int) -> None:
        """``done`` images are encoded and written."""
        if self._first is None:
            self._first = done
            if done:
                note_once("resumed", f"{self._output}: resumed at image {done:,} of {self._total:,}")
        self._done = done
        new, seconds = done - self._first, self.seconds()
        rate = f"{new / seconds:.1f} images/s, {seconds * (self._total - done) / new:.0f} s to go" if new else ""
        self._show_bar(done, rate)
        now = time.perf_counter()
        if new and not sys.stderr.isatty() and now - self._said >= SECONDS_BETWEEN_LINES:
            self._said = now
            note = f"{self._output}: {done:,} of {self._total:,} images, {rate}"
            print(note, file=sys.stderr, flush=True)

    def seconds(self) -> float:
        return time.perf_counter() - self._started

    def interrupted(self) -> str:
        """What is kept when the run ends here."""
        kept = f"keeps {self._done:,} of {self._total:,} images" if self._done else "has no codes yet"
        return f"interrupted: {self._output} {kept}; the same command resumes"
