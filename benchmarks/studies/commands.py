"""The commands of the studies, from ``task`` to ``table``; those of motion are in ``motion_commands.py``.

Each imports what it measures with when it is called.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from benchmarks.inputs import ROOT
from benchmarks.reports import RESULTS, STUDIES, command_line, show, with_command, write_report
from daps_tokenizer import Tokenizer
from daps_tokenizer.cli.common import progress_bar
from daps_tokenizer.data.datasets import open_data
from daps_tokenizer.errors import ConfigError, InputError
from daps_tokenizer.evaluation.timing import describe_machine
from daps_tokenizer.hub import open_model

if TYPE_CHECKING:
    from benchmarks.studies.probes import Features, Probe
    from train.data import DatasetKind

_FOLDER = click.Path(path_type=Path)
_MODEL_HELP = "Built-in name, model folder or checkpoint, and what the report calls it; repeatable."


@click.command()
@click.option("--model", "models", multiple=True, required=True, metavar="[NAME=]MODEL", help=_MODEL_HELP)
@click.option("--dataset", type=click.Choice(["mnist", "cifar10", "motion"]), required=True)
@click.option("--data", type=click.Path(path_type=Path), help="The datasets; else $DAPS_DATA, ../shared/data.")
@click.option("--labels", multiple=True, type=click.IntRange(min=10), default=(10, 100, 1000, 10000, 10**9))
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Choices of labels.")
@click.option("--features", multiple=True, type=click.Choice(["one-hot", "embedded"]), help="Default: both.")
@click.option("--probe", "probes", multiple=True, type=click.Choice(["linear", "mlp"]), help="Default: both.")
@click.option("--train-items", type=click.IntRange(min=10), help="Encode and learn from the first N only.")
@click.option("--test-items", type=click.IntRange(min=10), help="Test on the first N only.")
@click.option("--search", type=click.IntRange(min=1), help="Probe codes found by local search with N proposals too.")
@click.option("--max-seconds", type=float, help="Begin no model after this long; run again to resume.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/task"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=STUDIES, show_default="benchmarks/results/studies")
@click.option("--name", help="Name of the report; default: task_DATASET.")
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
    show(write_task(out, name or f"task_{dataset}", dataset, rows, describe_machine(), [command_line()]))


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
@click.option("--max-seconds", type=float, help="Stop training after this long; run again to resume.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/reward"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=STUDIES, show_default="benchmarks/results/studies")
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
    if rows:
        show(write_rewards(out, experiment, rows, describe_machine(), command_line()))


@click.command()
@click.option(
    "--experiment",
    "config",
    type=_FOLDER,
    default=ROOT / "train" / "configs" / "cifar10_counterfactual.yaml",
    show_default="train/configs/cifar10_counterfactual.yaml",
    help="Gives the model, the dataset and the precision.",
)
@click.option("--checkpoint", type=_FOLDER, help="Weights to start from; default: the experiment's start_from.")
@click.option("--data", type=_FOLDER, help="The datasets; else $DAPS_DATA, ../shared/data.")
@click.option("--seconds", default=1800.0, show_default=True, help="Processor time for each way.")
@click.option("--points", default=6, show_default=True, help="Measurements after the first.")
@click.option("--items", default=1000, show_default=True, help="Held-out test images, the last ones.")
@click.option("--way", "ways", multiple=True, help="Only this way; repeatable.")
@click.option("--seed", "seeds", multiple=True, type=int, default=(0,), show_default=True)
@click.option("--name", help="Name of the report; default: controls_DATASET.")
@click.option("--out", type=_FOLDER, default=STUDIES, show_default="benchmarks/results/studies")
def controls(
    config: Path,
    checkpoint: Path | None,
    data: Path | None,
    seconds: float,
    points: int,
    items: int,
    ways: tuple[str, ...],
    seeds: tuple[int, ...],
    name: str | None,
    out: Path,
) -> None:
    """Train on from one checkpoint in several ways, for equal time; runs add to the report."""
    import torch

    from benchmarks.studies.controls import WAYS, Point, plot, summarise, train_on, write_text
    from train.experiment import load_experiment, open_dataset

    experiment = load_experiment(config)
    known = WAYS.get(experiment.dataset)
    if known is None:
        raise InputError(f"{config}: its dataset is {experiment.dataset}; there are ways for {', '.join(WAYS)}")
    unknown = [way for way in ways if way not in known]
    if unknown:
        raise InputError(f"--way {unknown[0]!r} is unknown; the ways are {', '.join(map(repr, known))}")
    start = checkpoint or experiment.start_from
    if start is None:
        raise InputError(f"{config}: starts from random weights; --checkpoint says what to start from")
    name = name or f"controls_{experiment.dataset}"
    earlier = out / f"{name}.json"
    content: dict[str, Any] = json.loads(earlier.read_text(encoding="utf-8")) if earlier.exists() else {"runs": []}
    protocol: dict[str, Any] = {"dataset": experiment.dataset, "precision": experiment.precision}
    protocol |= {"seconds": seconds, "points": points, "items": items}
    if content["runs"] and any(content.get(key) != value for key, value in protocol.items()):
        raise InputError(f"{earlier}: holds runs with other options; choose another --name")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    dataset = open_dataset(experiment, data)
    held_out = dataset.test.read(np.arange(len(dataset.test) - items, len(dataset.test)), seed=(0,))
    for seed in seeds:
        for way in ways or known:
            key = {"start": str(start), "way": way, "seed": seed}

            def tell(point: Point, way: str = way, seed: int = seed) -> None:
                means = {kind: round(float(values.mean()), 1) for kind, values in point.values.items()}
                click.echo(f"{way}, seed {seed}: {point.seconds:.0f} s, {point.steps} steps, {means}", err=True)

            found = train_on(
                known[way], Path(start), experiment, dataset, held_out,
                seconds=seconds, points=points, seed=seed, on_point=tell,
            )  # fmt: skip
            others = [run for run in content["runs"] if any(run[part] != value for part, value in key.items())]
            content = {
                "commands": list(dict.fromkeys([*content.get("commands", []), command_line()])),
                **protocol,
                "runs": [*others, key | summarise(known[way], found) | {"machine": describe_machine()}],
            }
            title = f"Ways to train on, {experiment.dataset}"
            write_report(out, name, content, write_text(title, content), plot(content))
    click.echo(earlier)


@click.command()
@click.option("--model", required=True, help="Built-in name or model folder.")
@click.option("--data", required=True, type=_FOLDER, help="mnist.npz or cifar10.")
@click.option("--train-images", default=10_000, show_default=True, help="Training images whose codes are learned.")
@click.option("--images", default=1000, show_default=True, help="Test images whose codes are measured.")
@click.option("--steps", default=1000, show_default=True, help="Steps of each prior, of 32 images.")
@click.option("--log-q-weight", multiple=True, type=float, default=(1.0, 4.0), show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=_FOLDER, default=STUDIES, show_default="benchmarks/results/studies")
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
    from benchmarks.studies.prior import measure_prior, write_prior

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
    content = with_command(
        train=f"{len(train)} items of {train.description}",
        data=f"{len(test)} items of {test.description}",
        steps=steps,
        bits_per_item=tokenizer.bits_per_item,
        weights_sha256=tokenizer.config.weights_sha256,
        results=rows,
    )
    show(write_prior(out, tokenizer.config.name, content))


@click.command()
@click.option("--model", required=True, help="Built-in name or model folder.")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="As for daps-tokenize evaluate.")
@click.option("--images", metavar="N or SLICE", help="The first N images, or for example 0:250 or ::4.")
@click.option("--seed", default=0, show_default=True, help="The seed of the bootstrap.")
@click.option("--out", type=click.Path(path_type=Path), default=STUDIES, show_default="benchmarks/results/studies")
def seams(model: str, data: Path, images: str | None, seed: int, out: Path) -> None:
    """Measure how visible the borders of tiles are."""
    from benchmarks.quality.measure import choose_images
    from benchmarks.studies.seams import measure_seams, write_seams

    tokenizer = Tokenizer.from_pretrained(model)
    opened = open_data(data, tokenizer.config)
    chosen = choose_images(images, len(opened))
    with progress_bar(len(chosen)) as show_done:
        results = measure_seams(tokenizer, opened, chosen, seed=seed, on_progress=show_done)
    content = with_command(
        data=opened.description,
        items=len(chosen),
        seed=seed,
        weights_sha256=tokenizer.config.weights_sha256,
        results=results,
    )
    show(write_seams(out, Path(model).name, content))


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="The datasets; else $DAPS_DATA, ../shared/data.")
@click.option("--items", type=click.IntRange(min=1), help="How many test items, spread evenly; default: all.")
@click.option("--seed", default=0, show_default=True)
@click.option("--name", default="compare", show_default=True, help="Name of the report.")
@click.option("--out", type=click.Path(path_type=Path), default=STUDIES, show_default="benchmarks/results/studies")
def compare(
    checkpoints: tuple[Path, ...], data: Path | None, items: int | None, seed: int, name: str, out: Path
) -> None:
    """Measure CHECKPOINTS of several methods on the same test items."""
    from benchmarks.studies.compare import compare_checkpoints, write_comparison
    from train.data import data_folder

    with progress_bar(len(checkpoints)) as show_done:
        rows = compare_checkpoints(checkpoints, data_folder(data), limit=items, seed=seed, on_progress=show_done)
    content = with_command(seed=seed, rows=rows)
    show(write_comparison(out, name, content))


@click.command()
@click.option("--dataset", default="mnist", show_default=True, help="The table is train/configs/table_DATASET.yaml.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps of each row; default: the table's.")
@click.option("--batch", type=click.IntRange(min=1), help="Items in a batch; default: the table's.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1), help="Cells of each row.")
@click.option("--methods", help="Rows to run, separated by commas; default: all.")
@click.option("--ablation", help="Variants of rows in place of the methods, by their name in the table's YAML.")
@click.option("--data", type=click.Path(path_type=Path), help="The datasets; else $DAPS_DATA, ../shared/data.")
@click.option("--runs", type=click.Path(path_type=Path), help="Folder of the cells; default: runs/table-...")
@click.option("--out", type=click.Path(path_type=Path), default=STUDIES, show_default="benchmarks/results/studies")
@click.option("--max-seconds", default=math.inf, help="Stop after about this long; run again to resume.")
@click.option("--config", type=click.Path(path_type=Path), help="Another table's YAML file.")
def table(
    dataset: str,
    steps: int | None,
    batch: int | None,
    seeds: int,
    methods: str | None,
    ablation: str | None,
    data: Path | None,
    runs: Path | None,
    out: Path,
    max_seconds: float,
    config: Path | None,
) -> None:
    """Train and evaluate every method with equal steps and batch, and write the table of what is finished."""
    from benchmarks.studies.table import load_table, run_cell
    from benchmarks.studies.table_report import write_table
    from train.data import data_folder, load_dataset

    started = time.monotonic()
    settings = load_table(config or ROOT / "train" / "configs" / f"table_{dataset}.yaml")
    settings = dataclasses.replace(settings, steps=steps or settings.steps, batch_size=batch or settings.batch_size)
    rows = settings.table_rows(ablation)
    chosen = methods.split(",") if methods else list(rows)
    for name in chosen:
        if name not in rows:
            raise ConfigError(f"no row {name!r} in this table; there are {', '.join(rows)}")
    suffix = f"_{ablation}" if ablation else ""
    folder = runs or Path("runs") / f"table-{dataset}{suffix}-{settings.steps}x{settings.batch_size}"
    items = load_dataset(settings.dataset, data_folder(data), input_shape=settings.model.input_shape)
    cells: dict[tuple[str, int], dict[str, Any]] = {}
    for seed, name in ((seed, name) for seed in range(seeds) for name in chosen):
        left = max_seconds - (time.monotonic() - started)
        cell = run_cell(settings, name, rows[name], seed, items, folder, max_seconds=left) if left > 0 else None
        if cell is None:
            click.echo(f"{name}, seed {seed}: not finished; run the same command to resume it", err=True)
            break
        cells[name, seed] = cell
        click.echo(f"{name}, seed {seed}: log p {cell['evaluation']['sampled_log_p']:.1f}")
    command = f"python -m benchmarks table --dataset {dataset} --steps {settings.steps} --batch {settings.batch_size}"
    command += f" --seeds {seeds}" + (f" --ablation {ablation}" if ablation else "")
    if cells:
        finished = [cells[name, seed] for name in chosen for seed in range(seeds) if (name, seed) in cells]
        paper = {name: rows[name].paper for name in chosen}
        name = f"table_{dataset}{suffix}"
        show(write_table(out, name, finished, beta=settings.beta, paper=paper, command=command))


@click.command()
@click.option("--model", "models", multiple=True, required=True, help="Built-in name or model folder; repeatable.")
@click.option("--data", required=True, type=_FOLDER, help="As for daps-tokenize evaluate.")
@click.option("--images", default=500, show_default=True, help="How many items, the first ones.")
@click.option("--seed", default=0, show_default=True, help="The seed of the samples.")
@click.option("--out", type=_FOLDER, default=RESULTS, show_default="benchmarks/results")
def autoregression(models: tuple[str, ...], data: Path, images: int, seed: int, out: Path) -> None:
    """Measure how much of log q(z|x) comes from previous codes, and how many passes drawing takes."""
    from benchmarks.studies.autoregression import measure_autoregression, write_autoregression
    from benchmarks.studies.probes import load_autoencoder

    rows, description = [], ""
    for name in models:
        folder = open_model(name)
        opened = open_data(data, folder.config, limit=images)
        description = f"{len(opened)} items of {opened.description}"
        found = measure_autoregression(load_autoencoder(name), opened.read(np.arange(len(opened))), seed=seed)
        rows.append({"model": folder.config.name, "weights_sha256": folder.config.weights_sha256, **found._asdict()})
    content = with_command(data=description, rows=rows)
    show(write_autoregression(out, content))


@click.command()
@click.argument("name", metavar="GENERATOR")
@click.option("--items", default=1000, show_default=True, type=click.IntRange(min=10), help="Images a row.")
@click.option("--steps", multiple=True, type=click.IntRange(min=1), default=(10, 20), show_default=True)
@click.option(
    "--noise", "noises", multiple=True, type=click.FloatRange(min=0), default=(0.0, 1.0, 4.0), show_default=True
)
@click.option("--epochs", type=click.IntRange(min=1), help="Of the classifier; default: 2 on MNIST, 8 on CIFAR-10.")
@click.option("--tokenizer", "tokenizer_name", help="The tokenizer, if it is not built in.")
@click.option("--data", type=_FOLDER, help="The datasets; else $DAPS_DATA, ../shared/data.")
@click.option("--cache", type=_FOLDER, default=Path("runs"), show_default=True, help="Of classifiers.")
@click.option("--out", type=_FOLDER, default=STUDIES, show_default="benchmarks/results/studies")
def masked(
    name: str,
    items: int,
    steps: tuple[int, ...],
    noises: tuple[float, ...],
    epochs: int | None,
    tokenizer_name: str | None,
    data: Path | None,
    cache: Path,
    out: Path,
) -> None:
    """Draw from a flow by confidence (MaskGIT) and by Euler steps, and compare the images."""
    import torch

    from benchmarks.generate.command import Judge
    from benchmarks.studies.masked import measure_masked, write_masked
    from daps_tokenizer.hub import open_generator
    from daps_tokenizer.model.autoencoder import load_weights
    from daps_tokenizer.model.generators import FlowTransformer, build_generator
    from train.data import data_folder

    folder = open_generator(name)
    network = build_generator(folder.config).eval()
    if not isinstance(network, FlowTransformer):
        raise InputError(f"{name}: is {folder.config.kind}; only a flow draws codes in any order")
    if not folder.config.labels:
        raise InputError(f"{name}: has no labels, by which the classifier would judge what is drawn")
    load_weights(network, folder.path / "model.safetensors")
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_pretrained(tokenizer_name or folder.config.tokenizer.name, num_threads=1)
    judge = Judge(tokenizer, data_folder(data), cache, items, epochs)
    rows = measure_masked(judge, tokenizer, network, items, steps, noises)
    content = {"generator": folder.config.name, "data": judge.name, "classifier_accuracy": judge.accuracy}
    show(write_masked(out, with_command(**content, items=items, rows=rows)))


@click.command()
@click.option("--model", required=True, help="Built-in name or model folder, autoregressive.")
@click.option("--data", required=True, type=_FOLDER, help="As for daps-tokenize evaluate.")
@click.option("--images", default=32, show_default=True, help="How many items, evenly spread.")
@click.option("--batch", "batches", multiple=True, type=click.IntRange(1), default=(1, 8), show_default="1 and 8")
@click.option("--temperature", default=0.0, show_default=True)
@click.option("--out", type=_FOLDER, default=RESULTS, show_default="benchmarks/results")
def spans(model: str, data: Path, images: int, batches: tuple[int, ...], temperature: float, out: Path) -> None:
    """Time encoding by spans of each length, and by the one that is chosen."""
    from benchmarks.studies.probes import load_autoencoder
    from benchmarks.studies.spans import measure_spans, write_spans

    config = open_model(model).config
    if config.recognition.kind != "autoregressive":
        raise click.ClickException(f"{model}: its codes do not depend on each other; there are no spans to choose from")
    opened = open_data(data, config)
    if 2 * max(batches) > min(images, len(opened)):
        raise click.ClickException(f"--images must be twice the largest batch at least, of the {len(opened)} there are")
    chosen = np.linspace(0, len(opened), images, endpoint=False).astype(int)
    found = measure_spans(load_autoencoder(model), opened.read(chosen), batches, temperature)
    described = f"{images} items of {opened.description}"
    show(write_spans(out, with_command(model=config.name, data=described, temperature=temperature, **found)))
