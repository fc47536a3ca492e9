"""``python -m train``: train tokenizers."""

from __future__ import annotations

import json
from pathlib import Path

import click

from daps_tokenizer.errors import DapsError


@click.group(help=__doc__)
def main() -> None:
    """Train tokenizers."""


@main.command("fit")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--run", "run_folder", type=click.Path(path_type=Path), help="Run folder; runs/NAME without it.")
@click.option("--data", type=click.Path(path_type=Path), help="The datasets; else $DAPS_DATA, ../shared/data.")
@click.option("--start-from", type=click.Path(path_type=Path), help="Start from this checkpoint, not the config's.")
@click.option("--max-seconds", type=float, help="Stop, save and evaluate after this long; the same command resumes.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def fit_command(
    config: Path,
    run_folder: Path | None,
    data: Path | None,
    start_from: Path | None,
    max_seconds: float | None,
    quiet: bool,
) -> None:
    """Run the experiment in CONFIG, from its last checkpoint if there is one."""
    import dataclasses

    from train.data import data_folder, load_dataset
    from train.experiment import load_experiment
    from train.loop import fit

    try:
        experiment = load_experiment(config)
        if start_from is not None:
            experiment = dataclasses.replace(experiment, start_from=str(start_from))
        folder = run_folder or Path("runs") / experiment.name
        dataset = load_dataset(experiment.dataset, data_folder(data))
        record = fit(experiment, dataset, folder, max_seconds=max_seconds, show_progress=not quiet)
    except DapsError as error:
        raise click.UsageError(str(error)) from None
    click.echo(json.dumps({"run": str(folder), "steps": record["steps"], **record["validation"]}))


if __name__ == "__main__":
    main()
