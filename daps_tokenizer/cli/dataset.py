"""``daps-tokenize dataset``: a whole dataset of images as arrays of codes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import get_args

import click
import numpy as np

from daps_tokenizer import LocalSearch, Tokenizer
from daps_tokenizer.cli.common import (
    DEFAULT_MODEL,
    Command,
    Runtime,
    add_options,
    force_option,
    json_option,
    print_error,
    progress_bar,
    runtime_options,
)
from daps_tokenizer.data.code_sets import CodeSetReport, write_code_set
from daps_tokenizer.data.datasets import Split, open_data
from daps_tokenizer.errors import InputError
from daps_tokenizer.hub import open_model
from daps_tokenizer.images.load import Fit
from daps_tokenizer.ways import Sampled, Way, describe_way, make_codes

_SHOWN_BROKEN = 5


def _options(command: Command) -> Command:
    folder = "Where to write the codes."
    fits = "How an image of another size is scaled."
    split = "Of MNIST and CIFAR-10; default: train."
    samples = "Draw K encodings of each image from q(z|x), in place of its greedy codes."
    search = "Improve the greedy codes, with N proposals for each; 2 is a good start."
    options = [
        click.option("-o", "output", type=click.Path(path_type=Path), metavar="FOLDER", required=True, help=folder),
        click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Built-in name, ./folder or org/name."),
        click.option("--fit", type=click.Choice(get_args(Fit)), default="crop", show_default=True, help=fits),
        click.option("--split", type=click.Choice(get_args(Split)), default="train", help=split),
        click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N images."),
        click.option("--samples", type=click.IntRange(min=1), metavar="K", help=samples),
        click.option("--temperature", type=click.FloatRange(min=0), help="Of the draw; default: 1."),
        click.option("--seed", type=click.IntRange(min=0), help="Of the draw; default: 0."),
        click.option("--search", type=click.IntRange(min=1), metavar="N", help=search),
    ]
    return add_options(command, options)


@click.command("dataset")
@click.argument("data", type=click.Path(path_type=Path))
@_options
@runtime_options
@force_option
@json_option
def dataset_command(
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
    """Encode all images of DATA, to train a generative model on: a folder of images or tar files, a tar file, mnist.npz
    or CIFAR-10 mosaics.

    FOLDER gets codes.npy, one row per image and of the smallest unsigned type, items.jsonl, which says what each row
    was made of, and dataset.json. What was interrupted goes on by the same command. Images that cannot be read are left
    out and named; the exit code is 2 then.
    """
    if samples is not None and search is not None:
        raise click.UsageError("--samples and --search exclude each other.")
    if samples is None and (temperature is not None or seed is not None):
        raise click.UsageError("--temperature and --seed need --samples; otherwise nothing is drawn.")
    folder = open_model(model)
    if folder.config.modality != "image":
        raise InputError(f"{model} is a motion model; dataset is for images, and `daps-tokenize encode` for clips")
    tokenizer = Tokenizer(folder, runtime.open(folder))
    opened = open_data(data, tokenizer.config, fit=fit, split=split, limit=limit)
    way: Way = None
    if samples is not None:
        way = Sampled(samples, 1.0 if temperature is None else temperature)
    elif search is not None:
        way = LocalSearch(proposals=search)
    if way is not None:
        tokenizer.config.require_probabilities()
    started = time.perf_counter()
    with progress_bar(len(opened)) as show_done:
        report = write_code_set(
            tokenizer,
            opened,
            output,
            lambda items, batch_seed: make_codes(tokenizer, items, way, seed=batch_seed).codes,
            encoding=describe_way(way),
            seed=seed or 0,
            replace=force,
            on_progress=show_done,
        )
    seconds = time.perf_counter() - started
    for reason in list(report.broken.values())[:_SHOWN_BROKEN]:
        print_error(reason)
    if len(report.broken) > _SHOWN_BROKEN:
        print_error(f"{len(report.broken) - _SHOWN_BROKEN} more, named in {output / 'dataset.json'}")
    codes = np.load(output / "codes.npy", mmap_mode="r")
    if as_json:
        record = {"output": str(output), "model": tokenizer.config.name, "shape": codes.shape, "type": str(codes.dtype)}
        record |= {"broken": report.broken, "done_now": report.done_now, "seconds": seconds}
        print(json.dumps(record))
    else:
        print(_line(data, output, codes, tokenizer, report, seconds))
    if report.broken:
        click.get_current_context().exit(2)


def _line(
    data: Path, output: Path, codes: np.ndarray, tokenizer: Tokenizer, report: CodeSetReport, seconds: float
) -> str:
    shape = " x ".join(f"{size:,}" for size in codes.shape)
    took = "was there already" if not report.done_now else f"{seconds:.0f} s, {report.done_now / seconds:.1f} images/s"
    return f"{data} -> {output / 'codes.npy'}  {shape} codes, {codes.dtype}, {tokenizer.config.name}, {took}"
