"""Methods side by side: checkpoints that were trained on the same items in as many steps, on the same test items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reports import report, table, write_report
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import InputError
from daps_tokenizer.evaluation.metrics import interval_text, summarise
from daps_tokenizer.model.autoencoder import Autoencoder
from train.evaluate import measure_checkpoint

_FEW_STEPS = 10_000
_COLUMNS = {
    "greedy_log_p": ("log p, greedy, nats", 1),
    "gain": ("the same, less that of the first", 1),
    "sampled_log_p": ("log p, sampled, nats", 1),
    "greedy_psnr": ("PSNR, greedy, dB", 2),
    "greedy_ssim": ("SSIM, greedy", 4),
}


def compare_checkpoints(
    checkpoints: Sequence[Path],
    data: Path,
    *,
    limit: int | None,
    seed: int,
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[dict[str, Any]]:
    """Measure checkpoints on the test items of their own datasets.

    Args:
        checkpoints: checkpoint folders.
        data: folder of the datasets.
        limit: that many items, spread evenly; all if None.
        seed: of samples and of the bootstrap.
        on_progress: is told how many checkpoints are done.

    Returns:
        For each: ``name``, ``methods`` (in words) and ``steps`` of all its stages, ``crops`` seen, ``seconds``,
        ``parameters``, ``bits``, and what
        :func:`train.evaluate.measure_checkpoint` measures, with 95 % bootstrap intervals;
        ``gain`` is the greedy log p of an item less that of the first checkpoint.

    Raises:
        ModelFileError: a folder that is no checkpoint.
        InputError: checkpoints of different datasets.
    """
    rows: list[dict[str, Any]] = []
    reference: np.ndarray | None = None
    for done, checkpoint in enumerate(checkpoints, start=1):
        tokenizer, record, items, usage = measure_checkpoint(checkpoint, data, limit=limit, seed=seed)
        stages = [*record.get("stages_before", []), record]
        dataset, config = record["experiment"]["dataset"], tokenizer.config
        if rows and dataset != rows[0]["data"]:
            raise InputError(f"{checkpoint}: its data are {dataset}, and those of {checkpoints[0]} {rows[0]['data']}")
        log_p = items["greedy_log_p"]
        reference = log_p if reference is None else reference
        rows.append(
            {
                "name": record["experiment"]["name"],
                "methods": [_method(stage["experiment"], config) for stage in stages],
                "steps": [stage["steps"] for stage in stages],
                "crops": sum(stage["steps"] * stage["experiment"]["batch_size"] for stage in stages),
                "seconds": sum(stage["seconds"] for stage in stages),
                "parameters": sum(parameter.numel() for parameter in Autoencoder(config).parameters()),
                "bits": config.bits_per_item,
                "items": len(log_p),
                "data": dataset,
                **summarise(items | {"gain": log_p - reference}, seed),
                **usage,
            }
        )
        on_progress(done)
    return rows


def _method(experiment: dict[str, Any], config: TokenizerConfig) -> str:
    """What a stage is called: of a VQ-VAE also whether it goes through the autoregressive network, and how it began."""
    through = experiment["method"] == "vqvae" and config.recognition.kind == "autoregressive"
    words = ["aligned"] * bool(experiment.get("aligned")) + ["autoregressive"] * through
    return " ".join([*words, experiment["method"]])


def write_comparison(folder: Path, name: str, content: dict[str, Any]) -> list[Path]:
    rows = content["rows"]
    titles = [title for title, _ in _COLUMNS.values()]
    header = ["method", "steps", "items seen", "parameters", "bits", *titles, "perplexity", "codes used"]
    lines = []
    for row in sorted(rows, key=lambda found: -found["greedy_log_p"]["mean"]):
        cells = [
            ", then ".join(row["methods"]),
            " + ".join(f"{steps:,}" for steps in row["steps"]),
            f"{row['crops']:,}",
            f"{row['parameters']:,}",
            f"{row['bits']:.1f}",
            *(interval_text(row[column], digits) if column in row else "–" for column, (_, digits) in _COLUMNS.items()),
            f"{row['code_perplexity']:.1f}",
            row["codes_used"],
        ]
        lines.append(cells)
    text = report(
        "Methods side by side",
        [content["command"]],
        table(header, lines),
        f"Means over {rows[0]['items']} test items ({rows[0]['data']}, centre crops of "
        "validation photographs where they are photographs) with 95 % bootstrap intervals over items; one run each, so "
        "the intervals do not tell what another seed would give. Differences are of the same items, to "
        f"{rows[0]['name']}; seed {content['seed']}. log p is in standardised units.",
        *_warning(rows),
        machine=content["machine"],
    )
    return write_report(folder, name, content, text)


def _warning(rows: list[dict[str, Any]]) -> list[str]:
    if max(sum(row["steps"]) for row in rows) >= _FEW_STEPS:
        return []
    return ["So few steps show that every method runs; **they rank nothing**. The paper's runs have 250,000 and more."]
