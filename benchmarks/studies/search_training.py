"""Ways to continue training a tokenizer, from the same weights and for the same processor time, measured along the way.

Compared are training with search (both models learn from searched codes), DAPS whose samples are searched before they
are weighted, and DAPS with weights per code and per sample. Time is that of the processor, not of the clock: it does
not depend on what else the machine does.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.reports import png_of, report, table, write_report
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.model.autoencoder import Autoencoder, load_weights
from daps_tokenizer.model.sampling import sample_codes
from train.batches import BatchReader
from train.code_search import CodeSearch, greedy_in_passes
from train.data import Dataset, DatasetKind
from train.experiment import Experiment
from train.loop import step_generator
from train.methods import Batch, build_method
from train.optimisation import OptimiserConfig, Updates, apply_schedule, build_optimiser, clip_gradients

EVALUATION_BATCH = 100
# Found by the final sweep of local search as users run it: two proposals.
SEARCH = CodeSearch(proposals=2)
_GENTLE_DAPS = {"num_samples": 4, "beta_initial": 0.02, "beta_final": 0.01, "eta_initial": 4.0, "batch_norm": "frozen"}

_KINDS = ("greedy", "sampled", "searched")


@dataclass(frozen=True)
class Way:
    """A method, its settings and the learning rate it runs with."""

    method: str
    settings: dict[str, Any]
    learning_rate: float = 5e-5


WAYS = {
    "search (a+b)": Way("search", {"entropy_weight": 0.1}, 1e-4),
    "DAPS, samples searched (c)": Way("daps", _GENTLE_DAPS | {"credit": "local", "search": {"groups": 3}}),
    "DAPS, weights per code": Way("daps", _GENTLE_DAPS | {"credit": "local"}),
    "DAPS, weights per sample": Way("daps", _GENTLE_DAPS),
}


def watch_training(
    way: Way,
    checkpoint: Path,
    dataset: Dataset,
    kind: DatasetKind,
    *,
    seconds: float,
    points: int,
    images: int,
    batch_size: int,
    seed: int = 0,
) -> list[dict[str, float]]:
    """Train from a checkpoint, and measure before, at the end and in between.

    Args:
        seconds: of one processor, evaluations not counted.
        points: how many measurements after the first, at equal distances.
        images: how many test images are measured, the first ones.

    Returns:
        For each measurement the ``seconds`` and ``steps`` until then, and what :func:`measure` says.
    """
    torch.manual_seed(seed)
    config = TokenizerConfig.from_file(checkpoint / "config.json")
    model = Autoencoder(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    load_weights(model, checkpoint / "model.safetensors")
    experiment = Experiment(
        name="watched",
        model=config,
        dataset=kind,
        method=way.method,
        settings=way.settings,
        steps=2**31,  # time ends the run
        batch_size=batch_size,
        optimiser=OptimiserConfig(learning_rate=way.learning_rate, warmup_steps=20),
        seed=seed,
    )
    method = build_method(way.method, model, way.settings)
    method.start()
    optimiser = build_optimiser(method, experiment.optimiser)
    reader, updates = BatchReader(dataset.train, batch_size, seed), Updates(torch.device("cpu"))
    inputs = torch.from_numpy(dataset.test.read(np.arange(images), seed=(seed,)))
    found, spent, steps = [{"seconds": 0.0, "steps": 0.0} | measure(model, inputs, seed=seed)], 0.0, 0
    for due in np.linspace(0, seconds, points + 1)[1:]:
        method.train()
        started = time.process_time() - spent
        while spent < due:
            apply_schedule(optimiser, experiment.optimiser, steps, experiment.steps)
            batch = Batch(torch.from_numpy(reader(steps)))
            losses = method(batch, step_generator(seed, steps, 0, torch.device("cpu")), spent / seconds)
            optimiser.zero_grad()
            losses.total.backward()
            updates.make(optimiser, clip_gradients(method, experiment.optimiser))
            steps += 1
            spent = time.process_time() - started
        found.append({"seconds": spent, "steps": float(steps)} | measure(model, inputs, seed=seed))
    return found


@torch.no_grad()
def measure(model: Autoencoder, inputs: Tensor, *, seed: int) -> dict[str, float]:
    """Mean log p(x|z) in nats of ``greedy``, ``sampled`` and ``searched`` codes, the ``entropy`` of q in nats as its
    samples estimate it, and ``codes_used`` by the greedy codes."""
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    values: dict[str, list[Tensor]] = {"greedy": [], "sampled": [], "searched": [], "entropy": []}
    used: set[int] = set()
    for part in inputs.split(EVALUATION_BATCH):
        x = model.standardise(part)
        context = model.recognition.context(x)
        greedy, logits = greedy_in_passes(model.recognition, context, len(x))
        uniform = torch.rand(greedy.shape, generator=generator)
        sampled = sample_codes(model.recognition, context, uniform)
        searched = SEARCH.run(model, x, greedy, logits, generator)
        values["greedy"].append(searched.values_before.sum(1))
        values["searched"].append(searched.values.sum(1))
        values["sampled"].append(model.log_likelihood(x, sampled.codes))
        values["entropy"].append(-sampled.log_probs.sum(1))
        used.update(greedy.unique().tolist())
    means = {name: float(torch.cat(parts).double().mean()) for name, parts in values.items()}
    return means | {"codes_used": float(len(used))}


def write_search_training(folder: Path, name: str, content: dict[str, Any]) -> list[Path]:
    """Write ``NAME.json``, ``.md`` and ``.png``; returns their paths.

    ``content``: ``commands``, ``machine``, ``checkpoint``, ``images``, ``batch_size`` and ``curves``, the
    measurements of each way.
    """
    header = ("way", "seconds", "steps", *_KINDS, "entropy", "codes used")
    rows = []
    for way, curve in content["curves"].items():
        for point in (curve[0], curve[-1]) if len(curve) > 1 else curve:
            spent = [f"{point[key]:.0f}" for key in ("seconds", "steps")]
            nats = [f"{point[key]:.1f}" for key in (*_KINDS, "entropy")]
            rows.append((way, *spent, *nats, f"{point['codes_used']:.0f}"))
    text = report(
        "Ways to continue from a trained tokenizer",
        content["commands"],
        table(header, rows),
        f"Mean log p(x|z) in nats of the first {content['images']} test images, entropy of q in nats. All began from "
        f"{content['checkpoint']} and had the same processor time, evaluations not counted, in steps of "
        f"{content['batch_size']} images; DAPS draws 4 samples of each. One run each: a few nats say nothing.",
        machine=content["machine"],
    )
    return write_report(folder, name, content, text, _plot_training(content["curves"]))


def _plot_training(curves: dict[str, list[dict[str, float]]]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(_KINDS), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, kind in zip(figure.subplots(1, len(_KINDS)), _KINDS, strict=True):
        for way, curve in curves.items():
            axes.plot([point["seconds"] for point in curve], [point[kind] for point in curve], "o-", label=way)
        axes.set(title=f"{kind} codes", xlabel="processor seconds", ylabel="log p, nats")
        axes.grid(alpha=0.3)
    axes.legend()
    return png_of(figure)
