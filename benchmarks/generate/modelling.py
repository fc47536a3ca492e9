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
from benchmarks.reports import STUDIES, report, show, table, with_command, write_report
from daps_tokenizer import ConfigError, InputError, Tokenizer
from daps_tokenizer.data.place import data_folder
from daps_tokenizer.evaluation.metrics import EXACT_COPY_DB, psnr
from daps_tokenizer.files import sha256_of, write_bytes_atomically


class Modelled:
    """One tokenizer, and what generators make of its codes; what is measured is kept in a folder, and read from there.

    Args:
        name: what the report calls the tokenizer.
        model: its built-in name, model folder or checkpoint.
        work: folder of all runs.
        samples: how many codes of each image generators are trained on, drawn of q(z|x); 0 for the greedy ones.
    """

    def __init__(self, name: str, model: str, work: Path, samples: int = 0) -> None:
        self.samples = samples
        self.name = f"{name}, {samples} sampled" if samples else name
        self.folder = work / re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")
        self.place = _model_folder(model, self.folder)
        self.tokenizer = Tokenizer.from_pretrained(self.place, num_threads=1)

    def measure(self, judge: Judge, config: Path, changes: Sequence[str], data: Path, items: int) -> dict[str, Any]:
        """Train a generator on the codes, and measure its held-out codes and what it draws.

        Args:
            judge: of images such as the tokenizer was trained on.
            config: YAML file of a generator of that dataset.
            changes: settings in place of those of the file.
            data: folder of the datasets.
            items: images of each row.

        Raises:
            ConfigError: the folder holds this tokenizer and generator, measured with other settings.
            DapsError: errors of training and export.
        """
        from daps_tokenizer.generator import Generator
        from export.generator import export_generator
        from train.experiment import read_changed
        from train.generators.experiment import load_generator, open_generator
        from train.loop import fit

        asked = {
            "settings": read_changed(config, changes)[0],
            "samples": self.samples,
            "items": items,
            "classifier_epochs": judge.epochs,
            "weights_sha256": self.tokenizer.config.weights_sha256,
        }
        found = self.folder / f"{config.stem}.json"
        if found.is_file():
            known: dict[str, Any] = json.loads(found.read_text(encoding="utf-8"))
            if known.get("asked") != asked:
                raise ConfigError(
                    f"{found}: was measured with other settings; delete {self.folder} or name another --work"
                )
            return known
        codes = [
            f"codes.folder={self.folder / 'codes'}",
            f"codes.tokenizer={self.place}",
            f"codes.samples={self.samples}",
        ]
        experiment, dataset = open_generator(load_generator(config, [*codes, *changes]), data)
        run = self.folder / config.stem
        record = fit(experiment, dataset, run, show_progress=False, draw_pictures=False)
        generator = Generator(export_generator(run / "checkpoint", run / "exported", overwrite=True), num_threads=1)
        tokenizer, own = self.tokenizer, judge.reference(self._reconstructions(judge.train_images), items)
        real, labels, greedy = judge.test_items(tokenizer, items)
        decoded = tokenizer.decode(greedy)
        learned: dict[str, Any] = {"nats_per_code": record["validation"]["nats_per_code"]}
        if experiment.kind == "causal":
            names = [generator.labels[number] for number in labels] if generator.labels else None
            learned["bits_per_item"] = float(-generator.log_prob(greedy, names).mean() / math.log(2))
        rows = [judge.row("reconstructions", decoded, labels, own=own, nearest=False)]
        rows[0]["psnr"] = float(np.minimum(psnr(real, decoded), EXACT_COPY_DB).mean())
        for guidance in sorted({0.0, generator.config.guidance if generator.labels else 0.0}):
            drawn, drawn_labels, _ = generated(generator, items, guidance=guidance)
            title = f"{experiment.kind}, guidance {guidance:g}"
            rows.append(judge.row(title, tokenizer.decode(drawn), drawn_labels, own=own, nearest=False) | learned)
        result = {
            "tokenizer": self.name,
            "generator": experiment.kind,
            "bits": tokenizer.bits_per_item,
            "weights_sha256": tokenizer.config.weights_sha256,
            "trained": _stages(tokenizer.config.training),
            "parameters": sum(parameter.numel() for parameter in experiment.build_model().parameters()),
            "steps": experiment.steps,
            "batch_size": experiment.batch_size,
            "classifier_accuracy": judge.accuracy,
            "asked": asked,
            "rows": rows,
        }
        write_bytes_atomically(found, (json.dumps(result, indent=1) + "\n").encode())
        return result

    def _reconstructions(self, images: np.ndarray, count: int = 2000) -> np.ndarray:
        """Of training images, evenly chosen."""
        chosen = images[np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)]
        parts = [chosen[i : i + AT_ONCE] for i in range(0, len(chosen), AT_ONCE)]
        return np.concatenate([self.tokenizer.decode(self.tokenizer.encode(part)) for part in parts])


def _model_folder(model: str, folder: Path) -> Path | str:
    """A checkpoint is exported first, under a name that says which weights it had."""
    from export.folder import export_folder

    if not (Path(model) / "training.json").is_file():
        return model
    place = folder / f"tokenizer-{sha256_of(Path(model) / 'model.safetensors')[:12]}"
    if not place.is_dir():
        export_folder(Path(model), place)
    return place


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

    ``content``: ``command``, ``machine``, ``items``, ``seed`` and the ``results`` of :meth:`Modelled.measure`.
    """
    lines, shown, results = [], set[str](), content["results"]
    for found in results:
        for row in found["rows"]:
            if row["images"] == "reconstructions":  # of each tokenizer once
                if found["tokenizer"] in shown:
                    continue
                shown.add(found["tokenizer"])
            cells = (
                "–" if row.get(key) is None else format(row[key] * scale, form)
                for key, (_, form, scale) in _COLUMNS.items()
            )
            lines.append((found["tokenizer"], row["images"], *cells))
    trained = "\n".join(
        f"- {found['tokenizer']}: {found['bits']:.4g} bits; "
        + ", then ".join(f"{s['method']}, {s['steps']:,} steps of {s['batch_size']}" for s in found["trained"])
        + f"; weights {found['weights_sha256'][:12]}"
        for found in {found["tokenizer"]: found for found in results}.values()
    )
    generators = "; ".join(
        f"{name}, {parameters:,} parameters, {steps:,} steps of {batch}"
        for name, parameters, steps, batch in dict.fromkeys(
            (found["generator"], found["parameters"], found["steps"], found["batch_size"]) for found in results
        )
    )
    text = report(
        "Whose codes are easier to model?",
        [content["command"]],
        table(("tokenizer", "images", *(title for title, _, _ in _COLUMNS.values())), lines),
        f"{content['items']} images a row, as many of each class; seed {SEED} alone. Distances are of 128 features of "
        "the classifier of `python -m benchmarks generate`, which is right on "
        f"{results[0]['classifier_accuracy']:.1%} of the test set. They are to training images (10,000 for "
        "the Fréchet distance, as many as are drawn for KID), and to the tokenizer's reconstructions of 2,000. "
        "Rows of reconstructions are of test images: their distance to its reconstructions is that of perfect drawing. "
        "Bits an item: of greedy codes of test images, given their label.",
        f"Generators: {generators}.",
        trained,
        machine=content["machine"],
    )
    return write_report(folder, name, content, text)


@click.command()
@click.option("--tokenizer", "tokenizers", multiple=True, required=True, metavar="NAME=MODEL", help="Repeatable.")
@click.option("--generator", "configs", multiple=True, required=True, type=click.Path(path_type=Path), help="Its YAML.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="In place of settings of every generator.")
@click.option(
    "--samples",
    multiple=True,
    default=(0,),
    show_default=True,
    type=click.IntRange(min=0),
    help="Codes of each image to train on, drawn of q(z|x); 0: greedy ones. Repeatable.",
)
@click.option("--items", default=2000, show_default=True, type=click.IntRange(min=10), help="Images a row.")
@click.option("--epochs", type=click.IntRange(min=1), help="Of the classifier; default: 2 on MNIST, 8 on CIFAR-10.")
@click.option("--data", type=click.Path(path_type=Path), help="The datasets; else $DAPS_DATA, ../shared/data.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/modelling"), show_default=True)
@click.option("--name", default="modelling_mnist", show_default=True, help="Of the report.")
@click.option("--out", type=click.Path(path_type=Path), default=STUDIES, show_default="benchmarks/results/studies")
def modelling(
    tokenizers: tuple[str, ...],
    configs: tuple[Path, ...],
    changes: tuple[str, ...],
    samples: tuple[int, ...],
    items: int,
    epochs: int | None,
    data: Path | None,
    work: Path,
    name: str,
    out: Path,
) -> None:
    """Train the same generators on codes of several tokenizers, and measure what they draw. Run again to resume."""
    import torch

    torch.set_num_threads(1)
    place, results, judge = data_folder(data), [], None
    for given in tokenizers:
        called, separator, model = given.partition("=")
        if not separator:
            raise InputError(f"--tokenizer {given}: expected NAME=MODEL")
        for count in samples:
            modelled = Modelled(called, model, work, count)
            judge = judge or Judge(modelled.tokenizer, place, work, items, epochs)
            for config in configs:
                results.append(modelled.measure(judge, config, changes, place, items))
                click.echo(f"{modelled.name}, {config.stem}: measured", err=True)
        content = with_command(items=items, seed=SEED, results=results)
        paths = write_modelling(out, name, content)
    show(paths)
