"""``daps-tokenize dataset``: a whole dataset of images as arrays of codes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import click
import numpy as np

from daps_tokenizer.cli.common import note_once, print_error, progress_bar
from daps_tokenizer.cli.options import Command, Runtime, add_options, force_option, json_option, runtime_options
from daps_tokenizer.cli.sources import DEFAULT_MODEL
from daps_tokenizer.data.code_sets import CodeSetReport, write_code_set
from daps_tokenizer.data.datasets import Split, open_data
from daps_tokenizer.errors import InputError
from daps_tokenizer.hub import open_model
from daps_tokenizer.images.load import Fit
from daps_tokenizer.search.local import LocalSearch
from daps_tokenizer.tokenizer import Tokenizer
from daps_tokenizer.ways import Sampled, Way, describe_way, make_codes

_SHOWN_BROKEN = 5
SECONDS_BETWEEN_LINES = 30.0  # of progress, where standard error is not a terminal


def _options(command: Command) -> Command:
    folder = "The folder to write the codes to."
    models = "The model: a built-in name, ./folder or org/name."
    fits = "How an image of another size is scaled."
    split = "Which part of MNIST or CIFAR-10 to encode; default: train."
    samples = "Draw K encodings of each image from q(z|x) in place of its greedy codes."
    temperature = "The temperature of what is drawn; default: 1."
    search = "Improve the greedy codes by local search with N proposals for each; 2 is a good start."
    options = [
        click.option("-o", "output", type=click.Path(path_type=Path), metavar="FOLDER", required=True, help=folder),
        click.option("--model", default=DEFAULT_MODEL, show_default=True, help=models),
        click.option("--fit", type=click.Choice(get_args(Fit)), default="crop", show_default=True, help=fits),
        click.option("--split", type=click.Choice(get_args(Split)), default="train", help=split),
        click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Encode only the first N images."),
        click.option("--samples", type=click.IntRange(min=1), metavar="K", help=samples),
        click.option("--temperature", type=click.FloatRange(min=0), help=temperature),
        click.option("--seed", type=click.IntRange(min=0), help="The seed of what is drawn; default: 0."),
        click.option("--search", type=click.IntRange(min=1), metavar="N", help=search),
    ]
    return add_options(command, options)


@click.command("dataset")
@click.argument("data", type=click.Path(path_type=Path))
@_options
@runtime_options
@force_option
@json_option
def command(
    data: Path,
    output: Path,
    model: str,
    fit: Fit,
    split: Split,
    limit: int | None,
    samples: int | None,
    temperature: float | None,
    seed: int | None,
    search: int | None,
    runtime: Runtime,
    force: bool,
    as_json: bool,
) -> None:
    """Encode all images of DATA as one array, to train a generative model on.

    DATA is a folder of images or of tar files, a tar file, mnist.npz, or a folder of CIFAR-10 mosaics. Images are files
    named .png, .jpg, .jpeg or .webp; others are ignored.

    FOLDER gets codes.npy, one row per image and of the smallest unsigned type; items.jsonl, which says what each row
    was made of; and dataset.json. The same command resumes an interrupted run. Images that cannot be read are skipped
    and named, and the exit code is 2.
    """
    if samples is not None and search is not None:
        raise click.UsageError("--samples and --search exclude each other.")
    if samples is None and (temperature is not None or seed is not None):
        raise click.UsageError("--temperature and --seed need --samples; otherwise nothing is drawn.")
    folder = open_model(model)
    if folder.config.modality != "image":
        raise InputError(f"{model} is a motion model; dataset is for images, and `daps-tokenize encode` for clips")
    tokenizer = runtime.open(folder)
    opened = open_data(data, tokenizer.config, fit=fit, split=split, limit=limit)
    way: Way = None
    if samples is not None:
        way = Sampled(samples, 1.0 if temperature is None else temperature)
    elif search is not None:
        way = LocalSearch(proposals=search)
    if way is not None:
        tokenizer.config.require_probabilities()
    with progress_bar(len(opened), with_text=True) as show_bar:
        progress = _Progress(output, len(opened), show_bar)
        try:
            report = write_code_set(
                tokenizer,
                opened,
                output,
                lambda items, batch_seed: make_codes(tokenizer, items, way, seed=batch_seed).codes,
                encoding=describe_way(way),
                seed=seed or 0,
                replace=force,
                on_progress=progress,
            )
        except KeyboardInterrupt:
            print(progress.interrupted(), file=sys.stderr, flush=True)
            raise
    for reason in list(report.broken.values())[:_SHOWN_BROKEN]:
        print_error(reason)
    if len(report.broken) > _SHOWN_BROKEN:
        print_error(f"{len(report.broken) - _SHOWN_BROKEN} more, named in {output / 'dataset.json'}")
    codes = np.load(output / "codes.npy", mmap_mode="r")
    if as_json:
        record = {"output": str(output), "model": tokenizer.config.name, "shape": codes.shape, "type": str(codes.dtype)}
        record |= {"broken": report.broken, "done_now": report.done_now, "seconds": progress.seconds()}
        print(json.dumps(record))
    else:
        print(_line(data, output, codes, tokenizer, report, progress.seconds()))
    if report.broken:
        click.get_current_context().exit(2)


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
        """How long this run has taken."""
        return time.perf_counter() - self._started

    def interrupted(self) -> str:
        """What is kept when the run ends here."""
        kept = f"keeps {self._done:,} of {self._total:,} images" if self._done else "has no codes yet"
        return f"interrupted: {self._output} {kept}; the same command resumes"


def _line(
    data: Path, output: Path, codes: np.ndarray, tokenizer: Tokenizer, report: CodeSetReport, seconds: float
) -> str:
    shape = " x ".join(f"{size:,}" for size in codes.shape)
    took = f"{seconds:.0f} s, {report.done_now / seconds:.1f} images/s" if report.done_now else "was complete already"
    return f"{data} -> {output / 'codes.npy'}  {shape} codes, {codes.dtype}, {tokenizer.config.name}, {took}"
