"""``python -m benchmarks``: measure latency, quality, seams, large photographs, and what codes are worth for a task."""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.latency.commands import latency, peers
from benchmarks.latency.large import measure_large, write_large
from benchmarks.quality.measure import choose_images
from benchmarks.quality.report import QualityRequest, run_quality
from benchmarks.report import RESULTS, command_line
from benchmarks.search_commands import prior, search, search_training
from benchmarks.studies.seams import measure_seams, write_seams
from benchmarks.studies.task_commands import reward, task
from daps_tokenizer import Tokenizer
from daps_tokenizer.backends.batching import physical_cores
from daps_tokenizer.cli.common import OneLineErrors, progress_bar
from daps_tokenizer.data.datasets import open_data
from daps_tokenizer.errors import InputError
from daps_tokenizer.evaluation.timing import describe_machine


@click.group(cls=OneLineErrors, help=__doc__)
def main() -> None:
    """Measure."""


@main.command()
@click.option("--model", "models", multiple=True, required=True, help="Built-in name or model folder; repeatable.")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="As for daps-tokenize evaluate.")
@click.option("--images", metavar="N or SLICE", help="The first N images, or for example 0:250 or ::4.")
@click.option("--codecs", is_flag=True, help="Also WebP, AVIF and JPEG 2000 of as many bytes.")
@click.option("--best-of", multiple=True, type=int, default=(8,), show_default=True)
@click.option("--way", "only", multiple=True, help="Only this way to encode, for example greedy; repeatable.")
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="Images measured side by side; default: one a core.")
@click.option("--lpips", is_flag=True, help="Also LPIPS; needs daps-tokenizer[eval].")
@click.option("--fid", is_flag=True, help="Also rFID; needs daps-tokenizer[eval].")
@click.option("--fid-weights", type=click.Path(path_type=Path), help="Inception's weights; else downloaded.")
@click.option("--name", help="Of the report; default: the first model's.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/quality"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default="benchmarks/results")
def quality(
    models: tuple[str, ...],
    data: Path,
    images: str | None,
    codecs: bool,
    best_of: tuple[int, ...],
    only: tuple[str, ...],
    seed: int,
    threads: int | None,
    lpips: bool,
    fid: bool,
    fid_weights: Path | None,
    name: str | None,
    work: Path,
    out: Path,
) -> None:
    """Measure log p, PSNR, SSIM and code usage of models side by side, image by image.

    What was measured is kept in --work: a run goes on where the last one stopped, and --images 0:250, then 250:500, and
    so on, measure in pieces. The report is of the images of --images; the contact sheet stays in --work.
    """
    perceptual = None
    if lpips or fid or fid_weights is not None:
        from daps_tokenizer.evaluation.perceptual import Perceptual

        perceptual = Perceptual(lpips=lpips, fid=fid or fid_weights is not None, fid_weights=fid_weights)
    request = QualityRequest(models, data, images, codecs, best_of, only, seed, threads or physical_cores())
    for path in run_quality(request, work, out, name=name, command=command_line(), perceptual=perceptual):
        click.echo(path)


@main.command()
@click.option("--model", required=True, help="Built-in name or model folder.")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="As for daps-tokenize evaluate.")
@click.option("--images", metavar="N or SLICE", help="The first N images, or for example 0:250 or ::4.")
@click.option("--seed", default=0, show_default=True, help="Of the bootstrap.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default="benchmarks/results")
def seams(model: str, data: Path, images: str | None, seed: int, out: Path) -> None:
    """Measure what is seen of the borders of tiles."""
    tokenizer = Tokenizer.from_pretrained(model)
    opened = open_data(data, tokenizer.config)
    chosen = choose_images(images, len(opened))
    with progress_bar(len(chosen)) as show_done:
        results = measure_seams(tokenizer, opened, chosen, seed=seed, on_progress=show_done)
    content = {
        "command": command_line(),
        "machine": describe_machine(),
        "data": opened.description,
        "items": len(chosen),
        "seed": seed,
        "weights_sha256": tokenizer.config.weights_sha256,
        "results": results,
    }
    for path in write_seams(out, Path(model).name, content):
        click.echo(path)


@main.command()
@click.option("--model", required=True, help="Built-in name or model folder.")
@click.option("--size", "sizes", multiple=True, default=("64x64", "1000x667", "4000x3000"), show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default="benchmarks/results")
def large(model: str, sizes: tuple[str, ...], threads: int, out: Path) -> None:
    """Measure time and memory of photographs of any size, WIDTHxHEIGHT."""
    pairs = []
    for size in sizes:
        width, _, height = size.partition("x")
        if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
            raise InputError(f"--size must be WIDTHxHEIGHT in pixels, for example 4000x3000, not {size!r}")
        pairs.append((int(width), int(height)))
    rows = measure_large(model, pairs, threads=threads)
    content = {"command": command_line(), "machine": describe_machine(), "threads": threads}
    for path in write_large(out, Path(model).name, rows, content):
        click.echo(path)


@main.command()
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="The datasets; else $DAPS_DATA, ../shared/data.")
@click.option("--items", type=click.IntRange(min=1), help="So many test items, spread evenly; default: all.")
@click.option("--seed", default=0, show_default=True)
@click.option("--name", default="compare", show_default=True, help="Of the report.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default="benchmarks/results")
def compare(
    checkpoints: tuple[Path, ...], data: Path | None, items: int | None, seed: int, name: str, out: Path
) -> None:
    """Measure CHECKPOINTS of several methods on the same test items."""
    from benchmarks.studies.compare import compare_checkpoints, write_comparison
    from train.data import data_folder

    with progress_bar(len(checkpoints)) as show_done:
        rows = compare_checkpoints(checkpoints, data_folder(data), limit=items, seed=seed, on_progress=show_done)
    content = {"command": command_line(), "machine": describe_machine(), "seed": seed, "rows": rows}
    for path in write_comparison(out, name, content):
        click.echo(path)


for _command in (latency, peers, task, reward, prior, search, search_training):
    main.add_command(_command)


if __name__ == "__main__":
    main()
