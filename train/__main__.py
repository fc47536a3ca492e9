"""``python -m train``: train tokenizers."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from daps_tokenizer.cli.common import OneLineErrors
from daps_tokenizer.config.checks import require_choice
from daps_tokenizer.config.robot import FEATURE_GROUPS, FeatureGroup
from daps_tokenizer.errors import ConfigError
from daps_tokenizer.files import write_bytes_atomically
from daps_tokenizer.motion.dataset import VALIDATION_CLIPS

if TYPE_CHECKING:
    from train.data import Dataset
    from train.experiment import Experiment
    from train.generators.experiment import AnyExperiment

Run = TypeVar("Run", bound="AnyExperiment")


@click.group(cls=OneLineErrors)
def main() -> None:
    """Train tokenizers."""


_SET = "Replace a setting of the config: steps=100 or optimiser.learning_rate=1e-3, for example; repeatable."


_GROUPS = ", ".join(FEATURE_GROUPS)
_WEIGHT = (
    "Count an error of features by this much more: their standard deviation is divided by it; a pattern as "
    "root_velocity_* or a group as joints; the last that fits counts; repeatable."
)
_TRACK = "A point: NAME=BODY, NAME=SITE or NAME=BODY@x,y,z with a place in the body's frame; repeatable."


def _run_options(command: Callable[..., None]) -> Callable[..., None]:
    """What ``fit`` and ``generator`` have in common."""
    options = (
        click.argument("config", type=click.Path(path_type=Path)),
        click.option("--run", "run_folder", type=click.Path(path_type=Path), help="The folder; default: runs/NAME."),
        click.option("--data", type=click.Path(path_type=Path), help="The datasets; else $DAPS_DATA, ../shared/data."),
        click.option("--start-from", type=click.Path(path_type=Path), help="A checkpoint to start from."),
        click.option("--set", "changes", metavar="KEY=VALUE", multiple=True, help=_SET),
        click.option("--max-seconds", type=float, help="Stop, evaluate and save after this long; run again to resume."),
        click.option("--quiet", is_flag=True, help="No progress bar, no TensorBoard, no dashboard.png."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _limits(given: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    """``JOINT=LOW,HIGH`` as a mapping."""
    limits = {}
    for text in given:
        name, _, values = text.partition("=")
        try:
            low, high = map(float, values.split(","))
        except ValueError:
            raise ConfigError(f"--limit {text!r}: expected JOINT=LOW,HIGH in radians") from None
        limits[name] = (low, high)
    return limits


def _weights(given: tuple[str, ...]) -> dict[str, float]:
    """``PATTERN=WEIGHT`` as a mapping."""
    weights = {}
    for text in given:
        pattern, _, value = text.partition("=")
        try:
            weights[pattern] = float(value)
        except ValueError:
            raise ConfigError(f"--weight {text!r}: expected PATTERN=WEIGHT, as root_velocity_*=3") from None
        if not weights[pattern] > 0:
            raise ConfigError(f"--weight {text!r}: a weight must be positive")
    return weights


@main.command()
@click.argument("mjcf", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The table, a JSON file.")
@click.option("--name", help="Of the robot; default: the output's name without its suffix.")
@click.option("--track", multiple=True, required=True, metavar="NAME=BODY", help=_TRACK)
@click.option("--centre", required=True, help="The tracked point that positions of others are measured from.")
@click.option("--feet", nargs=2, required=True, help="Two tracked points, the left and the right.")
@click.option(
    "--bone", "bones", multiple=True, metavar="A-B", help="Two tracked points that drawings join; repeatable."
)
@click.option("--head", default="", help="The tracked point that drawings mark.")
@click.option("--without", multiple=True, metavar="GROUP", help=f"Features to leave out: {_GROUPS}; repeatable.")
@click.option("--limit", "limits", multiple=True, metavar="JOINT=LOW,HIGH", help="In place of the MJCF's; repeatable.")
@click.option("--force", is_flag=True, help="Overwrite the output.")
def robot(
    mjcf: Path,
    output: Path,
    name: str | None,
    limits: tuple[str, ...],
    without: tuple[str, ...],
    force: bool,
    **options: Any,
) -> None:
    """Make a robot's table from its MJCF (needs MuJoCo)."""
    from train.robot import robot_from_mjcf, write_robot

    for group in without:
        require_choice("--without", group, FeatureGroup)
    features = [group for group in FEATURE_GROUPS if group not in without]
    table = robot_from_mjcf(mjcf, name=name or output.stem, limits=_limits(limits), features=features, **options)
    write_robot(table, output, overwrite=force)
    click.echo(f"{output}: {table.name}, {len(table.joints)} joints, {len(table.sites)} tracked points")


@main.command("motion-model")
@click.argument("robot")
@click.argument("clips", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The model's config, a YAML file.")
@click.option("--name", help="Of the model; default: the output's name without its suffix.")
@click.option("--weight", "weights", multiple=True, metavar="PATTERN=WEIGHT", help=_WEIGHT)
@click.option(
    "--hold-out", multiple=True, default=VALIDATION_CLIPS, help="A clip to leave out; default: LAFAN1's four."
)
@click.option("--force", is_flag=True, help="Overwrite the output.")
def motion_model(
    robot: str,
    clips: Path,
    output: Path,
    name: str | None,
    weights: tuple[str, ...],
    hold_out: tuple[str, ...],
    force: bool,
) -> None:
    """Write the config of a motion tokenizer for ROBOT, a built-in name or a table, from the statistics of CLIPS."""
    from daps_tokenizer.motion.robots import load_robot
    from train.motion import load_clips, model_yaml

    table = load_robot(robot)
    training = [clip for key, clip in load_clips(clips, table).items() if key not in hold_out]
    text = model_yaml(table, training, name=name or output.stem, weights=_weights(weights))
    write_bytes_atomically(output, text.encode(), overwrite=force)
    click.echo(f"{output}: {len(training)} clips of the {table.name}")


@main.command()
@_run_options
@click.option("--cuda-graph", is_flag=True, help="Every step is one CUDA graph: counterfactual DAPS on one GPU.")
def fit(config: Path, **options: Any) -> None:
    """Run the experiment in CONFIG, from its last checkpoint if there is one."""
    from train.experiment import load_experiment

    _run(config, load_experiment, _open_tokenizer, **options)


@main.command()
@_run_options
def generator(config: Path, **options: Any) -> None:
    """Train the generator in CONFIG on codes, from its last checkpoint if there is one."""
    from train.generators.experiment import load_generator, open_generator

    _run(config, load_generator, open_generator, **options)


def _open_tokenizer(experiment: Experiment, data: Path | None) -> tuple[Experiment, Dataset]:
    from train.experiment import open_dataset

    return experiment, open_dataset(experiment, data)


def _run(
    config: Path,
    load: Callable[[Path, tuple[str, ...]], Run],
    open_data: Callable[[Run, Path | None], tuple[Run, Dataset]],
    *,
    data: Path | None,
    changes: tuple[str, ...],
    max_seconds: float | None,
    quiet: bool,
    run_folder: Path | None = None,
    start_from: Path | None = None,
    cuda_graph: bool = False,
) -> int:
    """Train one model; returns the step that it reached."""
    from train.loop import fit as run_experiment
    from train.processes import describe_processes, join_processes

    experiment = load(config, changes)
    accelerator = join_processes(experiment.precision)
    experiment, dataset = open_data(experiment, data)
    if start_from is not None:
        experiment = dataclasses.replace(experiment, start_from=str(start_from))
    folder = run_folder or Path("runs") / experiment.name
    if accelerator.is_main_process:
        click.echo(f"{experiment.name}: {describe_processes(accelerator)}", err=True)
    record = run_experiment(
        experiment,
        dataset,
        folder,
        max_seconds=max_seconds,
        show_progress=not quiet,
        draw_pictures=not quiet,
        cuda_graph=cuda_graph,
        accelerator=accelerator,
    )
    if "validation" in record:  # only the main process evaluates
        click.echo(json.dumps({"run": str(folder), "steps": record["steps"], **record["validation"]}))
    steps = int(record["steps"])
    if steps < experiment.steps and accelerator.is_main_process:
        message = f"{experiment.name} is at step {steps} of {experiment.steps}; run the same command again to resume"
        click.echo(message, err=True)
    return steps


@main.command()
@click.argument("configs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="The datasets; else $DAPS_DATA, ../shared/data.")
@click.option("--set", "changes", metavar="KEY=VALUE", multiple=True, help=_SET + " For all stages.")
@click.option("--max-seconds", type=float, help="For all stages together; run again to resume.")
@click.option("--quiet", is_flag=True, help="No progress bar, no TensorBoard, no dashboard.png.")
def chain(
    configs: tuple[Path, ...], data: Path | None, changes: tuple[str, ...], max_seconds: float | None, quiet: bool
) -> None:
    """Run the experiments in CONFIGS one after the other, each from its last checkpoint; finished ones are skipped.

    Each stage names the checkpoint that it starts from by its own start_from.
    """
    from train.experiment import load_experiment

    stages = [load_experiment(config, changes) for config in configs]  # all are checked before the first one runs
    deadline = None if max_seconds is None else time.monotonic() + max_seconds
    for config, stage in zip(configs, stages, strict=True):
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            click.echo(f"out of time before {stage.name}; run the same command again to resume")
            return
        ended = _run(
            config, load_experiment, _open_tokenizer, data=data, changes=changes, max_seconds=left, quiet=quiet
        )
        if ended < stage.steps:
            return


@main.command()
@click.argument("data")
@click.option("--size", required=True, type=click.IntRange(min=8), help="Pixels of the model's square images.")
@click.option("--bits", required=True, type=click.IntRange(min=1), help="Bits of an image's codes.")
@click.option("--name", help="The model's name; default: made from DATA and the size.")
@click.option("--steps", default=10_000, show_default=True, type=click.IntRange(min=1), help="The steps of each stage.")
@click.option("--out", type=click.Path(path_type=Path), help="The folder to write; default: the model's name.")
def init(data: str, size: int, bits: int, name: str | None, steps: int, out: Path | None) -> None:
    """Write the experiments that make a tokenizer of the images in DATA: a folder, tar files, or name:split on the Hub.

    Two stages, a VQ-VAE and DAPS, each a YAML file to read and to change (docs/training.md).
    """
    from train.init import write_experiments

    chosen = name or f"{re.sub(r'[^a-z0-9]+', '-', Path(data).stem.lower()).strip('-') or 'images'}-{size}"
    folder = out or Path(chosen)
    for path in write_experiments(data, size, bits, folder, name=chosen, steps=steps):
        click.echo(path)
    click.echo(f"next: python -m train chain {folder}/vqvae.yaml {folder}/daps.yaml", err=True)


@main.command()
@click.argument("data")
@click.option("--channels", type=click.Choice(["1", "3"]), default="3", show_default=True)
@click.option("--items", default=1000, show_default=True, type=click.IntRange(min=1), help="How many images at most.")
def statistics(data: str, channels: str, items: int) -> None:
    """Print the mean and standard deviation of the pixels in DATA, as a model's YAML wants them."""
    from train.statistics import open_images, pixel_statistics

    mean, std = pixel_statistics(open_images(data)[2], channels=int(channels), limit=items)
    click.echo(f"normalisation: {{mean: {mean}, std: {std}}}")


@main.command("data")
@click.argument("name", type=click.Choice(["mnist", "cifar10", "motion"]))
@click.option("--data", type=click.Path(path_type=Path), help="Folder to write to; else $DAPS_DATA, ../shared/data.")
@click.option("--source", type=click.Path(exists=True, path_type=Path), help="What is downloaded already.")
def obtain_data(name: str, data: Path | None, source: Path | None) -> None:
    """Download MNIST, CIFAR-10 or LAFAN1's motion of the H1, and write it as training reads it."""
    from train.data import default_folder
    from train.obtain import obtain

    click.echo(obtain(name, data or default_folder(), source))


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("size", type=click.IntRange(min=1))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--name", help="The resized model's name; default: the checkpoint's.")
def resize(checkpoint: Path, size: int, out: Path, name: str | None) -> None:
    """Write CHECKPOINT as one for images of SIZE×SIZE pixels to OUT, to be evaluated and exported.

    Its codes must be drawn in windows: then the same weights serve images of any number of windows.
    """
    from train.checkpoint import resize_checkpoint

    config = resize_checkpoint(checkpoint, size, out, name=name)
    click.echo(f"{out}  {config.name}, {size}×{size} pixels, {config.num_tokens} codes")


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="The datasets; else $DAPS_DATA, ../shared/data.")
@click.option("--seed", default=0, show_default=True, help="The seed of the sampled codes.")
def evaluate(checkpoint: Path, data: Path | None, seed: int) -> None:
    """Measure CHECKPOINT on the whole test set, as `daps-tokenize evaluate` does, and add that to its training.json."""
    from train.evaluate import evaluate_checkpoint

    click.echo(json.dumps(evaluate_checkpoint(checkpoint, data, seed=seed)))


if __name__ == "__main__":
    main()
