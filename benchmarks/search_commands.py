"""``python -m benchmarks search``, ``search-training`` and ``prior``."""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np

from benchmarks.report import RESULTS, command_line
from benchmarks.report_search import write_prior, write_search, write_search_training
from benchmarks.search import Grid, measure_search
from daps_tokenizer import Tokenizer
from daps_tokenizer.data.datasets import open_data
from daps_tokenizer.errors import InputError
from daps_tokenizer.evaluation.timing import describe_machine
from daps_tokenizer.hub import open_model
from train.data import DatasetKind, data_folder, load_dataset

_FOLDER = click.Path(path_type=Path)


@click.command()
@click.option("--model", required=True, help="Built-in name or model folder.")
@click.option("--data", required=True, type=_FOLDER, help="mnist.npz, cifar10, a folder or tar file of images.")
@click.option("--images", default=1000, show_default=True, help="How many items, the first ones.")
@click.option("--proposals", multiple=True, type=int, default=Grid.proposals, show_default=True)
@click.option("--sweeps", default=Grid.sweeps, show_default=True, help="Up to so many.")
@click.option("--best-of", multiple=True, type=int, default=Grid.best_of, show_default=True)
@click.option("--out", type=_FOLDER, default=RESULTS, show_default="benchmarks/results")
def search(
    model: str,
    data: Path,
    images: int,
    proposals: tuple[int, ...],
    sweeps: int,
    best_of: tuple[int, ...],
    out: Path,
) -> None:
    """Measure what better codes cost: log p and PSNR against decodes and processor time."""
    config = open_model(model).config
    items = open_data(data, config, limit=images)

    def tell(done: int) -> None:
        click.echo(f"{done} of {len(items)}", err=True)

    found = measure_search(model, items, Grid(proposals, sweeps, best_of), on_progress=tell)
    content = {
        "command": command_line(),
        "machine": describe_machine(),
        "data": items.description,
        "items": len(items),
        "weights_sha256": config.weights_sha256,
    }
    for path in write_search(out, config.name, found, content):
        click.echo(path)


@click.command("search-training")
@click.option("--checkpoint", type=_FOLDER, default=Path("runs/cifar10-warm/checkpoint"), show_default=True)
@click.option("--dataset", type=click.Choice(["cifar10", "mnist"]), default="cifar10", show_default=True)
@click.option("--data", type=_FOLDER, help="The datasets; else $DAPS_DATA, ../shared/data.")
@click.option("--seconds", default=360.0, show_default=True, help="Of processor time for each way.")
@click.option("--points", default=4, show_default=True, help="Measurements after the first.")
@click.option("--images", default=500, show_default=True, help="Test images that are measured.")
@click.option("--batch", "batch_size", default=16, show_default=True, help="Training images a step.")
@click.option("--way", "ways", multiple=True, help="Only these, added to what the file holds of others.")
@click.option("--out", type=_FOLDER, default=RESULTS, show_default="benchmarks/results")
def search_training(
    checkpoint: Path,
    dataset: DatasetKind,
    data: Path | None,
    seconds: float,
    points: int,
    images: int,
    batch_size: int,
    ways: tuple[str, ...],
    out: Path,
) -> None:
    """Compare ways to go on training from a checkpoint, with search and without."""
    from benchmarks.studies.search_training import WAYS, watch_training

    unknown = [way for way in ways if way not in WAYS]
    if unknown:
        raise InputError(f"--way {unknown[0]!r} is not known; known are {', '.join(map(repr, WAYS))}")
    name = f"search_training_{dataset}"
    earlier = out / f"{name}.json"
    before = json.loads(earlier.read_text(encoding="utf-8")) if ways and earlier.exists() else {}
    protocol = {"checkpoint": str(checkpoint), "images": images, "batch_size": batch_size}
    if before and any(before[key] != value for key, value in protocol.items()):
        raise InputError(f"{earlier}: holds measurements with other options; give another folder with --out")
    curves = before.get("curves", {})
    items = load_dataset(dataset, data_folder(data))
    for way in ways or WAYS:
        click.echo(way, err=True)
        curves[way] = watch_training(
            WAYS[way], checkpoint, items, dataset, seconds=seconds, points=points, images=images, batch_size=batch_size
        )
    content = {
        "commands": [*before.get("commands", []), command_line()],
        "machine": describe_machine(),
        **protocol,
        "curves": {way: curves[way] for way in WAYS if way in curves},
    }
    for path in write_search_training(out, name, content):
        click.echo(path)


@click.command()
@click.option("--model", required=True, help="Built-in name or model folder.")
@click.option("--data", required=True, type=_FOLDER, help="mnist.npz or cifar10.")
@click.option("--train-images", default=10_000, show_default=True, help="Training images whose codes are learned.")
@click.option("--images", default=1000, show_default=True, help="Test images whose codes are measured.")
@click.option("--steps", default=1000, show_default=True, help="Of each prior, of 32 images.")
@click.option("--log-q-weight", multiple=True, type=float, default=(1.0, 4.0), show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=_FOLDER, default=RESULTS, show_default="benchmarks/results")
def prior(
    model: str,
    data: Path,
    train_images: int,
    images: int,
    steps: int,
    log_q_weight: tuple[float, ...],
    seed: int,
    out: Path,
) -> None:
    """Measure how many bits greedy and searched codes need under a prior that is trained on them."""
    from benchmarks.studies.prior import measure_prior

    tokenizer = Tokenizer.from_pretrained(model)
    train = open_data(data, tokenizer.config, split="train", limit=train_images)
    test = open_data(data, tokenizer.config, limit=images)
    rows = measure_prior(
        tokenizer,
        train.read(np.arange(len(train))),
        test.read(np.arange(len(test))),
        log_q_weights=log_q_weight,
        steps=steps,
        seed=seed,
    )
    content = {
        "command": command_line(),
        "machine": describe_machine(),
        "train": f"{len(train)} items of {train.description}",
        "data": f"{len(test)} items of {test.description}",
        "steps": steps,
        "bits_per_item": tokenizer.bits_per_item,
        "weights_sha256": tokenizer.config.weights_sha256,
        "results": rows,
    }
    for path in write_prior(out, tokenizer.config.name, content):
        click.echo(path)
