"""``python -m benchmarks table``: every method with equal steps, batch and networks, one cell per method and seed.

A cell is a run of its own in its own folder; its result is a JSON file, and a cell that has one is not run again. So a
table grows over as many calls as it takes, and can be written from what is there at any time.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from daps_tokenizer.config import RecognitionKind, TokenizerConfig, config_from_dict
from daps_tokenizer.errors import ConfigError
from daps_tokenizer.evaluation.timing import describe_machine, peak_memory_mb
from daps_tokenizer.files import write_bytes_atomically
from train.data import Dataset, DatasetKind
from train.evaluate import evaluate
from train.experiment import Experiment, Precision, read_with_model
from train.loop import fit
from train.optimisation import OptimiserConfig, build_optimiser
from train.recorder import read_metrics

POINTS_PER_CURVE = 6
CURVE_ITEMS = 200


@dataclass(frozen=True)
class Stage:
    """A method and its number of steps."""

    method: str
    steps: int
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One method of the table.

    ``kind`` and ``levels`` are the recognition model's; ``learning_rate`` and ``steps`` the row's own where they differ
    from the table's; ``start_from`` a checkpoint that the row starts from, ``aligned`` how it begins without one, and
    ``first`` a stage that goes before; ``paper`` the published values by their metric.
    """

    title: str
    method: str
    kind: RecognitionKind = "autoregressive"
    levels: tuple[int, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    learning_rate: float | None = None
    steps: int | None = None
    start_from: str | None = None
    aligned: bool = False
    first: Stage | None = None
    paper: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TableConfig:
    """What all rows share, the rows, and the ablations: by name, variants of a row and what each changes.

    ``beta`` is that of the β-ELBO; ``parallel`` what recognition models of one pass have in place of the model's sizes.
    """

    model: TokenizerConfig
    dataset: DatasetKind
    steps: int
    batch_size: int
    rows: dict[str, Any]
    ablations: dict[str, Any] = field(default_factory=dict)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    parallel: dict[str, int] = field(default_factory=dict)
    evaluation_items: int = 2000
    beta: float = 0.01
    precision: Precision = "fp32"

    def table_rows(self, ablation: str | None = None) -> dict[str, Row]:
        """The rows by name, or those of an ablation.

        Raises:
            ConfigError: no such ablation, or a row that is not one.
        """
        if ablation is None:
            return {name: config_from_dict(Row, row, source=f"row {name}") for name, row in self.rows.items()}
        if ablation not in self.ablations:
            raise ConfigError(f"no ablation {ablation!r} of {self.dataset}; there are {', '.join(self.ablations)}")
        rows = {}
        for name, changes in self.ablations[ablation].items():
            base = self.rows[changes["row"]]
            merged = {key: value for key, value in base.items() if key != "paper"}
            merged |= {key: value for key, value in changes.items() if key != "row"}
            merged |= {"title": name, "settings": base.get("settings", {}) | changes.get("settings", {})}
            rows[name] = config_from_dict(Row, merged, source=f"ablation {ablation}, {name}")
        return rows


def load_table(path: Path) -> TableConfig:
    """Read a table's YAML file.

    Raises:
        ConfigError: missing file, not YAML, unknown or missing keys; names the file and the key.
    """
    return config_from_dict(TableConfig, read_with_model(path), source=str(path))


def stages(table: TableConfig, name: str, row: Row, seed: int) -> list[Experiment]:
    """The runs that make a cell, in order; the last is the row's own."""
    recognition = table.model.recognition
    sizes: dict[str, Any] = {} if row.kind == "autoregressive" else table.parallel
    recognition = dataclasses.replace(recognition, kind=row.kind, levels=row.levels, **sizes)
    vocab_size = math.prod(row.levels) if row.levels else table.model.vocab_size
    model = dataclasses.replace(table.model, recognition=recognition, vocab_size=vocab_size)
    plan = [*([row.first] if row.first else []), Stage(row.method, row.steps or table.steps, row.settings)]
    experiments = []
    for number, stage in enumerate(plan):
        last = number == len(plan) - 1
        rate = row.learning_rate if last and row.learning_rate else table.optimiser.learning_rate
        experiments.append(
            Experiment(
                name=f"{name}-seed{seed}" + ("" if last else f"-stage{number}"),
                model=model,
                dataset=table.dataset,
                method=stage.method,
                steps=stage.steps,
                batch_size=table.batch_size,
                settings=stage.settings,
                optimiser=dataclasses.replace(table.optimiser, learning_rate=rate),
                precision=table.precision,
                start_from=row.start_from if number == 0 else None,
                aligned=row.aligned and number == 0,
                seed=seed,
                log_every=max(1, min(50, stage.steps // 4)),
                evaluate_every=max(1, stage.steps // POINTS_PER_CURVE),
                evaluation_items=CURVE_ITEMS,
                checkpoint_every=max(1, stage.steps // 2),
            )
        )
    return experiments


def run_cell(
    table: TableConfig, name: str, row: Row, seed: int, dataset: Dataset, folder: Path, *, max_seconds: float
) -> dict[str, Any] | None:
    """The result of one method and seed; None where the time ran out before its last step, to be continued.

    Raises:
        ConfigError: the folder holds this cell with other settings.
    """
    plan = stages(table, name, row, seed)
    settings = [json.loads(json.dumps(dataclasses.asdict(experiment))) for experiment in plan]
    path = folder / f"{_file_name(plan[-1].name)}.json"
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        # A setting that the cell does not have, because it is newer, had its default then.
        if [config_from_dict(Experiment, stage, source=str(path)) for stage in found["stages"]] != plan:
            raise ConfigError(f"{path}: holds this cell with other settings; delete it or choose another --runs folder")
        return found
    until, cpu_seconds = time.monotonic() + max_seconds, 0.0
    memory = _PeakMemory()
    start_from: str | None = None
    curve: list[dict[str, float]] = []
    for experiment in plan:
        run_folder = folder / _file_name(experiment.name)
        left = max(0.0, until - time.monotonic())
        record = fit(
            dataclasses.replace(experiment, start_from=start_from or experiment.start_from),
            dataset,
            run_folder,
            max_seconds=left,
            show_progress=False,
            draw_pictures=False,
        )
        if record["steps"] < experiment.steps:
            return None
        start_from = str(run_folder / "checkpoint")
        lines = read_metrics(run_folder / "metrics.jsonl")
        per_step = [float(line["cpu_seconds_per_step"]) for line in lines if "cpu_seconds_per_step" in line]
        step_seconds = float(np.median(per_step)) if per_step else math.nan
        cpu_seconds += step_seconds * experiment.steps
        curve = [
            {"step": float(line["step"]), "log_p": float(line["sampled_log_p"])}
            for line in lines
            if line["kind"] == "validation"
        ]
    result = {
        "row": name,
        "title": row.title,
        "seed": seed,
        "stages": settings,
        "evaluation": evaluate(plan[-1].trained(run_folder), dataset.test, limit=table.evaluation_items),
        "curve": curve,
        "bits": plan[-1].model.bits_per_item,
        "parameters": count_parameters(plan[-1]),
        "cpu_seconds_per_step": step_seconds,
        "cpu_seconds": cpu_seconds,
        "peak_memory_mb": memory.megabytes(),
        "machine": describe_machine(),
    }
    write_bytes_atomically(path, (json.dumps(result, indent=2) + "\n").encode())
    return result


def count_parameters(experiment: Experiment) -> int:
    """How many numbers the optimiser of an experiment trains, a value baseline and η included."""
    method = experiment.build_method(experiment.build_model())
    groups = build_optimiser(method, experiment.optimiser).param_groups
    return sum(parameter.numel() for group in groups for parameter in group["params"])


def _file_name(name: str) -> str:
    return name.replace("/", "_of_").replace(" ", "_")


class _PeakMemory:
    """The most memory this process holds from now on, where Linux tells."""

    def __init__(self) -> None:
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self.known = True
        except OSError:
            self.known = False

    def megabytes(self) -> float | None:
        """Peak of the resident set in MB, libraries and data set included."""
        return peak_memory_mb() if self.known else None
