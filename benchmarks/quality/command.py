"""``python -m benchmarks quality``."""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.quality.report import QualityRequest, run_quality
from benchmarks.reports import RESULTS, command_line, show
from daps_tokenizer.backends.batching import physical_cores
from daps_tokenizer.evaluation.perceptual import open_perceptual


@click.command()
@click.option("--model", "models", multiple=True, required=True, help="Built-in name or model folder; repeatable.")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="As for daps-tokenize evaluate.")
@click.option("--images", metavar="N or SLICE", help="The first N images, or for example 0:250 or ::4.")
@click.option("--codecs", is_flag=True, help="Also WebP, AVIF and JPEG 2000 of as many bytes.")
@click.option("--best-of", multiple=True, type=int, default=(8,), show_default=True)
@click.option("--way", "only", multiple=True, help="Only this way to encode, for example greedy; repeatable.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--num-threads", "threads", type=click.IntRange(min=1), help="Images measured side by side; default: one a core."
)
@click.option("--lpips", is_flag=True, help="Also LPIPS; needs the extra `eval`.")
@click.option("--fid", is_flag=True, help="Also rFID; needs the extra `eval`.")
@click.option("--fid-weights", type=click.Path(path_type=Path), help="Inception's weights; else downloaded.")
@click.option("--name", help="Name of the report; default: the first model's.")
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

    Measurements are kept in --work: an interrupted run resumes, and --images 0:250, then 250:500, and
    so on, measure in pieces. The report is of the images of --images; the contact sheet stays in --work.
    """
    perceptual = open_perceptual(lpips=lpips, fid=fid, fid_weights=fid_weights)
    request = QualityRequest(models, data, images, codecs, best_of, only, seed, threads or physical_cores())
    show(run_quality(request, work, out, name=name, command=command_line(), perceptual=perceptual))
