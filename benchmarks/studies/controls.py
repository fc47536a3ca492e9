"""What a stage of training is worth: several ways to train on from the same weights, for equal processor time.

Every way has the same schedule (warm-up, then a cosine to zero over its processor time), the same batches of training
images and the same held-out images, so differences are taken image by image. The VQ-VAE that is trained on is the
control that a sceptic asks for: without it, what more steps bring would pass for what the method brings. Methods that
need another model start from one of their own, trained for as long.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.reports import machine_lines, new_figure, png_of, report, table
from daps_tokenizer.evaluation.metrics import psnr
from daps_tokenizer.model.autoencoder import Autoencoder
from daps_tokenizer.model.recognition import RecognitionModel
from daps_tokenizer.model.sampling import sample_codes
from train.batches import BatchReader
from train.code_search import CodeSearch
from train.data import Dataset
from train.experiment import Experiment
from train.loop import step_generator
from train.methods import Batch, build_method
from train.optimisation import OptimiserConfig, Updates, apply_schedule, build_optimiser, clip_gradients

# What is measured of a model: unit and decimals. PSNR is of greedy codes, all others are log p(x|z).
MEASURES = {"greedy": ("nats", 1), "sampled": ("nats", 1), "searched": ("nats", 1), "PSNR": ("dB", 3)}
OF_A_QUANTISER = ("greedy", "PSNR")  # it gives no other codes to draw or to try
EVALUATION_BATCH = 100
WARMUP_STEPS = 20
SEARCH = CodeSearch(proposals=2)  # what users run by default
_GENTLE = {"beta_initial": 0.015, "beta_final": 0.015, "batch_norm": "frozen"}
# A large gap between the logits: samples are nearly the greedy codes.
_QUANTISER = {"batch_norm": "frozen", "revive_every": 0, "logit_gap": 12.0}


@dataclass(frozen=True)
class Way:
    """A method with its settings, learning rate and batch, and what of them was tuned."""

    method: str
    settings: dict[str, Any]
    learning_rate: float
    batch_size: int
    tuned: str


_CIFAR10 = {
    "counterfactual": Way(
        "daps",
        _GENTLE | {"num_samples": 1, "credit": "counterfactual", "trust_region": "solved", "kl_target": 0.002},
        8e-4,
        64,
        "learning rate (3e-4, 8e-4) and KL target (0.0005, 0.002, 0.003), 400 s each",
    ),
    "local": Way(
        "daps",
        _GENTLE | {"num_samples": 8, "credit": "local", "eta_initial": 4.0},
        1e-4,
        16,
        "learning rate (5e-5, 1e-4), 100 s each",
    ),
    "global": Way(
        "daps",
        _GENTLE | {"num_samples": 8, "credit": "global", "eta_initial": 4.0},
        1e-4,
        16,
        "as local",
    ),
    "VQ-VAE": Way(
        "vqvae",
        _QUANTISER,
        7e-4,
        64,
        "nothing: the learning rate is that of the VQ-VAE stage before",
    ),
}
_PHOTO_STOCK = {
    "num_samples": 4,
    "beta_initial": 0.02,
    "beta_final": 0.01,
    "ess_target": 0.4,
    "eta_initial": 4.0,
    "batch_norm": "frozen",
}
_COUNTERFACTUAL_PHOTOS = _GENTLE | {
    "num_samples": 1,
    "credit": "counterfactual",
    "trust_region": "solved",
    "kl_target": 0.003,
}
_SQUARED_ERRORS = {"squared_error_weight": 5.0}
_PHOTOS = {
    "counterfactual": Way(
        "daps",
        _COUNTERFACTUAL_PHOTOS,
        6e-4,
        16,
        "nothing: settings of photo_counterfactual_128.yaml, whose learning rate was chosen of 1.5e-4 and 6e-4",
    ),
    "local": Way(
        "daps",
        _PHOTO_STOCK | {"credit": "local"},
        1e-4,
        16,
        "nothing: settings of photo_compare, learning rate (5e-5, 1e-4) and ESS target (0.25, 0.4)",
    ),
    "global": Way("daps", _PHOTO_STOCK | {"credit": "global"}, 1e-4, 16, "as local"),
    "counterfactual, squared errors": Way(
        "daps",
        _COUNTERFACTUAL_PHOTOS | _SQUARED_ERRORS,
        6e-4,
        16,
        "nothing: settings of photo_closer_128.yaml",
    ),
    "VQ-VAE": Way("vqvae", _QUANTISER, 3e-4, 16, "nothing"),
    "VQ-VAE, squared errors": Way("vqvae", _QUANTISER | _SQUARED_ERRORS, 3e-4, 16, "nothing"),
    "FSQ": Way("fsq", {"batch_norm": "frozen"}, 3e-4, 16, "nothing"),
}
WAYS = {"cifar10": _CIFAR10, "photos": _PHOTOS}  # by dataset


@dataclass
class Point:
    """Processor seconds and steps until then, and what :func:`measure` found."""

    seconds: float
    steps: int
    values: dict[str, np.ndarray] = field(repr=False)


def train_on(
    way: Way,
    checkpoint: Path,
    experiment: Experiment,
    dataset: Dataset,
    held_out: np.ndarray,
    *,
    seconds: float,
    points: int,
    seed: int,
    on_point: Callable[[Point], None] = lambda point: None,
) -> list[Point]:
    """Train from a checkpoint for some processor time, and measure before, in between and at the end.

    Args:
        way: how.
        checkpoint: the start, as ``start_from`` of an experiment: a folder, which may be of a smaller model.
        experiment: its model is trained, at its precision.
        dataset: whose training items are learned from.
        held_out: inputs (items, *input_shape) that are measured.
        seconds: of one processor, evaluations and reading of data not counted.
        points: measurements after the first.
        seed: of batches and samples.
        on_point: told each measurement.
    """
    torch.manual_seed(seed)
    model = Autoencoder(experiment.model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    experiment.load_start(model, checkpoint)
    schedule = OptimiserConfig(learning_rate=way.learning_rate, warmup_steps=WARMUP_STEPS)
    bf16 = experiment.precision == "bf16"
    inputs = torch.from_numpy(held_out)
    found = [Point(0.0, 0, measure(model, inputs))]
    on_point(found[0])
    method = build_method(way.method, model, way.settings)
    method.start()
    optimiser = build_optimiser(method, schedule)
    views = experiment.data.crops_per_image if experiment.data else 1
    reader, updates = BatchReader(dataset.train, way.batch_size, seed, views=views), Updates(method)
    spent, steps = 0.0, 0
    for due in np.linspace(0, seconds, points + 1)[1:]:
        method.train()
        started = time.process_time() - spent
        while spent < due:
            apply_schedule(optimiser, schedule, steps, 2**31)  # time ends the run, and the cosine below
            decay = 0.5 * (1 + math.cos(math.pi * min(1.0, spent / seconds)))
            for group in optimiser.param_groups:
                group["lr"] *= decay
            reading = time.process_time()
            batch = Batch(torch.from_numpy(reader(steps)))
            started += time.process_time() - reading
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                losses = method(batch, step_generator(seed, steps, 0, torch.device("cpu")), spent / seconds)
            optimiser.zero_grad()
            losses.total.backward()
            updates.make(optimiser, clip_gradients(method, schedule))
            steps += 1
            spent = time.process_time() - started
        method.before_checkpoint()  # writes a quantiser's head, so that its autoregressive model is what is measured
        found.append(Point(spent, steps, measure(model, inputs)))
        on_point(found[-1])
    return found


@torch.no_grad()
def measure(model: Autoencoder, inputs: Tensor) -> dict[str, np.ndarray]:
    """:data:`MEASURES` of each input, (items,): log p(x|z) of ``greedy``, ``sampled`` and ``searched`` codes, and
    ``PSNR`` of greedy ones."""
    model.eval()
    generator = torch.Generator().manual_seed(0)
    draws = isinstance(model.recognition, RecognitionModel)
    values: dict[str, list[Tensor]] = {name: [] for name in (MEASURES if draws else OF_A_QUANTISER)}
    for part in inputs.split(EVALUATION_BATCH):
        x = model.standardise(part)
        context = model.recognition.context(x)
        uniform = torch.rand(len(x), model.config.num_tokens, generator=generator)
        greedy = sample_codes(model.recognition, context, uniform, 0.0).codes
        mean = model.likelihood.moments(model.generative(greedy)).mean
        values["PSNR"].append(torch.from_numpy(psnr(part.numpy(), model.to_input_units(mean).numpy())))
        if not draws:
            values["greedy"].append(model.log_likelihood(x, greedy).double())
            continue
        sampled = sample_codes(model.recognition, context, uniform, 1.0).codes
        logits = model.recognition.logits(context, greedy).float()
        searched = SEARCH.run(model, x, greedy, logits, generator)
        values["greedy"].append(searched.values_before.sum(1))
        values["sampled"].append(model.log_likelihood(x, sampled).double())
        values["searched"].append(searched.values.sum(1))
    return {kind: torch.cat(parts).numpy() for kind, parts in values.items()}


def summarise(way: Way, found: list[Point]) -> dict[str, Any]:
    """What a report keeps of a run: at each point the mean gain over the start and its paired standard error."""
    start = found[0]
    curve = []
    for point in found:
        images = point.steps * way.batch_size
        entry: dict[str, Any] = {"seconds": point.seconds, "steps": point.steps, "images": images}
        for kind in point.values:
            gain = point.values[kind] - start.values[kind]
            entry[kind] = float(point.values[kind].mean())
            entry[f"{kind}_gain"] = float(gain.mean())
            entry[f"{kind}_gain_error"] = float(gain.std(ddof=1) / math.sqrt(len(gain)))
        curve.append(entry)
    return {"curve": curve}


def write_text(title: str, content: dict[str, Any]) -> str:
    """The report for people: the last point of every run, the settings, what was tuned."""
    columns = [f"{name}, {unit}" for name, (unit, _) in MEASURES.items()]
    rows = []
    for run in content["runs"]:
        last = run["curve"][-1]
        cells = [
            f"{last[name]:.{digits}f} ({last[f'{name}_gain']:+.{digits}f} ± {last[f'{name}_gain_error']:.{digits}f})"
            if name in last
            else "–"
            for name, (_, digits) in MEASURES.items()
        ]
        rows.append((run["start"], run["way"], run["seed"], f"{last['seconds']:.0f}", f"{last['images']:,}", *cells))
    tuned = [
        (name, way.learning_rate, way.batch_size, way.tuned)
        for name, way in WAYS[content["dataset"]].items()
        if any(run["way"] == name for run in content["runs"])
    ]
    return report(
        title,
        content["commands"],
        table(("start", "way", "seed", "CPU s", "images", *columns), rows),
        f"Mean log p(x|z), and PSNR of greedy codes, of {content['items']} held-out items, and the gain over the start "
        "with the standard error of paired differences. All have equal processor time, one thread, "
        f"{content['precision']}; evaluations and reading of data are not counted. Searched: one sweep, two "
        "proposals. A quantiser with an encoder of its own has greedy codes alone.",
        table(("way", "learning rate", "batch", "what was tuned"), tuned),
        machine_lines((f"{run['way']} (seed {run['seed']})", run["machine"]) for run in content["runs"]),
        machine=None,
    )


def plot(content: dict[str, Any]) -> bytes:
    """What was measured against processor time, one panel for each measure."""
    figure = new_figure(5 * len(MEASURES), 4)
    colours = {way: f"C{number}" for number, way in enumerate(WAYS[content["dataset"]])}
    for axes, (name, (unit, _)) in zip(figure.subplots(1, len(MEASURES)), MEASURES.items(), strict=True):
        for run in content["runs"]:
            xs = [point["seconds"] / 60 for point in run["curve"]]
            ys = [point.get(name, math.nan) for point in run["curve"]]
            axes.plot(xs, ys, "o-", color=colours[run["way"]], label=f"{run['way']}, seed {run['seed']}")
        label = "log p" if unit == "nats" else "greedy codes"
        axes.set(title=name, xlabel="processor minutes", ylabel=f"{label}, {unit}")
        axes.grid(alpha=0.3)
    axes.legend()
    return png_of(figure)
