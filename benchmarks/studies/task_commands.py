"""``python -m benchmarks task`` and ``python -m benchmarks reward``: what codes are worth for a task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from benchmarks.report import RESULTS, command_line
from daps_tokenizer.evaluation.timing import describe_machine

if TYPE_CHECKING:
    from benchmarks.studies.probes import Features, Probe
    from train.data import DatasetKind

_MODEL_HELP = "Built-in name, model folder or checkpoint, and what the report calls it; repeatable."


@click.command()
@click.option("--model", "models", multiple=True, required=True, metavar="[NAME=]MODEL", help=_MODEL_HELP)
@click.option("--dataset", type=click.Choice(["mnist", "cifar10", "motion"]), required=True)
@click.option("--data", type=click.Path(path_type=Path), help="The datasets; else $DAPS_DATA, ../shared/data.")
@click.option("--labels", multiple=True, type=click.IntRange(min=10), default=(10, 100, 1000, 10000, 10**9))
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Choices of labels.")
@click.option("--features", multiple=True, type=click.Choice(["one-hot", "embedded"]), help="Default: both.")
@click.option("--probe", "probes", multiple=True, type=click.Choice(["linear", "mlp"]), help="Default: both.")
@click.option("--train-items", type=click.IntRange(min=10), help="Encode and learn from the first so many only.")
@click.option("--test-items", type=click.IntRange(min=10), help="Test on the first so many only.")
@click.option("--search", type=click.IntRange(min=1), help="Probe codes found by local search with N proposals too.")
@click.option("--max-seconds", type=float, help="Begin no model after this long; run again to go on.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/task"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default="benchmarks/results")
@click.option("--name", help="Of the files in --out; task_DATASET without it.")
def task(
    models: tuple[str, ...],
    dataset: DatasetKind,
    data: Path | None,
    labels: tuple[int, ...],
    seeds: int,
    features: tuple[Features, ...],
    probes: tuple[Probe, ...],
    train_items: int | None,
    test_items: int | None,
    search: int | None,
    max_seconds: float | None,
    work: Path,
    out: Path,
    name: str | None,
) -> None:
    """Probe frozen codes for the class, from few labels to all; of motion, for its kind: dance, fight, run or walk."""
    from benchmarks.studies.motion_category import motion_by_category
    from benchmarks.studies.probes import FEATURES, PROBES, load_autoencoder
    from benchmarks.studies.task import run_task, write_task
    from train.data import data_folder, load_dataset

    named = dict(_named(model) for model in models)
    folder = data_folder(data)
    if dataset == "motion":
        frames, _ = load_autoencoder(next(iter(named.values()))).config.input_shape
        labelled = motion_by_category(folder / "lafan1_h1.npz", frames)
    else:
        labelled = load_dataset(dataset, folder)
    rows = run_task(
        named,
        dataset,
        labelled,
        work,
        counts=labels,
        seeds=seeds,
        features=features or FEATURES,
        probes=probes or PROBES,
        train_items=train_items,
        test_items=test_items,
        proposals=search,
        max_seconds=max_seconds,
    )
    for path in write_task(out, name or f"task_{dataset}", dataset, rows, describe_machine(), [command_line()]):
        click.echo(path)


def _named(model: str) -> tuple[str, str]:
    """``NAME=MODEL``, or a model that is called as it is."""
    name, _, rest = model.rpartition("=")
    return (name, rest) if name else (model, model)


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--reward", "rewards", multiple=True, type=click.Choice(["class_log_prob", "class_correct"]))
@click.option("--weight", "weights", multiple=True, type=float, default=(0.0, 1.0, 3.0, 10.0, 30.0, 100.0))
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--data", type=click.Path(path_type=Path), help="The datasets; else $DAPS_DATA, ../shared/data.")
@click.option("--max-seconds", type=float, help="Stop training after this long; run again to go on.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/reward"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default="benchmarks/results")
def reward(
    config: Path,
    rewards: tuple[str, ...],
    weights: tuple[float, ...],
    seeds: int,
    data: Path | None,
    max_seconds: float | None,
    work: Path,
    out: Path,
) -> None:
    """Train CONFIG with a task reward of growing weight, and measure accuracy and log p."""
    from benchmarks.studies.reward import run_rewards, write_rewards
    from train.data import data_folder, load_dataset
    from train.experiment import load_experiment

    experiment = load_experiment(config)
    cells = [
        (name, weight, seed) for seed in range(seeds) for name in rewards or ("class_log_prob",) for weight in weights
    ]
    dataset = load_dataset(experiment.dataset, data_folder(data))
    rows = run_rewards(experiment, dataset, work, cells=cells, max_seconds=max_seconds)
    for path in write_rewards(out, experiment, rows, describe_machine(), command_line()) if rows else []:
        click.echo(path)
