"""``python -m benchmarks controls``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.reports import STUDIES, command_line, write_report
from benchmarks.studies.controls import WAYS, Point, plot, summarise, train_on, write_text
from daps_tokenizer.errors import InputError
from daps_tokenizer.evaluation.timing import describe_machine
from train.data import data_folder, load_dataset

_FOLDER = click.Path(path_type=Path)


@click.command()
@click.option("--checkpoint", type=_FOLDER, default=Path("daps_tokenizer/pretrained/daps-cifar10"), show_default=True)
@click.option("--data", type=_FOLDER, help="The datasets; else $DAPS_DATA, ../shared/data.")
@click.option("--seconds", default=1800.0, show_default=True, help="Of processor time for each way.")
@click.option("--points", default=6, show_default=True, help="Measurements after the first.")
@click.option("--items", default=1000, show_default=True, help="Held-out test images, the last ones.")
@click.option("--way", "ways", multiple=True, type=click.Choice(list(WAYS)), help="Only these; repeatable.")
@click.option("--seed", "seeds", multiple=True, type=int, default=(0,), show_default=True)
@click.option("--name", default="controls_cifar10", show_default=True, help="Name of the report.")
@click.option("--out", type=_FOLDER, default=STUDIES, show_default="benchmarks/results/studies")
def controls(
    checkpoint: Path,
    data: Path | None,
    seconds: float,
    points: int,
    items: int,
    ways: tuple[str, ...],
    seeds: tuple[int, ...],
    name: str,
    out: Path,
) -> None:
    """Train on from one CIFAR-10 checkpoint in several ways, for equal processor time; runs add to the report."""
    import torch

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    earlier = out / f"{name}.json"
    content: dict[str, Any] = json.loads(earlier.read_text(encoding="utf-8")) if earlier.exists() else {"runs": []}
    protocol = {"checkpoint": str(checkpoint), "seconds": seconds, "points": points, "items": items}
    if content["runs"] and any(content[key] != value for key, value in protocol.items()):
        raise InputError(f"{earlier}: holds runs with other options; choose another --name")
    dataset = load_dataset("cifar10", data_folder(data))
    held_out = dataset.test.read(np.arange(len(dataset.test) - items, len(dataset.test)), seed=(0,))
    for seed in seeds:
        for way in ways or WAYS:
            runs = [run for run in content["runs"] if (run["way"], run["seed"]) != (way, seed)]

            def tell(point: Point, way: str = way, seed: int = seed) -> None:
                means = {kind: round(float(values.mean()), 1) for kind, values in point.values.items()}
                click.echo(f"{way}, seed {seed}: {point.seconds:.0f} s, {point.steps} steps, {means}", err=True)

            found = train_on(
                WAYS[way], checkpoint, dataset, "cifar10", held_out,
                seconds=seconds, points=points, seed=seed, on_point=tell,
            )  # fmt: skip
            content = {
                "commands": [*content.get("commands", []), command_line()],
                "machine": describe_machine(),
                **protocol,
                "runs": [*runs, summarise(way, seed, found)],
            }
            content["commands"] = list(dict.fromkeys(content["commands"]))
            write_report(out, name, content, write_text("Ways to train on, CIFAR-10", content), plot(content))
    click.echo(earlier)
