"""What a run leaves to look at: metrics as JSONL and TensorBoard, a dashboard picture, and a progress bar."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from daps_tokenizer.errors import ModelFileError
from daps_tokenizer.files import write_bytes_atomically
from train.items import Items
from train.methods.base import Learner

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from train.generators.experiment import AnyExperiment


class Recorder:
    """Writes to a run's folder; a context manager, so that the bar is closed and files are flushed on every way out."""

    def __init__(
        self,
        folder: Path,
        experiment: AnyExperiment,
        first_step: int,
        *,
        show_progress: bool,
        draw_pictures: bool,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.experiment, self.draw_pictures = folder, experiment, draw_pictures
        self.metrics_file = folder / "metrics.jsonl"
        _drop_lines_after(self.metrics_file, first_step)
        self.board = _open_tensorboard(folder / "tensorboard", first_step) if draw_pictures else None
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=Console(stderr=True),
            disable=not show_progress,
        )
        self.task = self.progress.add_task(experiment.name, total=experiment.steps, completed=first_step, status="")

    def __enter__(self) -> Recorder:
        self.progress.start()
        self.last_time, self.last_cpu, self.last_step = time.monotonic(), time.process_time(), None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()
        if self.board is not None:
            self.board.close()

    last_step: int | None

    def step(self, step: int, metrics: dict[str, Tensor]) -> None:
        """Called after every step; reads the metrics only when they are due, because that waits for the device."""
        if (step + 1) % self.experiment.log_every == 0:
            values = {name: float(value) for name, value in metrics.items()}
            now, cpu = time.monotonic(), time.process_time()
            if self.last_step is not None:
                steps = step - self.last_step
                values["seconds_per_step"] = (now - self.last_time) / steps
                values["cpu_seconds_per_step"] = (cpu - self.last_cpu) / steps  # whatever else the machine does
            self.last_time, self.last_cpu, self.last_step = now, cpu, step
            self.record(step, "train", values)
            title, metric = self.experiment.status
            self.progress.update(self.task, status=f"{title} {values.get(metric, float('nan')):.1f}")
        self.progress.update(self.task, completed=step + 1)

    def evaluation(self, step: int, values: dict[str, float], method: Learner, items: Items) -> None:
        """Called after an evaluation: writes it down and redraws the dashboard."""
        self.record(step, "validation", values)
        if self.draw_pictures:
            self.experiment.draw(self.folder / "dashboard.png", self.metrics_file, method, items)  # type: ignore[arg-type]
        self.last_time, self.last_cpu, self.last_step = time.monotonic(), time.process_time(), step

    def record(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Write a line of ``metrics.jsonl``."""
        line = json.dumps({"step": step + 1, "kind": kind, **values})
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(f"{kind}/{name}", value, step + 1)


def _open_tensorboard(folder: Path, first_step: int) -> SummaryWriter:
    from torch.utils.tensorboard import SummaryWriter  # takes a second to import

    return SummaryWriter(str(folder), purge_step=first_step + 1)  # a step is written as the number of steps made


def read_metrics(path: Path) -> list[dict[str, float | str]]:
    """The lines of a ``metrics.jsonl``, without the last one where a run was killed while it wrote it.

    Raises:
        ModelFileError: another line is damaged.
    """
    content = path.read_bytes()
    lines = []
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or not isinstance(record.get("step"), int) or "kind" not in record:
            raise ModelFileError(
                f"{path}: line {number} is not a record of a step; repair it or move the file away, and run again"
            )
        lines.append(record)
    return lines


def _drop_lines_after(path: Path, step: int) -> None:
    """Forget what was recorded after the checkpoint that the run resumes from."""
    if path.exists():
        kept = [json.dumps(line) for line in read_metrics(path) if int(line["step"]) <= step]
        write_bytes_atomically(path, "".join(line + "\n" for line in kept).encode())
