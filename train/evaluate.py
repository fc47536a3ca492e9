"""How good a tokenizer is on held-out items: while it trains, by the codes that its method draws; a checkpoint through
the Tokenizer and the evaluation that users run. Never averaged per batch, sampled and greedy codes side by side.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from daps_tokenizer.backends.torch import TorchBackend
from daps_tokenizer.config import TokenizerConfig
from daps_tokenizer.errors import ModelFileError
from daps_tokenizer.evaluation.evaluate import BATCH, ways_to_encode
from daps_tokenizer.evaluation.evaluate import evaluate as evaluate_tokenizer
from daps_tokenizer.evaluation.metrics import code_usage, image_metrics
from daps_tokenizer.evaluation.timing import describe_machine
from daps_tokenizer.files import write_bytes_atomically
from daps_tokenizer.hub import ModelFolder
from daps_tokenizer.model.autoencoder import Autoencoder, load_weights
from daps_tokenizer.tokenizer import Tokenizer
from train.data import open_trained_data
from train.items import Items
from train.methods.base import TrainedModel


@dataclass(frozen=True)
class TestData:
    """Test items, all or ``limit`` of them spread evenly, as what :mod:`daps_tokenizer.evaluation` measures."""

    items: Items
    description: str
    limit: int | None = None
    fit: str = "none"
    labels: None = None
    classes: None = None

    def __len__(self) -> int:
        return len(self.items) if self.limit is None else min(self.limit, len(self.items))

    def entries(self) -> Iterable[tuple[str, int]]:
        return ((str(number), -1) for number in range(len(self)))

    def read(self, indices: np.ndarray) -> np.ndarray:
        return self.items.read(indices * len(self.items) // len(self), seed=(0,))


@torch.no_grad()
def evaluate(method: TrainedModel, items: Items, *, limit: int | None = None, seed: int = 0) -> dict[str, float]:
    """Means over all items, or over ``limit`` that are spread evenly over them, of a method that is being trained.

    Args:
        method: encodes with the weights it trains.
        items: uint8 images or float32 features; read in chunks.
        limit: how many items at most.
        seed: of the uniforms that sampled codes are drawn with.

    Returns:
        ``sampled_log_p`` and ``greedy_log_p`` (nats), their ``_l2`` (norm of the error per item, standardised units)
        and, of images, ``_psnr`` (dB) and ``_ssim``; ``kl`` of q from the prior and ``entropy`` of q (nats, both
        estimated from log q of the samples); the :mod:`code usage <daps_tokenizer.evaluation.metrics>` of the samples.
        Where the latent is continuous there is no ``entropy`` and no codes are used.
    """
    was_training = method.training
    method.eval()
    model = method.model
    generator = torch.Generator().manual_seed(seed)
    values: dict[str, list[np.ndarray]] = {}
    sampled_codes: list[np.ndarray] = []
    chosen = TestData(items, "", limit)
    for indices in np.array_split(np.arange(len(chosen)), range(BATCH, len(chosen), BATCH)):
        inputs = torch.from_numpy(chosen.read(indices))
        uniform = torch.rand(len(inputs), model.config.num_tokens, generator=generator).to(model.mean.device)
        inputs = inputs.to(model.mean.device)
        x = model.standardise(inputs)
        for kind, temperature in (("sampled", 1.0), ("greedy", 0.0)):
            parameters, kl, codes = method.reconstruct(x, uniform, temperature)
            mean = model.likelihood.moments(parameters).mean
            found = {
                "log_p": _array(model.likelihood.log_prob(parameters, x).flatten(1).sum(1)),
                "l2": _array((mean - x).square().flatten(1).sum(1).sqrt()),
            }
            if model.config.modality == "image":
                original = model.to_input_units(x) if model.config.likelihood.kind == "bernoulli" else inputs
                found |= image_metrics(_array(original), _array(model.to_input_units(mean)))
            found = {f"{kind}_{name}": value for name, value in found.items()}
            if kind == "sampled":
                found["kl"] = _array(kl)
                if codes is not None:
                    found["entropy"] = model.config.num_tokens * math.log(model.config.vocab_size) - found["kl"]
                    sampled_codes.append(_array(codes))
            for name, value in found.items():
                values.setdefault(name, []).append(value)
    method.train(was_training)
    means = {name: float(np.concatenate(parts).mean(dtype=np.float64)) for name, parts in values.items()}
    drawn = np.concatenate([np.empty((0, 1), np.int64), *sampled_codes], axis=None)
    usage = code_usage(drawn, model.config.vocab_size)
    return means | {name: float(value) for name, value in usage.items()} | {"items": float(len(chosen))}


def _array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.cpu().numpy()
    return array


class MeasuredCheckpoint(NamedTuple):
    """A checkpoint, the record of its training, and what was measured of it.

    ``items`` are of ``greedy`` codes, and of ``sampled`` ones where the model has probabilities, every metric of
    :func:`daps_tokenizer.evaluation.evaluate.measure` as ``greedy_log_p``, (items,) each; ``usage`` is of the samples.
    """

    tokenizer: Tokenizer
    record: dict[str, Any]
    items: dict[str, np.ndarray]
    usage: dict[str, float]


def measure_checkpoint(
    checkpoint: Path, data: Path | None = None, *, limit: int | None = None, seed: int = 0
) -> MeasuredCheckpoint:
    """Measure a checkpoint on the test items that it was not trained on, as ``daps-tokenize evaluate`` measures the
    model that is exported from it.

    Args:
        checkpoint: a checkpoint folder.
        data: the folder of the datasets; see :func:`daps_tokenizer.data.place.data_folder`.
        limit: that many items, spread evenly; all if None.
        seed: of the samples.

    Raises:
        ModelFileError: the folder is no checkpoint.
    """
    config_file, record_file = checkpoint / "config.json", checkpoint / "training.json"
    if not config_file.is_file() or not record_file.is_file():
        raise ModelFileError(f"{checkpoint}: no config.json and training.json; expected a checkpoint folder")
    record: dict[str, Any] = json.loads(record_file.read_text(encoding="utf-8"))
    model = Autoencoder(TokenizerConfig.from_file(config_file))
    load_weights(model, checkpoint / "model.safetensors")
    test = TestData(open_trained_data(record["experiment"], model.config, data).test, str(checkpoint), limit)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    backend = TorchBackend(model.to(device).eval(), device=device, dtype=torch.float32)
    tokenizer = Tokenizer(ModelFolder(checkpoint, model.config), backend)
    measured = evaluate_tokenizer(tokenizer, test, ways_to_encode(tokenizer), seed=seed)
    items = {f"{way}_{metric}": of for way, found in measured.items() for metric, of in found.items.items()}
    usage = code_usage(measured.get("sampled", measured["greedy"]).codes, model.config.vocab_size)
    return MeasuredCheckpoint(tokenizer, record, items, usage)


def evaluate_checkpoint(checkpoint: Path, data: Path | None = None, *, seed: int = 0) -> dict[str, Any]:
    """Measure a checkpoint on the whole test set, and record the result in its ``training.json``.

    Returns:
        The means of what :func:`measure_checkpoint` measured, ``entropy`` of q in nats, code usage, ``items``,
        ``dataset``, ``seed``, ``date`` and ``machine``.

    Raises:
        ModelFileError: the folder is no checkpoint, or was replaced by a run meanwhile.
    """
    _, record, items, usage = measure_checkpoint(checkpoint, data, seed=seed)
    found: dict[str, Any] = {name: float(values.mean(dtype=np.float64)) for name, values in items.items()}
    if "sampled_log_q" in found:
        found["entropy"] = -found["sampled_log_q"]
    found |= {name: float(value) for name, value in usage.items()}
    found |= {
        "items": float(len(items["greedy_log_p"])),
        "dataset": f"{record['experiment']['dataset']}, test set",
        "seed": seed,
        "date": datetime.date.today().isoformat(),
        "machine": describe_machine(),
    }
    record_file = checkpoint / "training.json"
    if json.loads(record_file.read_text(encoding="utf-8")) != record:
        raise ModelFileError(
            f"{checkpoint}: a run wrote another checkpoint while this one was measured; measure it again"
        )
    write_bytes_atomically(record_file, (json.dumps(record | {"evaluation": found}, indent=2) + "\n").encode())
    return found
