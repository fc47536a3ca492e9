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
from daps_tokenizer.evaluation.evaluate import evaluate as evaluate_tokenizer
from daps_tokenizer.evaluation.evaluate import ways_to_encode
from daps_tokenizer.evaluation.metrics import code_usage, image_metrics
from daps_tokenizer.files import write_bytes_atomically
from daps_tokenizer.hub import ModelFolder
from daps_tokenizer.model.autoencoder import Autoencoder, load_weights
from daps_tokenizer.tokenizer import Tokenizer
from train.data import open_trained_data
from train.items import Items
from train.methods.base import TrainedModel

EVALUATION_BATCH = 100


class Measured(NamedTuple):
    """Each metric (items,) by its name, and the sampled codes (items · N,), none where the latent is continuous."""

    items: dict[str, np.ndarray]
    codes: np.ndarray


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
    measured = measure_items(method, items, limit=limit, seed=seed)
    means = {name: float(values.mean(dtype=np.float64)) for name, values in measured.items.items()}
    usage = code_usage(measured.codes, method.model.config.vocab_size)
    count = len(next(iter(measured.items.values())))
    return means | {name: float(value) for name, value in usage.items()} | {"items": float(count)}


@torch.no_grad()
def measure_items(method: TrainedModel, items: Items, *, limit: int | None = None, seed: int = 0) -> Measured:
    """What :func:`evaluate` takes the means of, item by item; arguments as there."""
    was_training = method.training
    method.eval()
    model = method.model
    generator = torch.Generator().manual_seed(seed)
    values: dict[str, list[np.ndarray]] = {}
    sampled_codes: list[np.ndarray] = []
    count = len(items) if limit is None else min(limit, len(items))
    chosen = np.arange(count) * len(items) // count
    for start in range(0, count, EVALUATION_BATCH):
        chunk = chosen[start : start + EVALUATION_BATCH]
        inputs = torch.from_numpy(items.read(chunk, seed=(seed,)))
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
    codes_drawn = np.concatenate([np.empty((0, 1), np.int64), *sampled_codes], axis=None)
    return Measured({name: np.concatenate(parts) for name, parts in values.items()}, codes_drawn)


def _array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.cpu().numpy()
    return array


def open_checkpoint(checkpoint: Path, data: Path | None) -> tuple[Autoencoder, dict[str, Any], Items]:
    """The model of a checkpoint, the record of its training, and the test items that it was not trained on.

    Raises:
        ModelFileError: the folder is no checkpoint.
    """
    config_file, record_file = checkpoint / "config.json", checkpoint / "training.json"
    if not config_file.is_file() or not record_file.is_file():
        raise ModelFileError(f"{checkpoint}: no config.json and training.json; expected a checkpoint folder")
    record: dict[str, Any] = json.loads(record_file.read_text(encoding="utf-8"))
    model = Autoencoder(TokenizerConfig.from_file(config_file))
    load_weights(model, checkpoint / "model.safetensors")
    return model, record, open_trained_data(record["experiment"], model.config, data).test


@dataclass(frozen=True)
class TestData:
    """Test items as what :mod:`daps_tokenizer.evaluation` measures."""

    items: Items
    description: str
    fit: str = "none"
    labels: None = None
    classes: None = None

    def __len__(self) -> int:
        return len(self.items)

    def entries(self) -> Iterable[tuple[str, int]]:
        """Their numbers."""
        return ((str(number), -1) for number in range(len(self)))

    def read(self, indices: np.ndarray) -> np.ndarray:
        """See :meth:`daps_tokenizer.data.datasets.Data.read`."""
        return self.items.read(indices, seed=(0,))


def evaluate_checkpoint(checkpoint: Path, data: Path | None = None, *, seed: int = 0) -> dict[str, Any]:
    """Evaluate a checkpoint on the whole test set, as ``daps-tokenize evaluate`` evaluates the model that is exported
    from it, and record the result in ``training.json``.

    Returns:
        Of ``greedy`` codes, and of ``sampled`` ones where the model has probabilities, the mean of each metric of
        :func:`daps_tokenizer.evaluation.evaluate.measure`, as ``greedy_log_p``; ``entropy`` of q in nats and code
        usage, both of the samples; ``items``, ``dataset``, ``seed`` and ``date``.

    Raises:
        ModelFileError: the folder is no checkpoint.
    """
    model, record, test = open_checkpoint(checkpoint, data)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    backend = TorchBackend(model.to(device).eval(), device=device, dtype=torch.float32)
    tokenizer = Tokenizer(ModelFolder(checkpoint, model.config), backend)
    measured = evaluate_tokenizer(tokenizer, TestData(test, str(checkpoint)), ways_to_encode(tokenizer), seed=seed)
    found: dict[str, Any] = {
        f"{way}_{metric}": float(values.mean(dtype=np.float64))
        for way, result in measured.items()
        for metric, values in result.items.items()
    }
    if "sampled" in measured:
        found["entropy"] = -found["sampled_log_q"]
    usage = code_usage(measured.get("sampled", measured["greedy"]).codes, model.config.vocab_size)
    found |= {name: float(value) for name, value in usage.items()}
    found |= {
        "items": float(len(test)),
        "dataset": f"{record['experiment']['dataset']}, test set",
        "seed": seed,
        "date": datetime.date.today().isoformat(),
    }
    record["evaluation"] = found
    write_bytes_atomically(checkpoint / "training.json", (json.dumps(record, indent=2) + "\n").encode())
    return found
