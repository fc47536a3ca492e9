"""``python -m export onnx`` makes a model folder of a checkpoint; ``check`` compares it with torch; ``tensorrt`` builds
its engines; ``web`` makes a site that runs models in browsers.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from daps_tokenizer.backends.precision import PRECISIONS
from daps_tokenizer.backends.tensorrt_engines import Profile, prepare_engines
from daps_tokenizer.cli.common import OneLineErrors, print_error
from daps_tokenizer.evaluation.timing import describe_machine
from daps_tokenizer.files import write_bytes_atomically
from daps_tokenizer.hub import ModelFolder, built_in_models, open_model
from export.card import collection_card, model_card
from export.check import NEAR_EDGE, NEAR_TIE, ParityReport, compare, load_test_inputs
from export.folder import export_folder
from export.generator import export_generator
from export.web import export_site

_PAGE_ORDER = (
    "daps-photo-256",
    "daps-cifar10",
    "daps-mnist",
    "daps-h1-motion",
    "daps-g1-motion",
)  # of the page's list of models


@click.group(cls=OneLineErrors)
def main() -> None:
    """Turn checkpoints into model folders."""


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("out_dir", type=click.Path(path_type=Path))
@click.option("--name", help="The model's name; default: the name in the checkpoint's config.json.")
@click.option("--readme", type=click.Path(path_type=Path), help="A model card; written from the config without it.")
@click.option("--force", is_flag=True, help="Replace OUT_DIR if it is a model folder.")
def onnx(checkpoint: Path, out_dir: Path, name: str | None, readme: Path | None, force: bool) -> None:
    """Write the model folder OUT_DIR of CHECKPOINT, a folder with config.json and model.safetensors."""
    _list_files(export_folder(checkpoint, out_dir, name=name, readme=readme, overwrite=force))


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("out_dir", type=click.Path(path_type=Path))
@click.option("--name", help="The generator's name; default: the name in the checkpoint's config.json.")
@click.option("--force", is_flag=True, help="Replace OUT_DIR if it is the folder of a model.")
def generator(checkpoint: Path, out_dir: Path, name: str | None, force: bool) -> None:
    """Write the folder OUT_DIR of the generator in CHECKPOINT, which `python -m train generator` wrote."""
    _list_files(export_generator(checkpoint, out_dir, name=name, overwrite=force))


def _list_files(folder: ModelFolder) -> None:
    for file in folder.config.files:
        click.echo(f"{(folder.path / file).stat().st_size / 1024:10,.0f} KiB  {folder.path / file}")


@main.command()
@click.argument("folder", metavar="MODEL", type=str)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    multiple=True,
    default=["float16"],
    show_default=True,
    help="The precision of products, keys and values; repeatable.",
)
@click.option("--cache", type=click.Path(path_type=Path), help="Where engines are kept; default: the user's cache.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per engine.")
def tensorrt(folder: str, precision: tuple[str, ...], cache: Path | None, as_json: bool) -> None:
    """Build the TensorRT engines of MODEL, a model folder or the name of a model, for this machine's GPU."""
    model = open_model(Path(folder) if Path(folder).is_dir() else folder)
    for wanted in precision:
        for engine in prepare_engines(model, wanted, cache=cache):
            if as_json:
                click.echo(json.dumps(dataclasses.asdict(engine) | {"path": str(engine.path)}))
                continue
            how = "was in the cache" if engine.was_cached else "built"
            click.echo(f"{engine.path.stat().st_size / 1024:10,.0f} KiB  {engine.path}  {how}")
            for tensor in engine.tensors:
                sizes = ", ".join(_range(profile) for profile in tensor.profiles)
                line = f"{'in ' if tensor.is_input else 'out'} {tensor.name:18} {tensor.dtype:6} {_by(tensor.shape)}"
                click.echo(f"            {line}{f'; sizes {sizes}' if sizes else ''}")


def _range(profile: Profile) -> str:
    return f"{_by(profile.fewest)} to {_by(profile.most)} (best {_by(profile.best)})"


def _by(sizes: Sequence[int]) -> str:
    return "x".join("?" if size == -1 else str(size) for size in sizes) or "scalar"


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
def cards(out: Path) -> None:
    """Write the card of all built-in models to OUT, and each model's own into its folder."""
    folders = [open_model(name) for name in built_in_models()]
    for folder in folders:
        write_bytes_atomically(folder.path / "README.md", model_card(folder.config).encode())
    write_bytes_atomically(out, collection_card([folder.config for folder in folders]).encode())


@main.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="The datasets; else $DAPS_DATA, ../shared/data.")
@click.option(
    "--images",
    metavar="FOLDER|TAR|NPZ|CSV",
    type=click.Path(path_type=Path),
    help="Images or clips to compare on; without it test items of the data that the model was trained on.",
)
@click.option("--items", default=1000, show_default=True, type=click.IntRange(min=1), help="How many items at most.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the report to this file.")
@click.pass_context
def check(
    ctx: click.Context, folder: Path, data: Path | None, images: Path | None, items: int, json_path: Path | None
) -> None:
    """Compare torch and ONNX Runtime on real images or clips; exit with 1 if they differ by more than rounding."""
    model = open_model(folder)
    report = compare(model, load_test_inputs(model.config, data, items, source=images))
    if json_path is not None:
        shown = folder.name if folder.is_absolute() else folder  # a report goes to others, a home folder does not
        chosen = f" --images {images.name}" if images is not None else ""
        command = f"python -m export check {shown}{chosen} --items {items}"
        content = {"command": command, **dataclasses.asdict(report), "passed": report.passed}
        content["machine"] = describe_machine()
        write_bytes_atomically(json_path, (json.dumps(content, indent=2) + "\n").encode())
    Console().print(_table(report))
    for failure in report.failures:
        print_error(failure)
    ctx.exit(0 if report.passed else 1)


@main.command()
@click.argument("models", metavar="[MODEL]...", nargs=-1)
@click.option("--out", "-o", required=True, type=click.Path(path_type=Path), help="The folder to write.")
@click.option("--force", is_flag=True, help="Replace the folder if it is such a site.")
def web(models: tuple[str, ...], out: Path, force: bool) -> None:
    """Write a site that runs MODELs, names or folders, in browsers; all built-in models without any.

    It needs onnxruntime-web once: `npm ci` in web/.
    """
    chosen = models or _PAGE_ORDER
    folders = [open_model(Path(name) if Path(name).is_dir() else name) for name in chosen]
    files = export_site(folders, out, overwrite=force)
    size = sum((out / name).stat().st_size for name in files)
    click.echo(f"{len(files)} files, {size / 1e6:.1f} MB in {out}; to look at it: python -m http.server -d {out}")


def _table(report: ParityReport) -> Table:
    table = Table(title=f"{report.model}: torch {report.torch_version}, ONNX Runtime {report.onnxruntime_version}")
    table.add_column(f"{report.num_items} items")
    table.add_column("", justify="right")
    differences = (*report.first_differences, *report.pass_first_differences, *report.step_first_differences)
    gap = f"{max(difference.top2_gap for difference in differences):.2g}" if differences else "–"
    sampled = (
        *report.sampled_first_differences,
        *report.pass_sampled_first_differences,
        *report.step_sampled_first_differences,
    )
    edge = f"{max(difference.edge_gap for difference in sampled):.2g}" if sampled else "–"
    rows = {
        "greedy codes equal, items / codes": f"{report.greedy_items_equal:.2%} / {report.greedy_codes_equal:.2%}",
        "sampled codes equal, items / codes": f"{report.sampled_items_equal:.2%} / {report.sampled_codes_equal:.2%}",
        "graphs for GPUs, greedy / sampled items equal": f"passes {report.pass_items_equal:.2%} / "
        f"{report.pass_sampled_items_equal:.2%}, steps {report.step_items_equal:.2%} / "
        f"{report.step_sampled_items_equal:.2%}",
        f"top-2 gap at a first difference, below {NEAR_TIE:g}": gap,
        f"uniform number to the edge at a first difference, below {NEAR_EDGE:g}": edge,
        "log q of codes drawn, difference in nats": f"{report.log_prob_difference:.2g}; passes "
        f"{report.pass_log_prob_difference:.2g}, steps {report.step_log_prob_difference:.2g}",
        "log q of codes scored, difference in nats": f"{report.score_difference:.2g}",
        "most probable codes equal": f"{report.top_codes_equal:.2%}",
        "log q of codes in another order, difference in nats": f"{report.top_codes_gap:.2g}",
        "log p and squared error of a cell, relative difference": f"{report.likelihood_difference:.2g}",
        "mean / variance, relative difference": f"{report.mean_difference:.2g} / {report.variance_difference:.2g}",
        "reconstruction, difference": f"{report.reconstruction_difference:g}",
        "reconstruction, values that differ": f"{report.reconstruction_values_differing:.3%}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


if __name__ == "__main__":
    main(prog_name="python -m export")
