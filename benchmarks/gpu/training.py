"""Training steps on a GPU: as the loop makes them, and as one CUDA graph.

``python -m benchmarks.gpu.training --out training.json``. Batches are noise and weights are those a run starts from.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import click
import torch
from accelerate import Accelerator

from benchmarks.gpu.record import Record, reason_of
from daps_tokenizer.model.autoencoder import Autoencoder, load_weights
from train.captured import CapturedStep, MakeStep, prepare_to_capture
from train.experiment import Experiment, load_experiment
from train.methods import Batch, build_method
from train.optimisation import Updates, apply_schedule, build_optimiser, clip_gradients
from train.processes import join_processes

_CONFIGS = ("train/configs/photo_counterfactual_gpu.yaml", "train/configs/cifar10_counterfactual.yaml")


@click.command()
@click.option("--config", "configs", multiple=True, type=click.Path(path_type=Path), default=_CONFIGS)
@click.option("--batch", "batches", multiple=True, type=int, help="Items in a step; default: the config's.")
@click.option(
    "--steps", default=20, show_default=True, type=click.IntRange(min=2), help="After five that do not count."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The JSON file to write.")
def main(configs: tuple[Path, ...], batches: tuple[int, ...], steps: int, out: Path) -> None:
    """Time training steps; a row that cannot be measured says why."""
    record = Record(out)
    for config in configs:
        experiment = load_experiment(config, ())
        for batch in batches or (experiment.batch_size,):
            for captured in (False, True):
                row = {"config": str(config), "batch": batch, "step": "CUDA graph" if captured else "eager"}
                try:
                    record.add(row | _time(experiment, batch, steps, captured=captured))
                except Exception as error:  # what cannot be captured is a finding too
                    record.add(row | {"reason": reason_of(error)})


def _time(experiment: Experiment, size: int, steps: int, *, captured: bool) -> dict[str, Any]:
    """Milliseconds a step, and how the loss went; both ways make the same steps on the same batches."""
    accelerator = join_processes(experiment.precision)
    device = accelerator.device
    torch.manual_seed(0)
    model = Autoencoder(experiment.model).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert experiment.start_from is not None
    load_weights(model, Path(experiment.start_from) / "model.safetensors")
    method = build_method(experiment.method, model, experiment.settings).to(device)
    optimiser = build_optimiser(method, experiment.optimiser)
    if captured:
        prepare_to_capture(method, optimiser)
    make_step = _step(method, optimiser, experiment, accelerator)
    if captured:
        make_step = CapturedStep(make_step, device)
    generator = torch.Generator(device).manual_seed(0)
    shape = (size, *experiment.model.input_shape)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=device, generator=generator)
    milliseconds, metrics = [], {}
    for step in range(5 + steps):
        started = time.perf_counter()
        apply_schedule(optimiser, experiment.optimiser, step, experiment.steps)
        seeded = torch.Generator(device).manual_seed(step)
        metrics = make_step(Batch(images), seeded, step / experiment.steps)
        if device.type == "cuda":
            torch.cuda.synchronize()
        milliseconds.append(1e3 * (time.perf_counter() - started))
    median = statistics.median(milliseconds[5:])
    finally_ = {name: float(value) for name, value in metrics.items()}
    return {"median_ms": median, "items_per_second": 1e3 * size / median, "first_ms": milliseconds[:5]} | finally_


def _step(method: Any, optimiser: Any, experiment: Experiment, accelerator: Accelerator) -> MakeStep:
    prepared, optimiser = accelerator.prepare(method.train(), optimiser)
    updates = Updates(method)

    def make_step(batch: Batch, generator: torch.Generator, progress: float) -> dict[str, torch.Tensor]:
        losses = prepared(batch, generator, progress)
        optimiser.zero_grad()
        accelerator.backward(losses.total)
        updates.make(optimiser, clip_gradients(method, experiment.optimiser))
        metrics: dict[str, torch.Tensor] = losses.metrics
        return metrics

    return make_step


if __name__ == "__main__":
    main()
