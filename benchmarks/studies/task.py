"""What codes are worth for a task: accuracy of probes on frozen codes, against labels and bits.

More bits keep more of an image, and need more labels before a classifier can tell what matters among them: the
trade-off between representational capacity and sample complexity (Vuong, arXiv 2506.11511).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reports import json_bytes, new_figure, png_of, report, table, write_report
from benchmarks.studies.probes import (
    FEATURES,
    PROBES,
    Features,
    Probe,
    choose_labelled,
    codes_of,
    embedded,
    load_autoencoder,
    one_hot,
    probe_accuracy,
    weights_sha256,
)
from daps_tokenizer.errors import InputError
from daps_tokenizer.files import write_bytes_atomically
from train.code_search import CodeSearch
from train.data import Dataset


@dataclass(frozen=True)
class TaskRow:
    """One probe: its accuracy on the test set. ``labels`` is how many it learned from, ``seed`` which."""

    model: str
    bits: float
    features: str
    probe: str
    labels: int
    seed: int
    accuracy: float


def probe_model(
    label: str,
    model: str,
    dataset: Dataset,
    *,
    counts: Sequence[int],
    seeds: int,
    features: Sequence[Features] = FEATURES,
    probes: Sequence[Probe] = PROBES,
    train_items: int | None = None,
    test_items: int | None = None,
    proposals: int | None = None,
) -> list[TaskRow]:
    """Probe the codes of one model.

    Args:
        label: the model's name in the report.
        model: built-in name, model folder or checkpoint.
        dataset: with labels.
        counts: how many labels to learn from; more than there are items means all of them, once.
        seeds: how many choices of labels, for each count.
        train_items, test_items: only the first ones, where encoding all would take too long.
        proposals: probe what one sweep of local search with this many proposals makes of the greedy codes.

    Raises:
        InputError: the dataset has no labels.
    """
    if dataset.train_labels is None or dataset.test_labels is None:
        raise InputError("probes need labels; expected a dataset that has some, such as mnist or cifar10")
    autoencoder = load_autoencoder(model)
    search = None if proposals is None else CodeSearch(proposals=proposals)
    train_codes = codes_of(autoencoder, dataset.train, limit=train_items, search=search)
    test_codes = codes_of(autoencoder, dataset.test, limit=test_items, search=search)
    train_labels, test_labels = dataset.train_labels[: len(train_codes)], dataset.test_labels[: len(test_codes)]
    rows = []
    for name in features:

        def matrix(codes: np.ndarray, name: Features = name) -> Any:
            return one_hot(codes, autoencoder.config.vocab_size) if name == "one-hot" else embedded(codes, autoencoder)

        test = matrix(test_codes)
        for count in dict.fromkeys(min(count, len(train_codes)) for count in counts):
            for seed in range(seeds if count < len(train_codes) else 1):
                chosen = choose_labelled(train_labels, count, seed)
                train, labels = matrix(train_codes[chosen]), train_labels[chosen]
                for probe in probes:
                    accuracy = probe_accuracy(probe, train, labels, test, test_labels, seed=seed)
                    bits = autoencoder.config.bits_per_item
                    rows.append(TaskRow(label, bits, name, probe, count, seed, accuracy))
    return rows


def run_task(
    models: dict[str, str],
    dataset_name: str,
    dataset: Dataset,
    work: Path,
    *,
    counts: Sequence[int],
    seeds: int,
    features: Sequence[Features],
    probes: Sequence[Probe],
    train_items: int | None = None,
    test_items: int | None = None,
    proposals: int | None = None,
    max_seconds: float | None = None,
) -> list[TaskRow]:
    """Probe several models; one that is in ``work`` already, with these weights and options, is not probed again.

    Args:
        models: built-in name, model folder or checkpoint, by the name in the report.
        work: folder that keeps the rows of each model.
        proposals: probe searched codes too, see :func:`probe_model`.
        max_seconds: begin no further model after this long.
    """
    work.mkdir(parents=True, exist_ok=True)
    until = None if max_seconds is None else time.monotonic() + max_seconds
    rows: list[TaskRow] = []
    variants: list[tuple[str, str, int | None]] = [(label, model, None) for label, model in models.items()]
    if proposals is not None:
        variants += [(f"{label}, searched", model, proposals) for label, model in models.items()]
    for label, model, tried in variants:
        options: dict[str, Any] = {"counts": counts, "seeds": seeds, "features": features, "probes": probes}
        options |= {"train_items": train_items, "test_items": test_items}
        options |= {} if tried is None else {"proposals": tried}
        protocol = json.loads(json.dumps({"model": model, "weights_sha256": weights_sha256(model), **options}))
        kept = work / f"{dataset_name}_{label.replace(' ', '_').replace('/', '_')}.json"
        before = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
        if before.get("protocol") != protocol:
            if until is not None and time.monotonic() > until:
                continue
            found = probe_model(label, model, dataset, **options)
            before = {"protocol": protocol, "rows": [asdict(row) for row in found]}
            write_bytes_atomically(kept, json_bytes(before))
        rows += [TaskRow(**row) for row in before["rows"]]
    return rows


def write_task(
    folder: Path, name: str, dataset: str, rows: list[TaskRow], machine: dict[str, str], commands: Sequence[str]
) -> list[Path]:
    counts = sorted({row.labels for row in rows})
    header = ("codes", "bits", "features", "probe", *(f"{count:,} labels" for count in counts))
    lines = []
    for model, bits, features, probe in dict.fromkeys((r.model, r.bits, r.features, r.probe) for r in rows):
        cells = []
        for count in counts:
            values = accuracies(rows, model=model, features=features, probe=probe, labels=count)
            spread = f" ± {100 * values.std(ddof=1):.1f}" if len(values) > 1 else ""
            cells.append(f"{100 * values.mean():.1f}{spread}" if len(values) else "–")
        lines.append((model, f"{bits:g}", features, probe, *cells))
    text = report(
        f"What codes are worth for classification: {dataset}",
        commands,
        table(header, lines),
        "Accuracy on the test set in %, mean ± standard deviation over choices of labels (as many of each "
        "class); codes are frozen, and greedy unless searched (one sweep of local search). Probes: logistic regression "
        "(L-BFGS, C = 1, 100 iterations), and an MLP with one hidden layer of 128 (Adam, 2,000 updates and 200 epochs "
        "at most). One-hot: N·V dimensions; embedded: the "
        "generative model's vectors, side by side.",
        machine=machine,
    )
    content = {"command": list(commands), "machine": machine, "rows": [asdict(row) for row in rows]}
    return write_report(folder, name, content, text, _plot(rows))


def accuracies(rows: list[TaskRow], **wanted: object) -> np.ndarray:
    """Accuracies of the rows that have these values, (rows,)."""
    return np.array([row.accuracy for row in rows if all(getattr(row, key) == value for key, value in wanted.items())])


def _plot(rows: list[TaskRow]) -> bytes:
    """Accuracy against labels for each model, and against bits for each number of labels; linear probes."""
    kinds = [kind for kind in FEATURES if any(row.features == kind for row in rows)]
    figure = new_figure(11, 4.2 * len(kinds))
    for axes_of_kind, kind in zip(figure.subplots(len(kinds), 2, squeeze=False), kinds, strict=True):
        linear = [row for row in rows if row.features == kind and row.probe == "linear"]
        counts = sorted({row.labels for row in linear})
        models = sorted({(row.bits, row.model) for row in linear})
        by_labels, by_bits = axes_of_kind
        for _, model in models:
            found = {count: 100 * accuracies(linear, model=model, labels=count) for count in counts}
            found = {count: values for count, values in found.items() if len(values)}
            means, spreads = [a.mean() for a in found.values()], [a.std() for a in found.values()]
            by_labels.errorbar(list(found), means, yerr=spreads, marker="o", capsize=2, label=model)
        for count in counts:
            best: dict[float, float] = {}
            for bits, model in models:
                values = accuracies(linear, model=model, labels=count)
                if len(values):
                    best[bits] = max(best.get(bits, 0.0), 100 * float(values.mean()))
            by_bits.plot(*zip(*sorted(best.items()), strict=True), "o-", label=f"{count:,} labels")
        sizes = sorted({bits for bits, _ in models})
        by_labels.set(title=f"linear probe, {kind} codes", xlabel="labels", xscale="log", ylabel="test accuracy, %")
        by_bits.set(
            title="the best model of each size", xlabel="bits per item", xscale="log", ylabel="test accuracy, %"
        )
        by_bits.minorticks_off()
        by_bits.set_xticks(sizes, [f"{bits:g}" for bits in sizes])
        for axes in (by_labels, by_bits):
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)
    return png_of(figure)
