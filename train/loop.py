"""The training loop: one for every method, on a CPU, one GPU or several; a run stops and resumes exactly."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast

from daps_tokenizer.config import config_from_dict
from daps_tokenizer.errors import ConfigError, DapsError, ModelFileError
from train.alignment import align_with_input
from train.batches import BatchReader, read_ahead, spare_cores
from train.captured import CapturedStep, prepare_to_capture
from train.checkpoint import has_checkpoint, load_checkpoint, read_record, save_checkpoint
from train.data import Dataset
from train.generators.experiment import AnyExperiment
from train.methods.base import Batch, Learner
from train.optimisation import (
    AveragedWeights,
    Updates,
    apply_schedule,
    averaged_weights,
    build_optimiser,
    clip_gradients,
    served_weights,
)
from train.processes import TrainingStopped, ending_together, join_processes, locked, means_of_all, told_to_stop
from train.recorder import Recorder

MAX_SKIPPED_IN_A_ROW = 100
SKIPS_ARE_READ_EVERY = 50  # steps, because reading waits for the device


class TrainingDiverged(DapsError):  # noqa: N818 - it is an outcome, not a mistake in the call
    """Gradients were not finite for more than 100 steps in a row."""


def fit(
    experiment: AnyExperiment,
    dataset: Dataset,
    run_folder: Path,
    *,
    max_seconds: float | None = None,
    show_progress: bool = True,
    draw_pictures: bool = True,
    cuda_graph: bool = False,
    accelerator: Accelerator | None = None,
) -> dict[str, Any]:
    """Train until the experiment's last step, or until ``max_seconds`` have passed; resumes by itself.

    Args:
        experiment: what to train, and how.
        dataset: items of the model's input shape.
        run_folder: receives ``checkpoint/`` and ``metrics.jsonl``, and with pictures ``tensorboard/`` and
            ``dashboard.png``.
        max_seconds: stop, evaluate and save after this many seconds, to be resumed by the same call.
        show_progress: a bar on the terminal.
        draw_pictures: TensorBoard's curves, and ``dashboard.png`` at every evaluation, which takes seconds.
        cuda_graph: every step is one CUDA graph (train/captured.py); for one process on an NVIDIA GPU.
        accelerator: what :func:`train.processes.join_processes` returned; called here if None.

    Returns:
        The run's record, as in ``checkpoint/training.json``.

    Raises:
        InUseError: another process trains in the run folder.
        ConfigError: the run folder holds a run of other settings, or on other items; or a step that cannot be a CUDA
            graph is to be one.
        InputError: an item cannot be read.
        WorkerEnded: a process that reads batches was killed.
        TrainingDiverged: more than 100 updates in a row had gradients that were not finite; noticed within 50 more.
        TrainingStopped: Ctrl-C or SIGTERM; what was reached is saved.
    """
    if experiment.validation_items and dataset.validation is None:
        raise ConfigError(f"{experiment.name}: validation_items is set and the dataset was opened without any")
    accelerator = accelerator or join_processes(experiment.precision)
    check_shares(experiment, accelerator.num_processes)
    with locked(run_folder) if accelerator.is_main_process else nullcontext(), ending_together(run_folder):
        return _fit(experiment, dataset, run_folder, accelerator, max_seconds, show_progress, draw_pictures, cuda_graph)


def _fit(
    experiment: AnyExperiment,
    dataset: Dataset,
    run_folder: Path,
    accelerator: Accelerator,
    max_seconds: float | None,
    show_progress: bool,
    draw_pictures: bool,
    cuda_graph: bool,
) -> dict[str, Any]:
    if cuda_graph and (accelerator.device.type != "cuda" or accelerator.num_processes > 1):
        raise ConfigError("a CUDA graph of the whole step needs one process on an NVIDIA GPU")
    clock = _Clock()
    torch.manual_seed(experiment.seed)
    if accelerator.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 where products are float32, as cuDNN's convolutions have it
    model = experiment.build_model().to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    method = experiment.build_method(model).to(accelerator.device)
    optimiser = build_optimiser(method, experiment.optimiser)
    record, averaged = _restore_or_start(experiment, dataset, run_folder, method, optimiser)
    if cuda_graph:
        prepare_to_capture(method, optimiser)
    prepared, optimiser = accelerator.prepare(method, optimiser)

    updates = Updates(method)

    def update_weights(batch: Batch, generator: torch.Generator, progress: float) -> dict[str, torch.Tensor]:
        losses = prepared(batch, generator, progress)
        optimiser.zero_grad()
        accelerator.backward(losses.total)
        updates.make(optimiser, clip_gradients(method, experiment.optimiser))
        metrics: dict[str, torch.Tensor] = losses.metrics | {"loss": losses.total.detach()}
        return metrics

    make_step = CapturedStep(update_weights, accelerator.device) if cuda_graph else update_weights
    steps = range(record["steps"], experiment.steps)
    reader = _batch_reader(experiment, dataset, accelerator)
    with (
        _denormals_as_zero(),
        read_ahead(reader, steps, workers=_num_workers(experiment, accelerator)) as batches,
        (
            Recorder(run_folder, experiment, record["steps"], show_progress=show_progress, draw_pictures=draw_pictures)
            if accelerator.is_main_process
            else nullcontext()
        ) as recorder,
        told_to_stop() as is_told,
    ):
        for step in steps:
            prepared.train()
            asked = time.monotonic()
            items = next(batches)
            clock.waited += time.monotonic() - asked
            batch = Batch(_on_device(items, accelerator), _labels(dataset, reader, step, accelerator))
            process = 0 if method.draws_for_all else accelerator.process_index
            generator = step_generator(experiment.seed, step, process, accelerator.device)
            apply_schedule(optimiser, experiment.optimiser, step, experiment.steps)
            metrics = make_step(batch, generator, step / experiment.steps)
            _share_buffers(method, accelerator)
            method.after_step(step, step_generator(experiment.seed, step, 0, accelerator.device))
            if averaged is not None:
                averaged.update(step)

            record["steps"] = step + 1
            out_of_time = max_seconds is not None and _agree(clock.seconds() > max_seconds, accelerator)
            last = step + 1 == experiment.steps or out_of_time
            if last or (step + 1) % SKIPS_ARE_READ_EVERY == 0:
                _check_skipped(updates, run_folder)
            if (step + 1) % experiment.log_every == 0:
                metrics = means_of_all(metrics, accelerator.device)
            if recorder is not None:
                recorder.step(step, metrics)
            # An evaluation takes longer than a scheduler waits.
            if recorder is not None and (last or ((step + 1) % experiment.evaluate_every == 0 and not is_told())):
                _evaluate(experiment, dataset, method, averaged, record, recorder, step)
            stopping = is_told()
            if recorder is not None and (last or stopping or (step + 1) % experiment.checkpoint_every == 0):
                save_checkpoint(run_folder / "checkpoint", method, optimiser, record | clock.totals(record), averaged)
            if stopping:
                raise TrainingStopped(f"{run_folder}: stopped; step {step + 1} is saved, the same command resumes")
            if out_of_time:
                break
    accelerator.wait_for_everyone()  # until the checkpoint is written
    return record | clock.totals(record)


def check_shares(experiment: AnyExperiment, num_processes: int) -> None:
    """The mean of the processes' losses is that of the batch only if each has as many items.

    Raises:
        ConfigError: the batch cannot be shared equally.
    """
    views = experiment.data.crops_per_image if experiment.data else 1
    if (experiment.batch_size // views) % num_processes:
        crops = "" if views == 1 else f" of {views} crops an image"
        raise ConfigError(
            f"{experiment.name}: batch_size {experiment.batch_size}{crops} cannot be shared equally by "
            f"{num_processes} processes; expected a multiple of {views * num_processes}"
        )


@contextmanager
def _denormals_as_zero() -> Iterator[None]:
    """Gradients and probabilities of 1e-40 abound where q(z|x) is sharp: worth nothing, and slow on a CPU."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


class _Clock:
    """Time since the loop was entered, and how much of it was spent waiting for data."""

    def __init__(self) -> None:
        self.started, self.started_cpu, self.waited = time.monotonic(), time.process_time(), 0.0

    def seconds(self) -> float:
        return time.monotonic() - self.started

    def totals(self, record: dict[str, Any]) -> dict[str, float]:
        """Seconds of the whole run so far, its evaluations included; ``cpu_seconds`` are this process's, whatever else
        the machine does."""
        return {
            "seconds": record["seconds"] + self.seconds(),
            "cpu_seconds": record.get("cpu_seconds", 0.0) + time.process_time() - self.started_cpu,
            "data_seconds": record.get("data_seconds", 0.0) + self.waited,
        }


def _evaluate(
    experiment: AnyExperiment,
    dataset: Dataset,
    method: Learner,
    averaged: AveragedWeights | None,
    record: dict[str, Any],
    recorder: Recorder,
    step: int,
) -> None:
    """Evaluate the weights of the checkpoint's model.safetensors; if they are an average, the latest weights too."""
    if averaged is not None:
        method.before_checkpoint()
        record["validation_raw"] = experiment.evaluate(method, dataset.watched)  # type: ignore[arg-type]
        recorder.record(step, "validation_raw", record["validation_raw"])
    with served_weights(method, averaged):
        record["validation"] = experiment.evaluate(method, dataset.watched)  # type: ignore[arg-type]
        record["validation_step"] = step + 1
        recorder.evaluation(step, record["validation"], method, dataset.watched)


def _check_skipped(updates: Updates, run_folder: Path) -> None:
    skipped = updates.skipped_in_a_row()
    if skipped > MAX_SKIPPED_IN_A_ROW:
        raise TrainingDiverged(f"{run_folder}: gradients not finite for {skipped} steps in a row")


def _on_device(array: np.ndarray, accelerator: Accelerator) -> torch.Tensor:
    """An array on the device; to a GPU from pinned memory, so that nothing waits for the copy."""
    tensor = torch.from_numpy(array)
    if accelerator.device.type != "cuda":
        return tensor.to(accelerator.device)
    return tensor.pin_memory().to(accelerator.device, non_blocking=True)


def step_generator(seed: int, step: int, process: int, device: torch.device) -> torch.Generator:
    """All randomness of one step on one process: a function of these, so there is no state to save."""
    digest = hashlib.sha256(f"{seed}/{step}/{process}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def _agree(value: bool, accelerator: Accelerator) -> bool:
    """The main process's answer on all processes: they must stop at the same step."""
    if accelerator.num_processes == 1:
        return value
    return bool(broadcast(torch.tensor(float(value), device=accelerator.device)))


def _share_buffers(method: Learner, accelerator: Accelerator) -> None:
    """The main process's buffers on all processes: what a method makes of them must not depend on the process."""
    if accelerator.num_processes > 1:
        for buffer in method.buffers():
            broadcast(buffer)


def _batch_reader(experiment: AnyExperiment, dataset: Dataset, accelerator: Accelerator) -> BatchReader:
    """What reads this process's share of the batches."""
    return BatchReader(
        dataset.train,
        experiment.batch_size,
        experiment.seed,
        views=experiment.data.crops_per_image if experiment.data else 1,
        process=accelerator.process_index,
        num_processes=accelerator.num_processes,
    )


def _labels(dataset: Dataset, reader: BatchReader, step: int, accelerator: Accelerator) -> torch.Tensor | None:
    """The labels of a step's batch; not read ahead, as they are in memory."""
    if dataset.train_labels is None:
        return None
    return _on_device(dataset.train_labels[reader.indices(step)].astype(np.int64), accelerator)


def _num_workers(experiment: AnyExperiment, accelerator: Accelerator) -> int:
    if experiment.data is None:
        return 0  # what is in memory needs no reading ahead
    chosen = experiment.data.workers
    here = int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes))  # of the processes, on this machine
    return spare_cores(here) if chosen is None else chosen


def _restore_or_start(
    experiment: AnyExperiment, dataset: Dataset, run_folder: Path, method: Learner, optimiser: torch.optim.Optimizer
) -> tuple[dict[str, Any], AveragedWeights | None]:
    """Resume the run that is in the folder, or begin one; returns its record so far, and its averaged weights."""
    checkpoint, decay = run_folder / "checkpoint", experiment.optimiser.ema
    if has_checkpoint(checkpoint):
        before = read_record(checkpoint)
        _check_same_run(experiment, dataset, before, run_folder)
        averaged = averaged_weights(method, decay)
        return load_checkpoint(checkpoint, method, optimiser, averaged), averaged
    stages: list[dict[str, Any]] = []
    if experiment.start_from is not None:
        source = Path(experiment.start_from)
        if not source.is_dir():
            raise ModelFileError(
                f"start_from: {source}: no such folder; expected a checkpoint or a model folder. One under runs/ is "
                "made by an earlier stage: run that first, or all stages in order with `python -m train chain`"
            )
        experiment.load_start(method.model, source)
        stage = read_record(source)
        stages = [*stage.pop("stages_before"), stage]
    if experiment.aligned:
        align_with_input(method.model.recognition)
    method.prepare(dataset.train, experiment.seed)
    method.start()
    record = {
        "experiment": _settings(experiment),
        "train_items": len(dataset.train),
        "steps": 0,
        "seconds": 0.0,
        "stages_before": stages,
        "versions": _versions(),
    }
    return record, averaged_weights(method, decay)


def _check_same_run(experiment: AnyExperiment, dataset: Dataset, record: dict[str, Any], run_folder: Path) -> None:
    """A setting that the record does not have, because it is newer than the run, had its default then."""
    source = str(run_folder / "checkpoint" / "training.json")
    before = _settings(config_from_dict(type(experiment), record["experiment"], source=source))
    advice = "choose another --run folder (with torchrun: --set name=OTHER) or delete it"
    changed = [key for key, value in _settings(experiment).items() if value != before[key]]
    if changed:
        raise ConfigError(f"{run_folder}: holds a run with another {', '.join(changed)}; {advice}")
    items = record.get("train_items", len(dataset.train))
    if items != len(dataset.train):
        raise ConfigError(f"{run_folder}: holds a run on {items} training items, not {len(dataset.train)}; {advice}")


def _settings(experiment: AnyExperiment) -> dict[str, Any]:
    """What decides a run, as JSON reads it back: tuples become lists. How many processes read ahead decides nothing."""
    if experiment.data is not None:
        experiment = replace(experiment, data=replace(experiment.data, workers=None))
    settings: dict[str, Any] = json.loads(json.dumps(asdict(experiment)))
    return settings


def _versions() -> dict[str, str]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return {"torch": torch.__version__, "device": device}
