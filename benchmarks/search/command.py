"""``python -m benchmarks search``."""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.reports import RESULTS, show, with_command
from benchmarks.search.measure import Grid, measure_search
from benchmarks.search.report import write_search
from daps_tokenizer.data.datasets import open_data
from daps_tokenizer.hub import open_model

_FOLDER = click.Path(path_type=Path)


@click.command()
@click.option("--model", required=True, help="Built-in name or model folder.")
@click.option("--data", required=True, type=_FOLDER, help="mnist.npz, cifar10, a folder or tar file of images.")
@click.option("--images", default=1000, show_default=True, help="How many items, the first ones.")
@click.option("--proposals", multiple=True, type=int, default=Grid.proposals, show_default=True)
@click.option("--sweeps", default=Grid.sweeps, show_default=True, help="The largest number of sweeps.")
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
    content = with_command(data=items.description, items=len(items), weights_sha256=config.weights_sha256)
    show(write_search(out, config.name, found, content))
