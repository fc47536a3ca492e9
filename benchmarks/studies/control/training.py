"""What trainers of the policy share: iterations until the time is over, a log, and resuming from a folder."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Adam

from benchmarks.studies.control.tracking import Tracking
from daps_tokenizer.errors import InputError


class Trainer(ABC):
    """Trains a policy in a folder: ``policy.safetensors``, other networks, ``trainer.safetensors`` (Adam),
    ``log.jsonl``."""

    def __init__(
        self, tracking: Tracking, networks: dict[str, nn.Module], rates: dict[str, float], folder: Path
    ) -> None:
        self.tracking, self.networks, self.folder = tracking, networks, folder
        self.optimisers = {name: Adam(networks[name].parameters(), lr=rate, eps=1e-5) for name, rate in rates.items()}
        self.steps = self.seconds = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "trainer.safetensors").is_file():
            self._resume()

    @abstractmethod
    def iterate(self, observation: Tensor) -> tuple[Tensor, dict[str, float]]:
        """One iteration from observations (B, O); the next ones, and what to log, with ``samples``: control steps."""

    def train(self, *, max_seconds: float, max_steps: float = float("inf")) -> None:
        """Iterate until the time or the steps are over, from where the folder's last run stopped."""
        began = saved = time.monotonic()
        before = self.seconds
        observation = torch.from_numpy(self.tracking.reset())
        while time.monotonic() - began < max_seconds and self.steps < max_steps:
            cpu = time.process_time()
            observation, record = self.iterate(observation)
            self.steps += record["samples"]
            self.seconds = before + time.monotonic() - began
            record |= {"steps": int(self.steps), "seconds": round(self.seconds, 1)}
            record["steps_per_cpu_second"] = round(record.pop("samples") / (time.process_time() - cpu))
            with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(record) + "\n")
            if time.monotonic() - saved > 60:
                self._save()
                saved = time.monotonic()
        self._save()

    def _save(self) -> None:
        for name, network in self.networks.items():
            _write({key: value.contiguous() for key, value in network.state_dict().items()}, self.folder / name)
        tensors = {"numbers": torch.tensor([self.steps, self.seconds])}
        for name, optimiser in self.optimisers.items():
            tensors[f"{name}.rate"] = torch.tensor(optimiser.param_groups[0]["lr"])
            for number, parts in optimiser.state_dict()["state"].items():
                tensors |= {f"{name}.{number}.{key}": value for key, value in parts.items()}
        _write(tensors, self.folder / "trainer")

    def _resume(self) -> None:
        for name, network in self.networks.items():
            load_network(network, self.folder / f"{name}.safetensors")
        tensors = load_file(self.folder / "trainer.safetensors")
        self.steps, self.seconds = tensors.pop("numbers").tolist()
        for name, optimiser in self.optimisers.items():
            content = optimiser.state_dict()
            content["param_groups"][0]["lr"] = tensors[f"{name}.rate"].item()
            for key, value in tensors.items():
                owner, *number, part = key.split(".")
                if owner == name and number:
                    content["state"].setdefault(int(number[0]), {})[part] = value
            optimiser.load_state_dict(content)


def load_network(network: nn.Module, path: Path) -> None:
    """Read weights; a policy with a condition takes those of one without, and starts its condition at zero."""
    own = network.state_dict()
    kept = {name: value for name, value in load_file(path).items() if own[name].shape == value.shape}
    network.load_state_dict(own | kept)


def policy_size(path: Path) -> int:
    """How many numbers the observations of a policy have.

    Raises:
        InputError: there is no policy.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a policy that `benchmarks control train` wrote")
    return len(load_file(path)["normalise.mean"])


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    save_file(tensors, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path.with_suffix(".safetensors"))
