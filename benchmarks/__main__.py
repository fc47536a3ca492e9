"""``python -m benchmarks``: measure latency and quality."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click
import numpy as np

from benchmarks.latency import measure_all
from benchmarks.quality import measure_quality
from benchmarks.report import write_latency, write_quality
from daps_tokenizer import Tokenizer
from daps_tokenizer.cli_common import OneLineErrors
from daps_tokenizer.hub import built_in_models
from daps_tokenizer.measure import describe_machine
from train.data import DatasetKind, data_folder, load_dataset

RESULTS = Path(__file__).parent / "results"


@click.group(cls=OneLineErrors, help=__doc__)
def main() -> None:
    """Measure."""


@main.command()
@click.option("--model", "models", multiple=True, help="Model to measure; all built-in ones without it.")
@click.option("--backend", "backends", multiple=True, default=("onnx", "torch"), show_default=True)
@click.option("--threads", multiple=True, type=int, default=(1, 2), show_default=True)
@click.option("--batch", "batches", multiple=True, type=int, default=(1, 8, 32), show_default=True)
@click.option("--seconds", default=3.0, show_default=True, help="Time spent on each measurement.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default="benchmarks/results")
def latency(
    models: tuple[str, ...],
    backends: tuple[str, ...],
    threads: tuple[int, ...],
    batches: tuple[int, ...],
    seconds: float,
    out: Path,
) -> None:
    """Time encode and decode: every model, backend, batch size and number of threads."""
    rows = measure_all(list(models or built_in_models()), list(backends), list(threads), list(batches), seconds=seconds)
    for path in write_latency(out, rows, describe_machine(), _command()):
        click.echo(path)


@main.command()
@click.option("--model", required=True, help="Built-in name or model folder.")
@click.option("--dataset", required=True, type=click.Choice(["mnist", "cifar10"]))
@click.option("--data", type=click.Path(path_type=Path), help="The datasets; else $DAPS_DATA, ../shared/data.")
@click.option("--images", type=int, help="Only the first so many test images.")
@click.option("--best-of", multiple=True, type=int, default=(8,), show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default="benchmarks/results")
def quality(
    model: str,
    dataset: DatasetKind,
    data: Path | None,
    images: int | None,
    best_of: tuple[int, ...],
    seed: int,
    out: Path,
) -> None:
    """Measure log p, PSNR and code usage on a test set."""
    tokenizer = Tokenizer.from_pretrained(model)
    test = load_dataset(dataset, data_folder(data)).test
    items = test.read(np.arange(len(test))[:images], seed=(seed,))
    content = {
        "command": _command(),
        "machine": describe_machine(),
        "dataset": dataset,
        "items": len(items),
        "seed": seed,
        "weights_sha256": tokenizer.config.files["model.safetensors"],
        "results": measure_quality(tokenizer, items, best_of=best_of, seed=seed),
    }
    for path in write_quality(out, tokenizer.config.name, content):
        click.echo(path)


def _command() -> str:
    return shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])


if __name__ == "__main__":
    main()
