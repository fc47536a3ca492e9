"""``python -m benchmarks modelling``: whose codes are easier to model? Equal generators on codes of several tokenizers.

A tokenizer's codes can only be drawn as well as the tokenizer reconstructs, so what is drawn is compared with real
images and with the tokenizer's own reconstructions of them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.generate.command import AT_ONCE, SEED, Judge, generated
from benchmarks.reports import STUDIES, command_line, report, table, write_report
from daps_tokenizer import InputError, Tokenizer
from daps_tokenizer.data.place import data_folder
from daps_tokenizer.evaluation.metrics import EXACT_COPY_DB, psnr
from daps_tokenizer.evaluation.timing import describe_machine
from daps_tokenizer.files import write_bytes_atomically


def measure_tokenizer(
    name: str, model: str, configs: Sequence[Path], changes: Sequence[str], work: Path, data: Path, items: int
) -> dict[str, Any]:
    """Train each generator on codes of one tokenizer, and measure what they draw.

    Args:
        name: what the report calls the tokenizer.
        model: its built-in name, model folder or checkpoint.
        configs: YAML files of generators of the dataset that the tokenizer was trained on.
        changes: settings in place of those of the files.
        work: folder of runs; what is there is not made again.
        data: folder of the datasets.
        items: images of each row.

    Raises:
        InputError: a tokenizer of other images than those that a classifier judges here.
        DapsError: errors of training and export.
    """
    from daps_tokenizer.generator import Generator
    from export.generator import export_generator
    from train.generators.experiment import open_generator
    from train.loop import fit

    folder = work / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    found = folder / "measured.json"
    if found.is_file():
        known: dict[str, Any] = json.loads(found.read_text(encoding="utf-8"))
        return known
    place = _model_folder(model, folder)
    tokenizer = Tokenizer.from_pretrained(place, num_threads=1)
    judge = Judge(tokenizer, data, work, items, None)
    real, labels, greedy = judge.test_items(items)
    own = judge.reference(_reconstructions(tokenizer, judge.train_images), items)
    decoded = tokenizer.decode(greedy)
    rows = [judge.row("reconstructions", decoded, labels, own=own, nearest=False)]
    rows[0]["psnr"] = float(np.minimum(psnr(real, decoded), EXACT_COPY_DB).mean())
    for config in configs:
        codes = [f"codes.folder={folder / 'codes'}", f"codes.tokenizer={place}"]
        experiment, dataset = open_generator(config, [*codes, *changes], data)
        run = folder / experiment.kind
        record = fit(experiment, dataset, run, show_progress=False, draw_pictures=False)
        exported = export_generator(run / "checkpoint", run / "exported", overwrite=True)
        generator = Generator(exported, num_threads=1)
        learned: dict[str, Any] = {"nats_per_code": record["validation"]["nats_per_code"]}
        if experiment.kind == "causal":
            names = [generator.labels[number] for number in labels]
            learned["bits_per_item"] = float(-generator.log_prob(greedy, names).mean() / math.log(2))
        for guidance in sorted({0.0, generator.config.guidance}):
            drawn, asked, _ = generated(generator, items, guidance=guidance)
            row = judge.row(
                f"{experiment.kind}, guidance {guidance:g}", tokenizer.decode(drawn), asked, own=own, nearest=False
            )
            rows.append(row | learned | {"kind": experiment.kind, "guidance": guidance, "steps": experiment.steps})
    result = {
        "tokenizer": name,
        "bits": tokenizer.bits_per_item,
        "weights_sha256": tokenizer.config.weights_sha256,
        "trained": _stages(tokenizer.config.training),
        "classifier_accuracy": judge.accuracy,
        "rows": rows,
    }
    write_bytes_atomically(found, (json.dumps(result, indent=1) + "\n").encode())
    return result


def _model_folder(model: str, folder: Path) -> Path | str:
    """A checkpoint is exported first."""
    from export.folder import export_folder

    if not (Path(model) / "training.json").is_file():
        return model
    place = folder / "tokenizer"
    if not place.is_dir():
        export_folder(Path(model), place)
    return place


def _reconstructions(tokenizer: Tokenizer, images: np.ndarray, count: int = 10_000) -> np.ndarray:
    """Of training images, evenly chosen."""
    chosen = images[np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)]
    parts = [tokenizer.decode(tokenizer.encode(chosen[i : i + AT_ONCE])) for i in range(0, len(chosen), AT_ONCE)]
    return np.concatenate(parts)


def _stages(training: dict[str, Any]) -> list[dict[str, Any]]:
    """Method, steps, batch size and seconds of each stage of a tokenizer's training."""
    stages = [*training.get("stages_before", []), training]
    return [
        {key: stage["experiment"][key] for key in ("method", "batch_size")}
        | {"steps": stage["steps"], "seconds": stage["seconds"]}
        for stage in stages
        if "experiment" in stage
    ]


_COLUMNS = {
    "accuracy": ("accuracy of the classifier", ".1%", 1),
    "frechet": ("Fréchet distance to real images", ".2f", 1),
    "kernel": ("KID × 1000 to real images", ".1f", 1000),
    "own_frechet": ("Fréchet distance to its reconstructions", ".2f", 1),
    "own_kernel": ("KID × 1000 to its reconstructions", ".1f", 1000),
    "bits_per_item": ("bits an item", ".1f", 1),
    "psnr": ("PSNR, dB", ".2f", 1),
}


def write_modelling(folder: Path, name: str, content: dict[str, Any]) -> list[Path]:
    """Write ``NAME.json`` and ``.md``; returns their paths.

    ``content``: ``command``, ``machine``, ``items``, ``changes`` and ``results`` of :func:`measure_tokenizer`.
    """
    lines = [
        (
            found["tokenizer"],
            row["images"],
            *(
                "–" if row.get(key) is None else format(row[key] * scale, form)
                for key, (_, form, scale) in _COLUMNS.items()
            ),
        )
        for found in content["results"]
        for row in found["rows"]
    ]
    trained = "\n".join(
        f"- {found['tokenizer']}: {found['bits']:.4g} bits; "
        + ", then ".join(f"{s['method']}, {s['steps']:,} steps of {s['batch_size']}" for s in found["trained"])
        + f"; weights {found['weights_sha256'][:12]}"
        for found in content["results"]
    )
    text = report(
        "Whose codes are easier to model?",
        [content["command"]],
        table(("tokenizer", "images", *(title for title, _, _ in _COLUMNS.values())), lines),
        f"{content['items']} images a row, as many of each class; seed {SEED} alone. Distances are of 128 features of "
        "the classifier of `python -m benchmarks generate`, which is right on "
        f"{content['results'][0]['classifier_accuracy']:.1%} of the test set. They are to training images (10,000 for "
        "the Fréchet distance, as many as are drawn for KID), and to the tokenizer's reconstructions of as many. "
        "Rows of reconstructions are of test images: their distance to its reconstructions is that of perfect drawing. "
        "Bits an item: of greedy codes of test images, given their label.",
        f"Generators: {', '.join(content['generators'])}, with {', '.join(content['changes']) or 'nothing changed'}.",
        trained,
        machine=content["machine"],
    )
    return write_report(folder, name, content, text)


@click.command()
@click.option("--tokenizer", "tokenizers", multiple=True, required=True, metavar="NAME=MODEL", help="Repeatable.")
@click.option("--generator", "configs", multiple=True, required=True, type=click.Path(path_type=Path), help="Its YAML.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="In place of settings of every generator.")
@click.option("--items", default=2000, show_default=True, type=click.IntRange(min=10), help="Images a row.")
@click.option("--data", type=click.Path(path_type=Path), help="The datasets; else $DAPS_DATA, ../shared/data.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/modelling"), show_default=True)
@click.option("--name", default="modelling_mnist", show_default=True, help="Of the report.")
@click.option("--out", type=click.Path(path_type=Path), default=STUDIES, show_default="benchmarks/results/studies")
def modelling(
    tokenizers: tuple[str, ...],
    configs: tuple[Path, ...],
    changes: tuple[str, ...],
    items: int,
    data: Path | None,
    work: Path,
    name: str,
    out: Path,
) -> None:
    """Train the same generators on codes of several tokenizers, and measure what they draw. Run again to resume."""
    import torch

    torch.set_num_threads(1)
    results = []
    for given in tokenizers:
        called, separator, model = given.partition("=")
        if not separator:
            raise InputError(f"--tokenizer {given}: expected NAME=MODEL")
        results.append(measure_tokenizer(called, model, configs, changes, work, data_folder(data), items))
        content = {
            "command": command_line(),
            "machine": describe_machine(),
            "items": items,
            "generators": [path.name for path in configs],
            "changes": list(changes),
            "results": results,
        }
        paths = write_modelling(out, name, content)
        click.echo(f"{called}: measured", err=True)
    for path in paths:
        click.echo(path)
