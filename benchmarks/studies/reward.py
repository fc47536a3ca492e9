"""What a task reward wins and what it costs: accuracy and log p as its weight in DAPS's reward grows.

Every cell is a run of ``train.loop.fit`` with one reward, weight and seed, from the same start and with the same
steps. Runs resume, and a cell that is measured is not run again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.reports import json_bytes, new_figure, png_of, report, table, write_report
from benchmarks.studies.probes import choose_labelled, codes_of, one_hot, probe_accuracy
from daps_tokenizer.config import config_from_dict
from daps_tokenizer.errors import ConfigError
from daps_tokenizer.files import write_bytes_atomically
from train.data import Dataset
from train.evaluate import evaluate
from train.experiment import Experiment
from train.loop import fit
from train.methods.daps import DAPS
from train.methods.rewards import ClassReward

PROBE_ITEMS = 12_000  # from which the probe gets as many of each class as can be
PROBE_LABELS = 10_000
QUALITY_ITEMS = 2_000
# Title, factor and digits of what the table shows of a run.
_COLUMNS = {
    "accuracy": ("accuracy, %", 100, 1),
    "probe_accuracy": ("of a new linear probe, %", 100, 1),
    "greedy_log_p": ("log p, greedy", 1, 1),
    "sampled_log_p": ("log p, sampled", 1, 1),
    "greedy_l2": ("L2", 1, 2),
}


@dataclass(frozen=True)
class RewardRow:
    """One run. ``accuracy`` is of the classifier that was trained along, ``probe_accuracy`` of a new linear one.

    Both are of greedy codes of the whole test set; the others of 2,000 images that are spread over it.
    """

    reward: str
    weight: float
    seed: int
    steps: int
    accuracy: float
    probe_accuracy: float
    greedy_log_p: float
    sampled_log_p: float
    greedy_l2: float
    entropy: float
    seconds: float


def run_rewards(
    experiment: Experiment,
    dataset: Dataset,
    work: Path,
    *,
    cells: Sequence[tuple[str, float, int]],
    max_seconds: float | None = None,
) -> list[RewardRow]:
    """Train and measure every (reward, weight, seed) that was not measured before with the same settings.

    Args:
        experiment: of method ``daps``; its rewards and seed are replaced by each cell's.
        work: folder of the runs.
        max_seconds: stop training after this long; the next call resumes.

    Returns:
        The rows of the cells that are measured by now.

    Raises:
        ConfigError: another method, a dataset without labels, or a run in ``work`` that has other settings.
    """
    if experiment.method != "daps" or dataset.train_labels is None or dataset.test_labels is None:
        raise ConfigError("rewards are for experiments of method daps on a dataset with labels")
    until = None if max_seconds is None else time.monotonic() + max_seconds
    rows = []
    for reward, weight, seed in cells:
        settings = experiment.settings | {"rewards": {reward: weight}}
        chosen = replace(experiment, settings=settings, seed=seed)
        folder = work / f"{experiment.name}_{reward}_{weight:g}_{seed}"
        measured = folder / "row.json"
        row = _kept(measured, chosen)
        if row is None:
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                continue
            record = fit(chosen, dataset, folder, max_seconds=left, show_progress=False, draw_pictures=False)
            if record["steps"] < chosen.steps:
                continue
            row = _measure(chosen, dataset, folder, reward, weight, seconds=record["seconds"])
            write_bytes_atomically(measured, json_bytes({"experiment": asdict(chosen), "row": asdict(row)}))
        rows.append(row)
    return rows


def _kept(path: Path, experiment: Experiment) -> RewardRow | None:
    """What was measured of an experiment; None where that was not, or of another one."""
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    # A setting that the file does not have, because it is newer, had its default then.
    same = config_from_dict(Experiment, content["experiment"], source=str(path)) == experiment
    return RewardRow(**content["row"]) if same else None


def _measure(
    experiment: Experiment, dataset: Dataset, folder: Path, reward: str, weight: float, *, seconds: float
) -> RewardRow:
    method = experiment.trained(folder)
    assert isinstance(method, DAPS) and dataset.train_labels is not None and dataset.test_labels is not None
    (classifier,) = (module for module in method.rewards.rewards if isinstance(module, ClassReward))
    method.eval()
    test = codes_of(method.model, dataset.test)
    train = codes_of(method.model, dataset.train, limit=PROBE_ITEMS)
    labels = dataset.train_labels[: len(train)]
    labelled = choose_labelled(labels, PROBE_LABELS, seed=0)
    matrices = (one_hot(codes, experiment.model.vocab_size) for codes in (train[labelled], test))
    with torch.inference_mode():
        guesses = classifier.logits(torch.from_numpy(test)).argmax(-1).numpy()
    quality = evaluate(method, dataset.test, limit=QUALITY_ITEMS)
    return RewardRow(
        reward=reward,
        weight=weight,
        seed=experiment.seed,
        steps=experiment.steps,
        accuracy=float((guesses == dataset.test_labels).mean()),
        probe_accuracy=probe_accuracy(
            "linear", next(matrices), labels[labelled], next(matrices), dataset.test_labels, seed=0
        ),
        greedy_log_p=quality["greedy_log_p"],
        sampled_log_p=quality["sampled_log_p"],
        greedy_l2=quality["greedy_l2"],
        entropy=quality["entropy"],
        seconds=seconds,
    )


def write_rewards(
    folder: Path, experiment: Experiment, rows: list[RewardRow], machine: dict[str, str], command: str
) -> list[Path]:
    stem = f"reward_{experiment.name}"
    json_path = folder / f"{stem}.json"
    settings = json.loads(json.dumps(asdict(experiment)))  # tuples are lists, as in the file
    before = json.loads(json_path.read_text(encoding="utf-8")) if json_path.is_file() else {}
    commands = [command]
    if before.get("experiment") == settings:
        commands = list(dict.fromkeys([*before["commands"], command]))
        earlier = [RewardRow(**row) for row in before["rows"]]
        measured = {(row.reward, row.weight, row.seed) for row in rows}
        rows = [row for row in earlier if (row.reward, row.weight, row.seed) not in measured] + rows
    content = {
        "commands": commands,
        "machine": machine,
        "experiment": settings,
        "rows": [asdict(row) for row in rows],
    }
    header = ("reward", "weight", "runs", *(title for title, *_ in _COLUMNS.values()))
    cells = []
    for reward, weight in dict.fromkeys((row.reward, row.weight) for row in rows):
        mine = [row for row in rows if (row.reward, row.weight) == (reward, weight)]
        values = [_spread(mine, name, scale, digits) for name, (_, scale, digits) in _COLUMNS.items()]
        cells.append((reward, f"{weight:g}", len(mine), *values))
    text = report(
        f"A task reward in training: {experiment.dataset}, {experiment.model.bits_per_item:g} bits",
        commands,
        table(header, cells),
        "Reward: log p(x|z) + weight × reward. `class_log_prob` is log p(y|z) of a classifier that is trained along "
        f"on the codes; `class_correct` is 1 where its guess is right and else 0, which has no gradient. Every run: "
        f"{experiment.steps:,} steps of {experiment.batch_size} images from {experiment.start_from}. Mean ± "
        "standard deviation over seeds. Accuracy on the whole test set by greedy codes: of the classifier trained "
        f"along, and of a new linear probe on one-hot codes with {PROBE_LABELS:,} labels. log p in nats and L2 of "
        f"{QUALITY_ITEMS:,} test images.",
        machine=machine,
    )
    return write_report(folder, stem, content, text, _plot(experiment, rows))


def _values(rows: list[RewardRow], name: str) -> np.ndarray:
    return np.array([getattr(row, name) for row in rows])


def _spread(rows: list[RewardRow], name: str, scale: float, digits: int) -> str:
    values = scale * _values(rows, name)
    spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{spread}"


def _plot(experiment: Experiment, rows: list[RewardRow]) -> bytes:
    """Accuracy over log p, a point for each weight."""
    figure = new_figure(6.5, 4.5)
    axes = figure.subplots()
    for reward in dict.fromkeys(row.reward for row in rows):
        points = []
        for weight in sorted({row.weight for row in rows if row.reward == reward}):
            mine = [row for row in rows if (row.reward, row.weight) == (reward, weight)]
            log_p, accuracy = _values(mine, "greedy_log_p"), 100 * _values(mine, "accuracy")
            points.append((log_p.mean(), accuracy.mean(), log_p.std(), accuracy.std()))
            axes.annotate(f"{weight:g}", (log_p.mean(), accuracy.mean()), xytext=(4, 4), textcoords="offset points")
        x, y, x_spread, y_spread = zip(*points, strict=True)
        axes.errorbar(x, y, xerr=x_spread, yerr=y_spread, marker="o", capsize=2, label=reward)
    bits = f"{experiment.model.bits_per_item:g} bits"
    axes.set(title=f"{experiment.dataset}, {bits}: weight of the task reward", xlabel="log p(x|z), nats, greedy codes")
    axes.set_ylabel("test accuracy from the codes, %")
    axes.grid(alpha=0.3)
    axes.legend()
    return png_of(figure)
