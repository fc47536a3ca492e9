"""One experiment, one YAML file: the model, the data, the method and the schedule, checked before anything runs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from daps_tokenizer.config import TokenizerConfig, config_from_dict
from daps_tokenizer.errors import ConfigError

DatasetKind = Literal["mnist", "cifar10"]


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW with linear warm-up; ``cosine`` decays to ``final_fraction`` of the learning rate at the last step."""

    learning_rate: float = 3e-4
    weight_decay: float = 1e-4
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    final_fraction: float = 0.0
    clip_norm: float = 1.0

    def factor(self, step: int, total_steps: int) -> float:
        """What the learning rates are multiplied by at a step, in [0, 1]."""
        warmup = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.schedule == "constant":
            return warmup
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / total_steps)))
        return warmup * (self.final_fraction + (1 - self.final_fraction) * cosine)


@dataclass(frozen=True)
class Experiment:
    """Everything a run depends on.

    Args:
        name: the run's folder under ``runs/``.
        model: a ``TokenizerConfig``; in YAML also the path of a file that holds one, relative to the experiment's.
        dataset: which data the model is trained and evaluated on.
        method: a name in ``train.methods``; ``settings`` are that method's own.
        start_from: a checkpoint folder whose weights the run starts from.
        precision: ``bf16`` runs matrix products in bfloat16 (autocast), weights stay float32.
        evaluate_every: steps between evaluations on the first ``evaluation_items`` test items.
    """

    name: str
    model: TokenizerConfig
    dataset: DatasetKind
    method: str
    steps: int
    batch_size: int
    settings: dict[str, Any] = field(default_factory=dict)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    start_from: str | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0
    log_every: int = 50
    evaluate_every: int = 1000
    evaluation_items: int = 1000
    checkpoint_every: int = 1000

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "evaluate_every", "evaluation_items", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")


def load_experiment(path: Path) -> Experiment:
    """Read an experiment's YAML file.

    Raises:
        ConfigError: missing file, not YAML, unknown or missing keys, impossible values; names the file and the key.
    """
    content = _read_yaml(path)
    if isinstance(content, dict) and isinstance(content.get("model"), str):
        content["model"] = _read_yaml(path.parent / content["model"])
    return config_from_dict(Experiment, content, source=str(path))


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML ({str(error).splitlines()[0]})") from error
